//! From a model to a plan: which tensors, where they lie, and the work.

use std::collections::{HashMap, HashSet};

use llm_quantize_plugin_api::hf_folder::quantized::{
    Places, note_routes, refuse_own_folder, with_quantization,
};
use llm_quantize_plugin_api::hf_folder::{CONFIG, FolderBuilder};
use llm_quantize_plugin_api::{
    CalibrationPlan, Error, Flow, Grain, Host, Inputs, ModelDescription, PlanRequest, Result,
    Routing, Statistic, StatisticRequest, Unit, UnitInput,
};

use super::config::{QUANTIZE_CONFIG, quantization};
use super::job::{GptqJob, Role, SiteWork};
use super::layers::{Choice, Layer, SiteLayers, choose, norm_of};
use super::options::{Method, Wishes};
use super::repack::Selected;
use super::{loaders, repack};
use crate::solver::scratch_bytes;
use crate::{FORMAT, NAME};

/// Tensors of a layer that its unit writes: all but the last one, the groups of inputs.
const PARTS: usize = 3;

/// Plans a model at the level of a request.
///
/// # Errors
/// If the model cannot be expressed so, layers do not fit, it is quantized already, or there is no
/// calibration where one is needed.
pub fn plan(host: Host, inputs: &dyn Inputs, request: &PlanRequest) -> Result<GptqJob> {
    let model = inputs.model();
    refuse_own_folder(model, FORMAT, NAME)?;
    let Selected {
        level,
        wishes,
        choice,
        fits,
    } = match request.routing {
        Routing::Quantize => select(model, request)?,
        Routing::Repack { exact } => repack::select(model, request, exact)?,
    };
    let wishes = &wishes;
    let folder = request.output_name.clone();
    let folder = folder.unwrap_or_else(|| format!("{}-{FORMAT}-{}", model.name, level.name));
    let mut builder = FolderBuilder::new(level.name, folder);
    let norms = choice.sites.iter();
    let norms = norms.filter_map(|site| norm_of(model, site, wishes));
    let norms: HashSet<usize> = norms.collect();
    let places = builder.quantized_weights(model, &choice, &norms, request)?;
    let roles = units(model, wishes, &choice, &places, &mut builder)?;
    let quantization = quantization(wishes, &choice, request);
    builder.json_file(QUANTIZE_CONFIG, &quantization)?;
    builder.json_file(CONFIG, &with_quantization(model, quantization))?;
    builder.copies(inputs)?;
    let plan = builder.plan_mut();
    note_routes(plan, model, &choice, &fits);
    plan.warnings = loaders::warnings(wishes);
    plan.warnings.extend(choice.kept_warning());
    plan.calibration = (wishes.method == Method::Gptq).then_some(CalibrationPlan {
        grain: Grain::Stage,
        flow: Flow::Quantized,
    });
    let (plan, blobs) = builder.finish();
    Ok(GptqJob {
        host,
        plan,
        blobs,
        roles,
        wishes: wishes.clone(),
        tokens: calibration_tokens(request),
    })
}

/// What is quantized, and how.
fn select(model: &ModelDescription, request: &PlanRequest) -> Result<Selected> {
    let level = super::level(request)?;
    let wishes = Wishes::from_request(level, request)?;
    check_calibration(&wishes, request)?;
    let choice = choose(model, &wishes)?;
    choice.refuse_requantizing(model, request)?;
    Ok(Selected {
        level,
        wishes,
        choice,
        fits: HashMap::new(),
    })
}

fn check_calibration(wishes: &Wishes, request: &PlanRequest) -> Result<()> {
    if wishes.method == Method::Gptq && request.calibration.is_none() {
        return Err(
            Error::invalid_request("GPTQ needs a calibration text").suggest(
                "give one with --calibration-data, or round to the nearest with --set method=rtn",
            ),
        );
    }
    Ok(())
}

/// The tokens of a calibration, if all of its samples are full.
fn calibration_tokens(request: &PlanRequest) -> u64 {
    let text = request.calibration.as_ref();
    text.map_or(0, |text| u64::from(text.samples) * u64::from(text.length))
}

