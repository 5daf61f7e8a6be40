//! Folders with quantized layers: how they are spoilt.

use std::path::Path;

use llm_quantize_fuzz::tiny;
use llm_quantize_tests::edit_json;
use llm_quantize_tests::safetensors::{Tensor, read_safetensors, write_safetensors};
use serde_json::Value;

use super::{Case, check};

pub const CONFIG: &str = "config.json";
pub const SECTION: &str = "quantization_config";

/// 32 inputs in one group, and 32 outputs, in 4 bits.
pub const LAYER: &str = "model.layers.0.self_attn.q_proj";

/// The case runs on another model that is quantized already, so that this is agreed to.
pub fn check_folders(write: fn() -> Vec<tiny::File>, cases: &[Case]) {
    check(write, "", &["--set", "allow-requantize=true"], cases);
}

/// Changes what the folder says about its quantization.
pub fn say(folder: &Path, key: &str, value: Value) {
    edit_json(&folder.join(CONFIG), |config| config[SECTION][key] = value);
}

pub fn edit_tensors(folder: &Path, edit: impl FnOnce(&mut Vec<Tensor>)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_safetensors(&path);
    edit(&mut tensors);
    write_safetensors(&path, &tensors);
}

/// Changes a part of the layer.
pub fn edit_part(folder: &Path, part: &str, edit: impl FnOnce(&mut Tensor)) {
    edit_tensors(folder, |tensors| {
        let name = format!("{LAYER}.{part}");
        let mut tensors = tensors.iter_mut();
        edit(tensors.find(|tensor| tensor.name == name).unwrap());
    });
}

pub fn remove_part(folder: &Path, part: &str) {
    let name = format!("{LAYER}.{part}");
    edit_tensors(folder, |tensors| {
        tensors.retain(|tensor| tensor.name != name)
    });
}
