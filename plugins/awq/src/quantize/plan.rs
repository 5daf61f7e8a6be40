//! From a model to a plan: which tensors, where they lie, and the work.

use std::collections::{HashMap, HashSet};

use llm_quantize_plugin_api::hf_folder::quantized::{
    Places, keeps_type, kind_of, note_routes, refuse_own_folder, with_quantization,
};
use llm_quantize_plugin_api::hf_folder::{CONFIG, FolderBuilder, layer_of};
use llm_quantize_plugin_api::{
    CalibrationPlan, Error, Flow, Fold, Grain, Host, Inputs, ModelDescription, PlanRequest, Result,
    Routing, Statistic, StatisticRequest, Unit, UnitInput,
};

use super::config::quantization;
use super::job::{AwqJob, BlockWork, Role, SiteWork, Target};
use super::layers::{Choice, Layer, SiteLayers, choose};
use super::options::{Method, Wishes};
use super::repack::Selected;
use super::{loaders, repack};
use crate::levels::LEVEL;
use crate::{FORMAT, NAME};

/// Plans a model.
///
/// # Errors
/// If the model cannot be expressed so, layers do not fit, or it is quantized already.
pub fn plan(host: Host, inputs: &dyn Inputs, request: &PlanRequest) -> Result<AwqJob> {
    let model = inputs.model();
    refuse_own_folder(model, FORMAT, NAME)?;
    let Selected {
        wishes,
        choice,
        fits,
    } = match request.routing {
        Routing::Quantize => select(model, request)?,
        Routing::Repack { exact } => repack::select(model, request, exact)?,
    };
    let wishes = &wishes;
    let folder = request.output_name.clone();
    let folder = folder.unwrap_or_else(|| format!("{}-{FORMAT}-{LEVEL}", model.name));
    let mut builder = FolderBuilder::new(LEVEL, folder);
    let blocks = blocks(model, &choice, wishes);
    let held: HashSet<usize> = blocks
        .iter()
        .flat_map(|block| &block.vectors)
        .copied()
        .collect();
    let places = builder.quantized_weights(model, &choice, &held, request)?;
    let copies = places.copies.iter().copied();
    let mut roles: Vec<Role> = copies.map(Role::Copy).collect();
    let repacked = choice.layers().filter(|_| wishes.method == Method::Repack);
    for layer in repacked {
        builder
            .plan_mut()
            .units
            .push(repacked_unit(model, layer, &places)?);
        roles.push(Role::Repack(layer.clone()));
    }
    for block in blocks {
        let unit = unit(model, &block, &places, wishes)?;
        builder.plan_mut().units.push(unit);
        roles.push(Role::Block(BlockWork {
            sites: block.sites,
            vectors: block.vectors.len(),
        }));
    }
    let quantization = quantization(wishes, &choice, request);
    builder.json_file(CONFIG, &with_quantization(model, quantization))?;
    builder.copies(inputs)?;
    let plan = builder.plan_mut();
    note_routes(plan, model, &choice, &fits);
    plan.warnings = loaders::warnings(&choice);
    plan.warnings.extend(choice.kept_warning());
    plan.calibration = (wishes.method == Method::Awq).then_some(CalibrationPlan {
        grain: Grain::Block,
        flow: Flow::Original,
    });
    let (plan, blobs) = builder.finish();
    Ok(AwqJob {
        host,
        plan,
        blobs,
        roles,
        wishes: wishes.clone(),
    })
}

/// What is quantized, and how.
fn select(model: &ModelDescription, request: &PlanRequest) -> Result<Selected> {
    super::description().require_level(&request.level)?;
    let wishes = Wishes::from_request(request)?;
    if wishes.method == Method::Awq && request.calibration.is_none() {
        return Err(
            Error::invalid_request("AWQ needs a calibration text").suggest(
                "give one with --calibration-data, or round to the nearest with --set method=rtn",
            ),
        );
    }
    let choice = choose(model, &wishes)?;
    choice.refuse_requantizing(model, request)?;
    Ok(Selected {
        wishes,
        choice,
        fits: HashMap::new(),
    })
}

/// A layer whose groups are taken over.
fn repacked_unit(model: &ModelDescription, layer: &Layer, places: &Places) -> Result<Unit> {
    Ok(Unit {
        label: layer.module.clone(),
        layer: layer_of(&model.tensors[layer.tensor].name),
        inputs: vec![UnitInput::groups_of(layer.tensor)],
        outputs: places.layer(layer)?.to_vec(),
        scratch_bytes: repack::scratch_bytes(&layer.shape),
        ..Unit::default()
    })
}

/// A block of the model. Its layers are one unit, as factors that are folded into what comes before
/// a layer tie them to each other.
struct Block {
    sites: Vec<SiteWork>,
    /// Norms and biases that factors are folded into, by their places in the model.
    vectors: Vec<usize>,
}

