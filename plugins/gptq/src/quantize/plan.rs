//! From a model to a plan: which tensors, where they lie, and the work.

use std::collections::{HashMap, HashSet};

use llm_quantize_plugin_api::hf_folder::{
    CONFIG, FolderBuilder, NewTensor, copy_unit, plain_dtype,
};
use llm_quantize_plugin_api::{
    CalibrationPlan, ElementType, Error, Flow, Grain, Host, Inputs, ModelDescription, PlanRequest,
    PlannedTensor, Result, Span, Statistic, StatisticRequest, TensorInfo, Unit, UnitInput,
};

use super::config::{QUANTIZE_CONFIG, quantization, with_quantization};
use super::job::{GptqJob, Role, SiteWork};
use super::layers::{Choice, Layer, SiteLayers, choose};
use super::loaders;
use super::options::{Method, Wishes};
use crate::FORMAT;
use crate::levels::{Level, type_name};
use crate::solver::scratch_bytes;

/// Plans a model at a level.
///
/// # Errors
/// If the model cannot be expressed so, layers do not fit, it is quantized already, or there is no
/// calibration where one is needed.
pub fn plan(
    host: Host,
    inputs: &dyn Inputs,
    level: &Level,
    wishes: &Wishes,
    request: &PlanRequest,
) -> Result<GptqJob> {
    let model = inputs.model();
    check_source(model, wishes, request)?;
    let choice = choose(model, wishes)?;
    if !wishes.allow_requantize {
        refuse_requantizing(model, &choice)?;
    }
    let folder = request.output_name.clone();
    let folder = folder.unwrap_or_else(|| format!("{}-{FORMAT}-{}", model.name, level.name));
    let mut builder = FolderBuilder::new(level.name, folder);
    let tensors = output_tensors(model, &choice);
    let new: Vec<NewTensor> = tensors.iter().flat_map(OutputTensor::stored).collect();
    let mut spans = builder.weights(&new, request)?.into_iter();
    let mut planner = Planner {
        model,
        wishes,
        builder,
        places: HashMap::new(),
        folds: choice.sites.iter().filter_map(|site| site.norm).collect(),
        norms: HashMap::new(),
        roles: Vec::new(),
    };
    for tensor in &tensors {
        let count = tensor.stored().len();
        let spans: Vec<Span> = spans.by_ref().take(count).collect();
        planner.tensor(tensor, spans)?;
    }
    planner.sites(&choice.sites)?;
    let Planner {
        mut builder, roles, ..
    } = planner;
    let quantization = quantization(wishes, &choice, request);
    builder.json_file(QUANTIZE_CONFIG, &quantization)?;
    builder.json_file(CONFIG, &with_quantization(model, quantization))?;
    builder.copies(inputs)?;
    let plan = builder.plan_mut();
    plan.warnings = loaders::warnings(wishes);
    plan.warnings.extend(kept_warning(&choice));
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

fn check_source(model: &ModelDescription, wishes: &Wishes, request: &PlanRequest) -> Result<()> {
    let unconfigured = model
        .config
        .as_object()
        .is_none_or(serde_json::Map::is_empty);
    if model.format == FORMAT && unconfigured {
        return Err(Error::unsupported("the model is a GPTQ folder already")
            .suggest("start from the original model"));
    }
    if wishes.method == Method::Gptq && request.calibration.is_none() {
        return Err(
            Error::invalid_request("GPTQ needs a calibration text").suggest(
                "give one with --calibration-data, or round to the nearest with --set method=rtn",
            ),
        );
    }
    Ok(())
}

/// A layer that is quantized already loses twice.
fn refuse_requantizing(model: &ModelDescription, choice: &Choice) -> Result<()> {
    let layers = choice.sites.iter().flat_map(|site| &site.layers);
    let mut tensors = layers.filter_map(|layer| model.tensors.get(layer.tensor));
    let twice = tensors.find(|tensor| ElementType::from_dtype(&tensor.dtype).is_none());
    let Some(tensor) = twice else { return Ok(()) };
    Err(Error::invalid_request(format!(
        "the tensor \"{}\" is quantized already ({}); quantizing it again costs quality",
        tensor.name, tensor.dtype
    ))
    .suggest("start from the original model, or accept the loss with --set allow-requantize=true"))
}

/// The tokens of a calibration, if all of its samples are full.
fn calibration_tokens(request: &PlanRequest) -> u64 {
    let text = request.calibration.as_ref();
    text.map_or(0, |text| u64::from(text.samples) * u64::from(text.length))
}

fn kept_warning(choice: &Choice) -> Option<String> {
    let first = choice.kept.first()?;
    Some(format!(
        "{} layers stay as they are (e.g. {}: {}); --dry-run lists them",
        choice.kept.len(),
        first.module,
        first.reason
    ))
}

/// A tensor of the model, and what becomes of it.
struct OutputTensor<'a> {
    /// Place in the model.
    tensor: usize,
    info: &'a TensorInfo,
    /// As what it is quantized.
    layer: Option<&'a Layer>,
    /// Its type if it stays.
    element: ElementType,
    /// Why it stays although it could be quantized.
    note: Option<&'a str>,
}

