//! What the output says about itself: `quantization_config` in `config.json`.

use llm_quantize_plugin_api::PlanRequest;
use llm_quantize_plugin_api::hf_folder::quantized::generator;
use serde_json::{Value, json};

use super::layers::Choice;
use super::options::Wishes;
use crate::FORMAT;
use crate::layout::Version;
use crate::levels::BITS;

/// The quantization, with the keys that loaders know.
///
/// Layers that stay are named so that all loaders understand it: vLLM and AutoAWQ look for these
/// texts anywhere in a layer's name, transformers at its end (or for whole names).
#[must_use]
pub fn quantization(wishes: &Wishes, choice: &Choice, request: &PlanRequest) -> Value {
    let kept = choice.kept_names();
    json!({
        "quant_method": FORMAT,
        "zero_point": true,
        "group_size": wishes.group_size,
        "bits": BITS,
        "version": Version::Gemm.name(),
        "modules_to_not_convert": (!kept.is_empty()).then_some(kept),
        "meta": {
            "quantizer": [generator(request)],
            "method": wishes.method.name(),
        },
    })
}
