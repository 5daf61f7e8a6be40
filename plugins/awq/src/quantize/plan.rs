//! From a model to a plan: which tensors, where they lie, and the work.

use std::collections::HashSet;

use llm_quantize_plugin_api::hf_folder::quantized::{
    Places, kind_of, refuse_own_folder, with_quantization,
};
use llm_quantize_plugin_api::hf_folder::{CONFIG, FolderBuilder};
use llm_quantize_plugin_api::{Host, Inputs, PlanRequest, Result, Unit, UnitInput};

use super::config::quantization;
use super::job::{AwqJob, BlockWork, Role};
use super::layers::{Choice, Layer, SiteLayers, choose};
use super::loaders;
use super::options::Wishes;
use crate::levels::LEVEL;
use crate::{FORMAT, NAME};

/// Plans a model.
///
/// # Errors
/// If the model cannot be expressed so, layers do not fit, or it is quantized already.
pub fn plan(
    host: Host,
    inputs: &dyn Inputs,
    wishes: &Wishes,
    request: &PlanRequest,
) -> Result<AwqJob> {
    let model = inputs.model();
    refuse_own_folder(model, FORMAT, NAME)?;
    let choice = choose(model, wishes)?;
    choice.refuse_requantizing(model, request)?;
    let folder = request.output_name.clone();
    let folder = folder.unwrap_or_else(|| format!("{}-{FORMAT}-{LEVEL}", model.name));
    let mut builder = FolderBuilder::new(LEVEL, folder);
    let places = builder.quantized_weights(model, &choice, &HashSet::new(), request)?;
    let roles = units(&choice, &places, &mut builder)?;
    let quantization = quantization(wishes, &choice, request);
    builder.json_file(CONFIG, &with_quantization(model, quantization))?;
    builder.copies(inputs)?;
    let plan = builder.plan_mut();
    plan.warnings = loaders::warnings(&choice);
    plan.warnings.extend(choice.kept_warning());
    let (plan, blobs) = builder.finish();
    Ok(AwqJob {
        host,
        plan,
        blobs,
        roles,
        wishes: wishes.clone(),
    })
}

/// Plans the units of blocks; returns what all units do. A unit is a whole block, as factors that
/// are folded into what comes before a layer tie its layers to each other.
fn units(choice: &Choice, places: &Places, builder: &mut FolderBuilder) -> Result<Vec<Role>> {
    let copies = places.copies.iter().copied();
    let mut roles: Vec<Role> = copies.map(Role::Copy).collect();
    for sites in choice.sites.chunk_by(|a, b| a.block == b.block) {
        let work = BlockWork {
            sites: sites.to_vec(),
        };
        builder.plan_mut().units.push(unit(&work, places)?);
        roles.push(Role::Block(work));
    }
    Ok(roles)
}

fn unit(work: &BlockWork, places: &Places) -> Result<Unit> {
    let mut unit = Unit {
        label: label(&work.sites),
        layer: work.sites.first().and_then(|site| site.block),
        ..Unit::default()
    };
    for layer in work.layers() {
        unit.inputs.push(UnitInput::rows_of(layer.tensor));
        unit.outputs.extend(places.layer(layer)?);
        unit.scratch_bytes = unit.scratch_bytes.max(scratch(layer));
    }
    Ok(unit)
}

/// The block's name: what the names of all of its layers begin with.
fn label(sites: &[SiteLayers]) -> String {
    let first = sites.iter().flat_map(|site| &site.layers).next();
    let module = first.map_or("", |layer| &*layer.module);
    let block = module.strip_suffix(kind_of(module)).unwrap_or(module);
    block.trim_end_matches('.').to_owned()
}

/// Memory for a layer: its weight in single precision, codes, and groups.
fn scratch(layer: &Layer) -> u64 {
    let [outputs, inputs, groups] = [
        layer.shape.outputs,
        layer.shape.inputs,
        layer.shape.groups(),
    ]
    .map(|size| size as u64);
    let row = inputs
        .saturating_mul(5)
        .saturating_add(groups.saturating_mul(5));
    outputs.saturating_mul(row)
}

#[cfg(test)]
pub(super) mod tests;