impl OutputTensor<'_> {
    fn stored(&self) -> Vec<NewTensor> {
        match self.layer {
            Some(layer) => layer.shape.tensors(&layer.module).to_vec(),
            None => vec![NewTensor::new(
                self.info.name.as_str(),
                dtype(self.element),
                &self.info.shape,
            )],
        }
    }
}

fn dtype(element: ElementType) -> &'static str {
    match element {
        ElementType::F32 => "F32",
        ElementType::F16 => "F16",
        ElementType::BF16 | ElementType::Raw => "BF16",
    }
}

/// All tensors in the model's order.
fn output_tensors<'a>(model: &'a ModelDescription, choice: &'a Choice) -> Vec<OutputTensor<'a>> {
    let layers = choice.sites.iter().flat_map(|site| &site.layers);
    let layers: HashMap<usize, &Layer> = layers.map(|layer| (layer.tensor, layer)).collect();
    let kept = choice.kept.iter().map(|kept| (kept.tensor, &*kept.reason));
    let notes: HashMap<usize, &str> = kept.collect();
    let tensors = model.tensors.iter().enumerate();
    tensors
        .map(|(tensor, info)| OutputTensor {
            tensor,
            info,
            layer: layers.get(&tensor).copied(),
            element: plain_dtype(model, info),
            note: notes.get(&tensor).copied(),
        })
        .collect()
}

struct Planner<'a> {
    model: &'a ModelDescription,
    wishes: &'a Wishes,
    builder: FolderBuilder,
    /// Where the `qweight`, `qzeros` and `scales` of a weight lie.
    places: HashMap<usize, [Span; 3]>,
    /// Norms that belong to a site's unit.
    folds: HashSet<usize>,
    /// Where those lie.
    norms: HashMap<usize, Span>,
    roles: Vec<Role>,
}

impl Planner<'_> {
    /// Plans a tensor: its unit if it stays, else its places and what is known of it now.
    fn tensor(&mut self, tensor: &OutputTensor<'_>, spans: Vec<Span>) -> Result<()> {
        let misplaced = || Error::internal("a tensor without a place");
        let bytes = spans.iter().map(|span| span.len).sum();
        match (tensor.layer, &spans[..]) {
            (Some(layer), &[qweight, qzeros, scales, g_idx]) => {
                self.places.insert(tensor.tensor, [qweight, qzeros, scales]);
                let groups = layer.shape.trivial_groups();
                self.builder.literal(g_idx.file, g_idx.offset, groups);
            }
            (None, &[span]) if self.folds.contains(&tensor.tensor) => {
                self.norms.insert(tensor.tensor, span);
            }
            (None, &[span]) => {
                let unit = copy_unit(self.model, tensor.tensor, span)?;
                self.builder.plan_mut().units.push(unit);
                self.roles.push(Role::Copy(tensor.element));
            }
            _ => return Err(misplaced()),
        }
        self.builder.plan_mut().tensors.push(PlannedTensor {
            name: tensor.info.name.clone(),
            dtype: match tensor.layer {
                Some(layer) => type_name(layer.shape.bits),
                None => dtype(tensor.element).into(),
            },
            shape: tensor.info.shape.clone(),
            bytes,
            note: tensor.note.map(Into::into),
        });
        Ok(())
    }

    /// Plans the units of sites.
    fn sites(&mut self, sites: &[SiteLayers]) -> Result<()> {
        for site in sites {
            let unit = self.site(site)?;
            self.builder.plan_mut().units.push(unit);
            self.roles.push(Role::Site(SiteWork {
                layers: site.layers.clone(),
                has_norm: site.norm.is_some(),
            }));
        }
        Ok(())
    }

    fn site(&self, site: &SiteLayers) -> Result<Unit> {
        let mut unit = Unit {
            label: label(&site.layers),
            layer: site.block,
            statistics: self.statistics(site),
            ..Unit::default()
        };
        for layer in &site.layers {
            let places = self.places.get(&layer.tensor);
            let places = places.ok_or_else(|| Error::internal("a layer without a place"))?;
            unit.inputs.push(UnitInput::rows_of(layer.tensor));
            unit.outputs.extend(places);
            unit.scratch_bytes = unit.scratch_bytes.max(self.scratch(layer));
        }
        if let Some(norm) = site.norm {
            let place = self.norms.get(&norm);
            let place = place.ok_or_else(|| Error::internal("a norm without a place"))?;
            unit.inputs.push(UnitInput::rows_of(norm));
            unit.outputs.push(*place);
            // The Gram matrix of the divided inputs.
            let inputs = self.model.tensors[norm].cols();
            let gram = inputs.saturating_mul(inputs).saturating_mul(4);
            unit.scratch_bytes = unit.scratch_bytes.saturating_add(gram);
        }
        Ok(unit)
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
