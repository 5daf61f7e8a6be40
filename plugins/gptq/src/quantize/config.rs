//! What the output says about itself: `quantization_config` in `config.json`, which loaders read,
//! and the same in `quantize_config.json`, for those that look there.

use std::collections::BTreeSet;

use llm_quantize_plugin_api::hf_folder::QUANTIZATION;
use llm_quantize_plugin_api::{ModelDescription, PlanRequest};
use serde_json::{Map, Value, json};

use super::layers::{Choice, kind_of};
use super::options::{Method, Wishes};
use crate::FORMAT;

/// Name of the file with the quantization alone.
pub const QUANTIZE_CONFIG: &str = "quantize_config.json";

/// The source's `config.json` with this quantization in place of any other.
#[must_use]
pub fn with_quantization(model: &ModelDescription, quantization: Value) -> Value {
    let mut config = model.config.clone();
    if let Some(fields) = config.as_object_mut() {
        fields.shift_remove(QUANTIZATION);
        fields.insert(QUANTIZATION.into(), quantization);
    }
    config
}

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
        fields.insert("dynamic".into(), exceptions(choice));
        fields.insert(
            "modules_in_block_to_quantize".into(),
            json!([quantized(choice)]),
        );
    }
    fields
}

/// Who made it, and how.
fn meta(wishes: &Wishes, request: &PlanRequest) -> Value {
    let generator = match request.generator.split_once(' ') {
        Some((name, version)) => format!("{name}:{version}"),
        None => request.generator.clone(),
    };
    let mut meta = json!({"quantizer": [generator]});
    let method = match wishes.method {
        Method::Gptq => "gptq",
        Method::RoundToNearest => "rtn",
    };
    meta["method"] = json!(method);
    if let (Method::Gptq, Some(calibration)) = (wishes.method, &request.calibration) {
        meta["calibration"] = json!({
            "dataset": calibration.dataset,
            "samples": calibration.samples,
            "length": calibration.length,
        });
    }
    meta
}

/// Kinds of layers that are quantized in some block and kept in another.
fn mixed_kinds(choice: &Choice) -> BTreeSet<&str> {
    let kept: BTreeSet<&str> = choice
        .kept
        .iter()
        .map(|kept| kind_of(&kept.module))
        .collect();
    let quantized = choice.sites.iter().flat_map(|site| &site.layers);
    let kinds = quantized.map(|layer| kind_of(&layer.module));
    kinds.filter(|kind| kept.contains(kind)).collect()
}

/// The layers that stay, as GPTQModel and vLLM read it: patterns that match from a name's start.
fn exceptions(choice: &Choice) -> Value {
    let mixed = mixed_kinds(choice);
    let mut rules = Map::new();
    for kept in &choice.kept {
        let kind = kind_of(&kept.module);
        let numbered = kept
            .module
            .strip_suffix(kind)
            .filter(|_| !mixed.contains(kind));
        let numbers = numbered.and_then(|start| start.rsplit_once("layers."));
        let pattern = match numbers {
            Some((start, _)) => format!("{}layers\\.\\d+\\.{}", escaped(start), escaped(kind)),
            None => escaped(&kept.module),
        };
        rules.insert(format!("-:^{pattern}$"), json!({}));
    }
    Value::Object(rules)
}

/// A pattern that matches this text only.
fn escaped(text: &str) -> String {
    let mut pattern = String::new();
    for letter in text.chars() {
        if !letter.is_ascii_alphanumeric() && letter != '_' {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// The layers that are quantized, as transformers reads it: ends of names.
fn quantized(choice: &Choice) -> Vec<&str> {
    let mixed = mixed_kinds(choice);
    let mut names = Vec::new();
    for layer in choice.sites.iter().flat_map(|site| &site.layers) {
        let kind = kind_of(&layer.module);
        let name = match mixed.contains(kind) {
            true => &layer.module,
            false => kind,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Shape;
    use crate::levels::Level;
    use crate::quantize::layers::{Kept, Layer, SiteLayers};
    use llm_quantize_plugin_api::CalibrationText;

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
                norm: None,
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

    #[test]
    fn the_rest_of_the_configuration_stays() {
        let text = r#"{"rope_theta": 1e5, "quantization_config": {"quant_method": "x"}, "a": [1]}"#;
        let model = ModelDescription {
            config: serde_json::from_str(text).unwrap(),
            ..ModelDescription::default()
        };
        let config = with_quantization(&model, json!({"bits": 4}));
        assert_eq!(
            config.to_string(),
            r#"{"rope_theta":100000.0,"a":[1],"quantization_config":{"bits":4}}"#
        );
    }
}
