//! Folders in Hugging Face's layout: safetensors files, an index if there are several,
//! `config.json`, and what belongs to the tokenizer.
//!
//! Plain models and most quantized formats are such folders; they differ in the tensors and in
//! what `config.json` says about them. [`FolderBuilder`] plans one, [`Weights`] and
//! [`read_json`] read one, [`verify`] compares a finished one with its plan. [`quantized`] has what
//! the quantized ones have in common.

mod build;
mod copy;
mod header;
mod limits;
pub mod quantized;
mod read;
mod verify;

pub use build::{DEFAULT_SHARD_SIZE, FolderBuilder, NewTensor, shard_size_option};
pub use copy::{copy_rows, copy_unit, layer_of, plain_dtype};
pub use header::{parse_header, write_header};
pub use limits::check_tensor;
pub use read::{StoredTensor, Weights, is_side_file, read_json};
pub use verify::verify;

/// Name of the model's configuration.
pub const CONFIG: &str = "config.json";
/// Name of the weights of a model in one file.
pub const SINGLE: &str = "model.safetensors";
/// Name of the index of a model in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// Key of `config.json` that says how the weights are quantized.
pub const QUANTIZATION: &str = "quantization_config";
/// Files in which older programs say how the weights are quantized. They would be wrong beside
/// other weights.
pub const QUANTIZATION_FILES: [&str; 3] = [
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
];
