//! Taking over the groups of another format.

use std::collections::HashMap;

use llm_quantize_plugin_api::hf_folder::quantized::{self, Offer, Way, sizes_to_try};
use llm_quantize_plugin_api::regroup::{Fit, Grouped};
use llm_quantize_plugin_api::{
    EncodeCall, EncodeReport, Error, ModelDescription, PlanRequest, Result,
};

use super::job::GptqJob;
use super::layers::{Choice, Layer};
use super::options::{Arrangement, GROUP_SIZES, Wishes, refuse_choosing};
use crate::NAME;
use crate::layout::{Shape, packed};
use crate::levels::{LEVELS, Level};

/// What is taken over, and how it is stored.
pub struct Selected {
    /// The level with so many bits.
    pub level: &'static Level,
    /// The way and the group size.
    pub wishes: Wishes,
    /// The layers.
    pub choice: Choice,
    /// How well each is held, by the place of its weight.
    pub fits: HashMap<usize, Fit>,
}

/// Chooses bits, zeros and group size that hold a model's groups, as far as the request leaves
/// them open.
///
/// # Errors
/// If too few layers are held, or an option makes no sense.
pub fn select(model: &ModelDescription, request: &PlanRequest, exact: bool) -> Result<Selected> {
    refuse_choosing(request)?;
    let levels = LEVELS
        .iter()
        .filter(|level| request.level.is_empty() || Level::find(&request.level) == Some(level));
    let arrangements = Arrangement::wanted(request);
    let ways = levels.flat_map(|level| {
        let ways = arrangements.iter().map(|arrangement| Way {
            bits: level.bits,
            zeros: arrangement.zeros(),
            tag: (level, *arrangement),
        });
        ways.collect::<Vec<_>>()
    });
    let ways: Vec<_> = ways.collect();
    let offer = Offer {
        format: NAME,
        ways: &ways,
        group_sizes: &sizes_to_try(request.group_size, &GROUP_SIZES),
        exact,
    };
    let found = quantized::repack(model, &offer, |way, outputs, inputs, group| Shape {
        bits: way.bits,
        inputs,
        outputs,
        group,
    })?;
    let (level, arrangement) = found.way.tag;
    Ok(Selected {
        level,
        wishes: Wishes::repacking(level.bits, arrangement, found.group_size, request)?,
        choice: found.choice,
        fits: found.fits,
    })
}

/// Bytes that [`encode`] allocates for a layer: codes, scales and zeros.
#[must_use]
pub fn scratch_bytes(shape: &Shape) -> u64 {
    let groups = shape.groups().saturating_mul(5);
    let row = shape.inputs.saturating_add(groups);
    row.saturating_mul(shape.outputs) as u64
}

/// Writes the groups of a layer.
///
/// # Errors
/// If they are others than what was planned with.
pub fn encode(job: &GptqJob, layer: &Layer, call: EncodeCall<'_>) -> Result<EncodeReport> {
    let Shape { bits, group, .. } = layer.shape;
    let named = |error: Error| Error {
        message: format!("the layer \"{}\": {}", layer.module, error.message),
        ..error
    };
    let arrangement = Arrangement {
        symmetric: job.wishes.symmetric,
        version: job.wishes.version,
    };
    let solution = Grouped::of(call.inputs)
        .and_then(|groups| groups.arrange(bits, group, arrangement.zeros()))
        .map_err(named)?;
    let [qweight, qzeros, scales] = call.outputs else {
        return Err(Error::internal("a layer has three outputs"));
    };
    let outputs = [&mut **qweight, &mut **qzeros, &mut **scales];
    packed::write(
        &job.host,
        &layer.shape,
        job.wishes.version,
        &solution,
        outputs,
    )?;
    Ok(EncodeReport::default())
}
