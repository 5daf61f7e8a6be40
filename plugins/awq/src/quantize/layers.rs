//! Which layers are quantized.

use llm_quantize_plugin_api::hf_folder::quantized::{self, Selection};
use llm_quantize_plugin_api::{ModelDescription, Result};

use super::options::{GROUP_SIZES, Wishes};
use crate::NAME;
use crate::layout::Shape;
use crate::levels::BITS;

/// A linear layer that is quantized.
pub type Layer = quantized::Layer<Shape>;
/// The layers of a site: all of them quantized.
pub type SiteLayers = quantized::SiteLayers<Shape>;
/// What happens to the linear layers of a model's blocks.
pub type Choice = quantized::Choice<Shape>;

/// Chooses the layers of a model that are quantized ([`quantized::choose`]).
///
/// # Errors
/// If the model's linear layers are not known, or layers do not fit and that is not wanted.
pub fn choose(model: &ModelDescription, wishes: &Wishes) -> Result<Choice> {
    let selection = Selection {
        format: NAME,
        bits: BITS,
        group_size: wishes.group_size,
        group_sizes: &GROUP_SIZES,
        keep_unfit: wishes.keep_unfit,
    };
    quantized::choose(model, &selection, |outputs, inputs| Shape {
        inputs,
        outputs,
        group: selection.group(inputs),
        version: wishes.version,
    })
}
