//! The GGUF plugin: llama.cpp's format.
//!
//! * [`container`]: the file's header and tensor table; [`shards`]: models over several files.
//! * [`blocks`]: how weights are stored, one file for each block type.
//! * [`levels`] and [`mixture`]: which tensor gets which type.
//! * [`families`] and [`metadata`]: what a Hugging Face model's tensors and configuration
//!   are called here, and back. [`tokenizer`]: the same for tokenizers.
//! * [`imatrix`]: importance matrices.
//! * [`quantize`] writes and [`read`] reads, out of these parts.

pub mod blocks;
pub mod container;
pub mod families;
pub mod imatrix;
pub mod levels;
pub mod metadata;
pub mod mixture;
pub mod quantize;
pub mod read;
pub mod shards;
pub mod tokenizer;
mod tokenizer_values;

llm_quantize_plugin_api::export_plugin! {
    id: "gguf",
    formats: ["gguf", "imatrix"],
    description: "GGUF, the format of llama.cpp, Ollama and LM Studio",
    quantizer: quantize::GgufQuantizer::new,
    converter: read::GgufConverter::new,
}
