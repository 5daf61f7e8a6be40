//! What the output says about itself: `quantization_config` in `config.json`.

use llm_quantize_plugin_api::PlanRequest;
use llm_quantize_plugin_api::hf_folder::quantized::{exceptions, generator};
use serde_json::{Value, json};

use super::layers::Choice;
use super::options::Wishes;
use crate::FORMAT;
use crate::levels::BITS;

/// The quantization, with the keys that loaders know.
///
/// Layers that stay are named so that all loaders understand it: vLLM and AutoAWQ look for these
/// texts anywhere in a layer's name, transformers at its end (or for whole names). GPTQModel reads
/// `dynamic` instead.
#[must_use]
pub fn quantization(wishes: &Wishes, choice: &Choice, request: &PlanRequest) -> Value {
    let kept = choice.kept_names();
    let rules = (!kept.is_empty()).then(|| exceptions(choice));
    let mut fields = json!({
        "quant_method": FORMAT,
        "zero_point": true,
        "group_size": wishes.group_size,
        "bits": BITS,
        "version": wishes.version.name(),
        "modules_to_not_convert": (!kept.is_empty()).then_some(kept),
        "meta": {
            "quantizer": [generator(request)],
            "method": wishes.method.name(),
        },
    });
    if let (Some(fields), Some(rules)) = (fields.as_object_mut(), rules) {
        fields.insert("dynamic".into(), rules);
    }
    fields
}
