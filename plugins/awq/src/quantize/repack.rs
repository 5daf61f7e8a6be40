//! Taking over the groups of another format.

use std::collections::HashMap;

use llm_quantize_plugin_api::hf_folder::quantized::{self, Offer, Way, sizes_to_try};
use llm_quantize_plugin_api::regroup::{Fit, Grouped, Zeros};
use llm_quantize_plugin_api::{
    EncodeCall, EncodeReport, Error, ModelDescription, PlanRequest, Result,
};

use super::job::AwqJob;
use super::layers::{Choice, Layer};
use super::options::{GROUP_SIZES, Wishes, version};
use crate::NAME;
use crate::layout::{Shape, packed};
use crate::levels::BITS;

/// What can be said of zeros.
const ZEROS: Zeros = Zeros::Codes { lowest: 0 };

/// What is taken over, and how it is stored.
pub struct Selected {
    /// The group size.
    pub wishes: Wishes,
    /// The layers.
    pub choice: Choice,
    /// How well each is held, by the place of its weight.
    pub fits: HashMap<usize, Fit>,
}

/// Chooses the group size that holds a model's groups, as far as the request leaves it open.
///
/// # Errors
/// If too few layers are held, or an option makes no sense.
pub fn select(model: &ModelDescription, request: &PlanRequest, exact: bool) -> Result<Selected> {
    if !request.level.is_empty() {
        super::description().require_level(&request.level)?;
    }
    let ways = [Way {
        bits: BITS,
        zeros: ZEROS,
        tag: (),
    }];
    let offer = Offer {
        format: NAME,
        ways: &ways,
        group_sizes: &sizes_to_try(request.group_size, &GROUP_SIZES),
        exact,
    };
    let version = version(request);
    let found = quantized::repack(model, &offer, |_, outputs, inputs, group| Shape {
        inputs,
        outputs,
        group,
        version,
    })?;
    Ok(Selected {
        wishes: Wishes::repacking(found.group_size, request)?,
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
pub fn encode(job: &AwqJob, layer: &Layer, call: EncodeCall<'_>) -> Result<EncodeReport> {
    let named = |error: Error| Error {
        message: format!("the layer \"{}\": {}", layer.module, error.message),
        ..error
    };
    let solution = Grouped::of(call.inputs)
        .and_then(|groups| groups.arrange(BITS, layer.shape.group, ZEROS))
        .map_err(named)?;
    let [qweight, qzeros, scales] = call.outputs else {
        return Err(Error::internal("a layer has three outputs"));
    };
    let outputs = [&mut **qweight, &mut **qzeros, &mut **scales];
    packed::write(&job.host, &layer.shape, &solution, outputs)?;
    Ok(EncodeReport::default())
}