/// Plans what is left: the groups of inputs, which are known now, and the units of sites.
fn units(
    model: &ModelDescription,
    wishes: &Wishes,
    choice: &Choice,
    places: &Places,
    builder: &mut FolderBuilder,
) -> Result<Vec<Role>> {
    let copies = places.copies.iter().copied();
    let mut roles: Vec<Role> = copies.map(Role::Copy).collect();
    let planner = Planner {
        model,
        wishes,
        places,
    };
    for site in &choice.sites {
        for layer in &site.layers {
            if let Some(g_idx) = places.layer(layer)?.get(PARTS) {
                builder.literal(g_idx.file, g_idx.offset, layer.shape.trivial_groups());
            }
        }
        if wishes.method == Method::Repack {
            for layer in &site.layers {
                builder
                    .plan_mut()
                    .units
                    .push(planner.repacked(site, layer)?);
                roles.push(Role::Repack(layer.clone()));
            }
            continue;
        }
        builder.plan_mut().units.push(planner.site(site)?);
        roles.push(Role::Site(SiteWork {
            layers: site.layers.clone(),
            has_norm: norm_of(model, site, wishes).is_some(),
        }));
    }
    Ok(roles)
}

struct Planner<'a> {
    model: &'a ModelDescription,
    wishes: &'a Wishes,
    places: &'a Places,
}

impl Planner<'_> {
    fn site(&self, site: &SiteLayers) -> Result<Unit> {
        let mut unit = Unit {
            label: label(&site.layers),
            layer: site.block,
            statistics: self.statistics(site),
            ..Unit::default()
        };
        for layer in &site.layers {
            unit.inputs.push(UnitInput::rows_of(layer.tensor));
            unit.outputs
                .extend(self.places.layer(layer)?.iter().take(PARTS));
            unit.scratch_bytes = unit.scratch_bytes.max(self.scratch(layer));
        }
        if let Some(norm) = norm_of(self.model, site, self.wishes) {
            unit.inputs.push(UnitInput::rows_of(norm));
            unit.outputs.push(self.places.held(norm)?);
            // The Gram matrix of the divided inputs.
            let inputs = self.model.tensors[norm].cols();
            let gram = inputs.saturating_mul(inputs).saturating_mul(4);
            unit.scratch_bytes = unit.scratch_bytes.saturating_add(gram);
        }
        Ok(unit)
    }

    /// A layer whose groups are taken over.
    fn repacked(&self, site: &SiteLayers, layer: &Layer) -> Result<Unit> {
        let outputs = self.places.layer(layer)?.iter().take(PARTS);
        Ok(Unit {
            label: layer.module.clone(),
            layer: site.block,
            inputs: vec![UnitInput::groups_of(layer.tensor)],
            outputs: outputs.copied().collect(),
            scratch_bytes: repack::scratch_bytes(&layer.shape),
            ..Unit::default()
        })
    }

    fn statistics(&self, site: &SiteLayers) -> Vec<StatisticRequest> {
        let weight = site.layers.first().map(|layer| layer.tensor);
        let weight = weight.and_then(|tensor| self.model.tensors.get(tensor));
        let Some(weight) = weight.filter(|_| self.wishes.method == Method::Gptq) else {
            return Vec::new();
        };
        let request = |statistic| StatisticRequest {
            site: weight.name.clone(),
            statistic,
        };
        vec![request(Statistic::Gram), request(Statistic::TokenCount)]
    }

    /// Memory for a layer: its weight in single precision, and what the solver takes.
    fn scratch(&self, layer: &Layer) -> u64 {
        let [outputs, inputs] = [layer.shape.outputs, layer.shape.inputs].map(|size| size as u64);
        let weight = outputs.saturating_mul(inputs).saturating_mul(4);
        let settings = self.wishes.settings(layer.shape.inputs);
        weight.saturating_add(scratch_bytes(outputs, inputs, &settings))
    }
}

/// The first layer's name in full, of the others what differs.
fn label(layers: &[Layer]) -> String {
    let mut label = String::new();
    for layer in layers {
        if label.is_empty() {
            label.push_str(&layer.module);
        } else {
            let last = layer.module.rsplit('.').next();
            label.push_str(", ");
            label.push_str(last.unwrap_or(&layer.module));
        }
    }
    label
}

#[cfg(test)]
pub(super) mod tests;
