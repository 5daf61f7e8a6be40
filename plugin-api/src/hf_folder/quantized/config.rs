//! What a folder says about itself, as far as formats agree.

use serde_json::{Map, Value, json};

use super::{Choice, LayerShape, kind_of};
use crate::hf_config::Config;
use crate::hf_folder::{CONFIG, QUANTIZATION, read_json};
use crate::interface::{Error, FileView, ModelDescription, PlanRequest, Result};

/// Key of a section that names the method.
const METHOD: &str = "quant_method";
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

/// The layers that stay, as GPTQModel reads it of all formats and vLLM of GPTQ (`dynamic`): patterns
/// that match from a name's start.
#[must_use]
pub fn exceptions<S: LayerShape>(choice: &Choice<S>) -> Value {
    let mixed = choice.mixed_kinds();
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

/// The object that describes a folder's quantization by this method: `quantization_config` in
/// `config.json`, or if that has none, one of the files that hold it alone (`alone`). Those may
/// name no method; `is_ours` then tells.
///
/// # Errors
/// If a file is no JSON object.
pub fn section(
    files: &[FileView<'_>],
    method: &str,
    alone: &[&str],
    is_ours: impl Fn(&Value) -> bool,
) -> Result<Option<Value>> {
    let is_named = |section: &Value| {
        let found = section.get(METHOD).and_then(Value::as_str);
        found.is_some_and(|found| found.eq_ignore_ascii_case(method))
    };
    let config = read_json(files, CONFIG)?;
    let section = config.and_then(|mut config| config.get_mut(QUANTIZATION).map(Value::take));
    if let Some(section) = section.filter(|section| !section.is_null()) {
        return Ok(Some(section).filter(is_named));
    }
    for name in alone {
        let section = read_json(files, name)?;
        let ours = |section: &Value| match section.get(METHOD) {
            Some(_) => is_named(section),
            None => is_ours(section),
        };
        if let Some(section) = section.filter(ours) {
            return Ok(Some(section));
        }
    }
    Ok(None)
}

/// Checks that codes are packed into words of 32 bits, as far as a section says.
///
/// # Errors
/// If they are in others.
pub fn check_words(section: &Config<'_>, format: &str) -> Result<()> {
    let packing = section.text("pack_dtype")?.unwrap_or("int32");
    match packing.trim_start_matches("torch.") {
        "int32" => Ok(()),
        _ => Err(unsupported(
            format,
            &format!("words of type {packing}"),
            "int32",
        )),
    }
}

/// An error about a folder that says of itself what is not read here.
#[must_use]
pub fn unsupported(format: &str, what: &str, known: &str) -> Error {
    Error::unsupported(format!(
        "this {format} folder has {what}; only {known} can be read"
    ))
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
    let key = keys.first().copied().unwrap_or_default();
    let size = keys.iter().find_map(|key| section.value(key));
    match size.and_then(Value::as_i64) {
        Some(-1) => Ok(None),
        Some(size @ 1..=0x7FFF_FFFF) => Ok(usize::try_from(size).ok()),
        _ => Err(Error::corrupt(format!(
            "{QUANTIZATION}: \"{key}\" is {}, expected a size, or -1 for a whole row",
            size.map_or_else(|| "missing".into(), Value::to_string)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::layers::tests::selected;
    use super::*;
    use crate::interface::Inputs;
    use crate::testing::TestModel;

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
    fn kinds_that_stay_everywhere_are_one_rule() {
        let mut model = TestModel::narrow_llama(192).model().clone();
        let choice = selected(&model, 128, true).unwrap();
        let everywhere = json!({r"-:^model\.layers\.\d+\.mlp\.down_proj$": {}});
        assert_eq!(exceptions(&choice), everywhere);
        let first = model.tensor_index("model.layers.0.mlp.down_proj.weight");
        model.tensors[first.unwrap()].shape[1] = 256;
        let choice = selected(&model, 128, true).unwrap();
        let one = json!({r"-:^model\.layers\.1\.mlp\.down_proj$": {}});
        assert_eq!(exceptions(&choice), one);
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
