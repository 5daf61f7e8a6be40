//! What a folder says about itself, as far as formats agree.

use serde_json::Value;

use crate::hf_config::Config;
use crate::hf_folder::QUANTIZATION;
use crate::interface::{Error, ModelDescription, PlanRequest, Result};

/// The longest name of a program that is shown.
const MAX_NAME: usize = 80;

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

/// The program that makes an output, as others write it: `name:version`.
#[must_use]
pub fn generator(request: &PlanRequest) -> String {
    match request.generator.split_once(' ') {
        Some((name, version)) => format!("{name}:{version}"),
        None => request.generator.clone(),
    }
}

/// The program that made a folder, if it says so.
#[must_use]
pub fn quantizer(section: &Config<'_>) -> Option<String> {
    let quantizer = section.value("meta").and_then(|meta| meta.get("quantizer"));
    let name = quantizer.and_then(|quantizer| match quantizer {
        Value::Array(names) => names.first().and_then(Value::as_str),
        other => other.as_str(),
    });
    let provider = || section.value("provider").and_then(Value::as_str);
    name.or_else(provider)
        .map(|name| name.chars().take(MAX_NAME).collect())
}

/// The group size that a section has under one of these keys; `None` for a whole row.
///
/// # Errors
/// If there is none, or it is no possible size.
pub fn group_size(section: &Config<'_>, keys: &[&'static str]) -> Result<Option<usize>> {
    let size = keys.iter().find_map(|key| section.value(key));
    match size.and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        Some(size @ 1..=0x7FFF_FFFF) => Ok(usize::try_from(size).ok()),
        _ => Err(Error::corrupt(format!(
            "{QUANTIZATION}: \"{}\" is {}, expected a size, or -1 for a whole row",
            keys.first().copied().unwrap_or_default(),
            size.map_or_else(|| "missing".into(), Value::to_string)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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

    #[test]
    fn programs_are_named() {
        let request = |generator: &str| PlanRequest {
            generator: generator.into(),
            ..PlanRequest::default()
        };
        assert_eq!(
            generator(&request("llm-quantize 1.2.3")),
            "llm-quantize:1.2.3"
        );
        assert_eq!(generator(&request("x")), "x");
        for (section, name) in [
            (json!({"meta": {"quantizer": ["a:1", "b"]}}), Some("a:1")),
            (json!({"meta": {"quantizer": "a:2"}}), Some("a:2")),
            (json!({"provider": "auto-round"}), Some("auto-round")),
            (json!({}), None),
        ] {
            let found = quantizer(&Config::new(&section, QUANTIZATION));
            assert_eq!(found.as_deref(), name);
        }
    }

    #[test]
    fn group_sizes_are_possible_ones() {
        let of = |section: Value| {
            group_size(
                &Config::new(&section, QUANTIZATION),
                &["group_size", "q_group_size"],
            )
        };
        assert_eq!(of(json!({"q_group_size": 64})), Ok(Some(64)));
        assert_eq!(of(json!({"group_size": -1})), Ok(None));
        for bad in [
            json!({}),
            json!({"group_size": 0}),
            json!({"group_size": "64"}),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.message.contains("\"group_size\" is"), "{error}");
        }
    }
}