fn blocks(model: &ModelDescription, choice: &Choice, wishes: &Wishes) -> Vec<Block> {
    if wishes.method == Method::Repack {
        return Vec::new();
    }
    let blocks = choice.sites.chunk_by(|a, b| a.block == b.block);
    let folds = wishes.method == Method::Awq;
    blocks
        .map(|sites| Block::new(model, sites, folds))
        .collect()
}

impl Block {
    fn new(model: &ModelDescription, sites: &[SiteLayers], folds: bool) -> Self {
        let mut vectors = Vec::new();
        let works = sites.iter().map(|site| SiteWork {
            layers: site.layers.clone(),
            target: match folds && divisible(model, site.fold) {
                true => target(site.fold, sites, &mut vectors),
                false => None,
            },
        });
        Self {
            sites: works.collect(),
            vectors,
        }
    }
}

/// Whether the vector that a fold changes can be changed, if there is one.
fn divisible(model: &ModelDescription, fold: Fold) -> bool {
    let vector = match fold {
        Fold::Nowhere => None,
        Fold::Norm { weight } => Some(weight),
        Fold::Rows { bias, .. } | Fold::Values { bias, .. } => bias,
    };
    vector.is_none_or(|tensor| keeps_type(model, tensor))
}

/// What a site's factors are folded into. Layers that are not quantized stay as they are.
fn target(fold: Fold, sites: &[SiteLayers], vectors: &mut Vec<usize>) -> Option<Target> {
    let mut vector = |tensor| {
        vectors.push(tensor);
        vectors.len() - 1
    };
    let layer = |weight| {
        let mut layers = sites.iter().flat_map(|site| &site.layers);
        layers.position(|layer| layer.tensor == weight)
    };
    match fold {
        Fold::Nowhere => None,
        Fold::Norm { weight } => Some(Target::Norm {
            vector: vector(weight),
        }),
        Fold::Rows { weight, bias } => Some(Target::Rows {
            layer: layer(weight)?,
            bias: bias.map(vector),
            heads: None,
        }),
        Fold::Values {
            weight,
            bias,
            head_dim,
            shared_by,
        } => Some(Target::Rows {
            layer: layer(weight)?,
            bias: bias.map(vector),
            heads: Some((head_dim, shared_by)),
        }),
    }
}

fn unit(model: &ModelDescription, block: &Block, places: &Places, wishes: &Wishes) -> Result<Unit> {
    let layers: Vec<&Layer> = block.sites.iter().flat_map(|site| &site.layers).collect();
    let mut unit = Unit {
        label: label(&layers),
        layer: layers
            .first()
            .and_then(|layer| layer_of(&model.tensors[layer.tensor].name)),
        ..Unit::default()
    };
    for layer in &layers {
        unit.inputs.push(UnitInput::rows_of(layer.tensor));
        unit.outputs.extend(places.layer(layer)?);
    }
    for &vector in &block.vectors {
        unit.inputs.push(UnitInput::rows_of(vector));
        unit.outputs.push(places.held(vector)?);
    }
    for site in &block.sites {
        unit.scratch_bytes = unit.scratch_bytes.max(scratch(site));
        let first = site.layers.first().filter(|_| wishes.method == Method::Awq);
        if let Some(layer) = first {
            let request = |statistic| StatisticRequest {
                site: model.tensors[layer.tensor].name.clone(),
                statistic,
            };
            unit.statistics
                .extend([Statistic::Gram, Statistic::MeanMagnitude].map(request));
        }
    }
    Ok(unit)
}

/// The block's name: what the names of all of its layers begin with.
fn label(layers: &[&Layer]) -> String {
    let module = layers.first().map_or("", |layer| &*layer.module);
    let block = module.strip_suffix(kind_of(module)).unwrap_or(module);
    block.trim_end_matches('.').to_owned()
}

/// Memory for a site: the weights of its layers in single precision, and of the largest of them
/// another two, codes, and groups.
fn scratch(site: &SiteWork) -> u64 {
    let mut all = 0u64;
    let mut largest = 0u64;
    for layer in &site.layers {
        let [outputs, inputs, groups] = [
            layer.shape.outputs,
            layer.shape.inputs,
            layer.shape.groups(),
        ]
        .map(|size| size as u64);
        let numbers = outputs.saturating_mul(inputs);
        let codes = outputs.saturating_mul(inputs.saturating_add(groups.saturating_mul(9)));
        all = all.saturating_add(numbers.saturating_mul(4));
        largest = largest.max(numbers.saturating_mul(8).saturating_add(codes));
    }
    all.saturating_add(largest)
}

#[cfg(test)]
pub(super) mod tests;
