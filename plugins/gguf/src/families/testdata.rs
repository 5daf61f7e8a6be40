//! Models that llama.cpp's converter was run on, with what it wrote.
//!
//! `converter.json` was made by running llama.cpp's own Python classes (commit 0c1e570,
//! with transformers 5.23) on small models of zeros, with the tokenizer left out.

use std::sync::LazyLock;

use llm_quantize_plugin_api::{ModelDescription, TensorInfo};
use serde_json::Value;

static GOLDEN: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../metadata/testdata/converter.json")).unwrap()
});

/// The whole file.
pub(crate) fn golden() -> &'static Value {
    &GOLDEN
}

/// All models.
pub(crate) fn cases() -> &'static [Value] {
    golden()["cases"].as_array().unwrap()
}

/// The model of a folder.
pub(crate) fn case(folder: &str) -> &'static Value {
    cases()
        .iter()
        .find(|case| case["folder"] == folder)
        .unwrap()
}

/// What a plugin would be told about a model.
pub(crate) fn description(case: &Value) -> ModelDescription {
    let tensors = case["source"].as_array().unwrap().iter();
    ModelDescription {
        name: case["folder"].as_str().unwrap().to_owned(),
        format: "hf".to_owned(),
        config: case["config"].clone(),
        tensors: tensors
            .map(|tensor| TensorInfo {
                name: tensor[0].as_str().unwrap().to_owned(),
                dtype: case["dtype"].as_str().unwrap().to_owned(),
                shape: serde_json::from_value(tensor[1].clone()).unwrap(),
                bytes: 0,
            })
            .collect(),
        ..ModelDescription::default()
    }
}
