//! What the output says about itself: `quantization_config` in `config.json`, which loaders read,
//! and the same in `quantize_config.json`, for those that look there.

use llm_quantize_plugin_api::PlanRequest;
use llm_quantize_plugin_api::hf_folder::quantized::{exceptions, generator};
use serde_json::{Value, json};

use super::layers::Choice;
use super::options::{Method, Wishes};
use crate::FORMAT;

/// Name of the file with the quantization alone.
pub const QUANTIZE_CONFIG: &str = "quantize_config.json";

/// The quantization, with the keys that loaders know.
#[must_use]
pub fn quantization(wishes: &Wishes, choice: &Choice, request: &PlanRequest) -> Value {
    let version = wishes.version.name();
    let mut fields = json!({
        "bits": wishes.bits,
        "group_size": wishes.group_size,
        "desc_act": false,
        "sym": wishes.symmetric,
        "lm_head": false,
        "method": FORMAT,
        "quant_method": FORMAT,
        "format": version,
        "checkpoint_format": version,
        "pack_dtype": "int32",
        "true_sequential": true,
        "static_groups": false,
        "damp_percent": wishes.damping(),
        "meta": meta(wishes, request),
    });
    if let (Some(fields), false) = (fields.as_object_mut(), choice.kept.is_empty()) {
        // GPTQModel and vLLM read the one, transformers the other: ends of names.
        fields.insert("dynamic".into(), exceptions(choice));
        fields.insert(
            "modules_in_block_to_quantize".into(),
            json!([choice.quantized_names()]),
        );
    }
    fields
}

/// Who made it, and how.
fn meta(wishes: &Wishes, request: &PlanRequest) -> Value {
    let mut meta = json!({"quantizer": [generator(request)]});
    meta["method"] = json!(wishes.method.name());
    if let (Method::Gptq, Some(calibration)) = (wishes.method, &request.calibration) {
        meta["calibration"] = json!({
            "dataset": calibration.dataset,
            "samples": calibration.samples,
            "length": calibration.length,
        });
    }
    meta
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Shape;
    use crate::levels::Level;
    use crate::quantize::layers::{Layer, SiteLayers};
    use llm_quantize_plugin_api::hf_folder::quantized::Kept;
    use llm_quantize_plugin_api::{CalibrationText, Fold};

    fn request() -> PlanRequest {
        PlanRequest {
            group_size: Some(64),
            generator: "llm-quantize 1.2.3".into(),
            calibration: Some(CalibrationText {
                dataset: "text.txt".into(),
                samples: 256,
                length: 2048,
                fingerprint: "abc".into(),
            }),
            ..PlanRequest::default()
        }
    }

    fn wishes() -> Wishes {
        Wishes::from_request(Level::find("4bit").unwrap(), &request()).unwrap()
    }

    fn choice(quantized: &[&str], kept: &[&str]) -> Choice {
        let shape = Shape {
            bits: 4,
            inputs: 64,
            outputs: 64,
            group: 64,
        };
        Choice {
            sites: vec![SiteLayers {
                fold: Fold::Nowhere,
                block: Some(0),
                layers: quantized
                    .iter()
                    .map(|module| Layer {
                        tensor: 0,
                        module: (*module).into(),
                        shape,
                    })
                    .collect(),
            }],
            kept: kept
                .iter()
                .map(|module| Kept {
                    tensor: 0,
                    module: (*module).into(),
                    inputs: 64,
                    reason: String::new(),
                })
                .collect(),
        }
    }

    #[test]
    fn the_keys_are_those_of_loaders() {
        let choice = choice(&["model.layers.0.mlp.up_proj"], &[]);
        let config = quantization(&wishes(), &choice, &request());
        let expected = json!({
            "bits": 4, "group_size": 64, "desc_act": false, "sym": true, "lm_head": false,
            "method": "gptq", "quant_method": "gptq", "format": "gptq",
            "checkpoint_format": "gptq", "pack_dtype": "int32", "true_sequential": true,
            "static_groups": false, "damp_percent": wishes().damping(),
            "meta": {
                "quantizer": ["llm-quantize:1.2.3"], "method": "gptq",
                "calibration": {"dataset": "text.txt", "samples": 256, "length": 2048},
            },
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn kinds_that_stay_everywhere_are_one_rule() {
        let choice = choice(
            &[
                "model.layers.0.mlp.down_proj",
                "model.layers.1.mlp.down_proj",
            ],
            &["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"],
        );
        let config = quantization(&wishes(), &choice, &request());
        assert_eq!(
            config["dynamic"],
            json!({r"-:^model\.layers\.\d+\.mlp\.up_proj$": {}})
        );
        assert_eq!(
            config["modules_in_block_to_quantize"],
            json!([["mlp.down_proj"]])
        );
    }

    #[test]
    fn what_stays_in_one_block_only_is_named_in_full() {
        let choice = choice(
            &["model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj"],
            &["model.layers.1.mlp.down_proj"],
        );
        let config = quantization(&wishes(), &choice, &request());
        assert_eq!(
            config["dynamic"],
            json!({r"-:^model\.layers\.1\.mlp\.down_proj$": {}})
        );
        assert_eq!(
            config["modules_in_block_to_quantize"],
            json!([["model.layers.0.mlp.down_proj", "mlp.up_proj"]])
        );
    }
}
