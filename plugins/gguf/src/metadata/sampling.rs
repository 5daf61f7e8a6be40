//! Recommended sampling parameters, from and to `generation_config.json`.

use serde_json::{Map, Value, json};

use crate::container::{self, Metadata};

/// How a parameter is stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Number,
}

/// GGUF key, the names in `generation_config.json` in order of preference, and the type;
/// in the order that the converter writes.
const PARAMETERS: [(&str, &[&str], Kind); 12] = [
    ("general.sampling.sequence", &["sequence"], Kind::Text),
    ("general.sampling.top_k", &["top_k"], Kind::Integer),
    ("general.sampling.top_p", &["top_p"], Kind::Number),
    ("general.sampling.min_p", &["min_p"], Kind::Number),
    (
        "general.sampling.xtc_probability",
        &["xtc_probability"],
        Kind::Number,
    ),
    (
        "general.sampling.xtc_threshold",
        &["xtc_threshold"],
        Kind::Number,
    ),
    ("general.sampling.temp", &["temperature"], Kind::Number),
    (
        "general.sampling.penalty_last_n",
        &["penalty_last_n"],
        Kind::Integer,
    ),
    (
        "general.sampling.penalty_repeat",
        &["penalty_repeat", "repetition_penalty"],
        Kind::Number,
    ),
    ("general.sampling.mirostat", &["mirostat"], Kind::Integer),
    (
        "general.sampling.mirostat_tau",
        &["mirostat_tau"],
        Kind::Number,
    ),
    (
        "general.sampling.mirostat_eta",
        &["mirostat_eta"],
        Kind::Number,
    ),
];

/// Names that transformers knows; the others are llama.cpp's own.
const KNOWN_TO_TRANSFORMERS: [&str; 5] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
];

/// Writes what a `generation_config.json` recommends. As in the converter, a file that
/// is not JSON, or a value of a wrong type, recommends nothing.
pub(super) fn write(generation_config: &[u8], metadata: &mut Metadata) {
    let Ok(config) = serde_json::from_slice::<Value>(generation_config) else {
        return;
    };
    for (key, names, kind) in PARAMETERS {
        let Some(value) = names.iter().find_map(|name| config.get(name)) else {
            continue;
        };
        let value: Option<container::Value> = match kind {
            Kind::Text => value.as_str().map(Into::into),
            Kind::Integer => integer(value).map(Into::into),
            Kind::Number => value.as_f64().map(|number| (number as f32).into()),
        };
        if let Some(value) = value {
            metadata.set(key, value);
        }
    }
}

fn integer(value: &Value) -> Option<i32> {
    match value.as_i64() {
        Some(whole) => i32::try_from(whole).ok(),
        None => {
            let number = value.as_f64().filter(|number| number.fract() == 0.0)?;
            i32::try_from(number as i64).ok()
        }
    }
}

/// The recommendations of a GGUF file that transformers has a name for. Values of
/// unexpected types are left out: they are advice, not part of the model.
pub(super) fn read(metadata: &Metadata) -> Map<String, Value> {
    let mut config = Map::new();
    for (key, names, kind) in PARAMETERS {
        let known = names
            .iter()
            .find(|name| KNOWN_TO_TRANSFORMERS.contains(name));
        let Some(name) = known else {
            continue;
        };
        let value = match kind {
            Kind::Integer => metadata.get::<i32>(key).ok().flatten().map(|v| json!(v)),
            _ => {
                let number = metadata.get::<f32>(key).ok().flatten();
                number.and_then(super::shortest).map(|v| json!(v))
            }
        };
        if let Some(value) = value {
            config.insert((*name).to_owned(), value);
        }
    }
    if ["temperature", "top_k", "top_p", "min_p"]
        .iter()
        .any(|name| config.contains_key(*name))
    {
        config.insert("do_sample".to_owned(), json!(true));
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recommendations_survive_a_round_trip() {
        let config = json!({"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1,
            "eos_token_id": 3});
        let mut metadata = Metadata::new();
        write(config.to_string().as_bytes(), &mut metadata);
        assert_eq!(metadata.len(), 3);
        let back = Value::Object(read(&metadata));
        let expected = json!({"top_k": 20, "temperature": 0.6, "repetition_penalty": 1.1,
            "do_sample": true});
        assert_eq!(back, expected);
    }

    #[test]
    fn advice_of_wrong_types_is_no_advice() {
        let mut metadata = Metadata::new();
        write(b"{", &mut metadata);
        write(
            br#"{"top_k": "many", "top_p": null, "mirostat": 1.5}"#,
            &mut metadata,
        );
        write(br#"{"top_k": 1e300, "temperature": [1]}"#, &mut metadata);
        assert!(metadata.is_empty());
        write(br#"{"top_k": 5.0}"#, &mut metadata);
        assert_eq!(metadata.get::<i32>("general.sampling.top_k"), Ok(Some(5)));
    }
}
