//! The GPTQ plugin: 2, 3, 4 and 8-bit folders for vLLM, transformers, GPTQModel and ExLlama.
//!
//! * [`layout`]: how a layer is stored; [`levels`]: in how many bits.
//! * [`solver`]: from a weight and the Gram matrix of its inputs to codes, scales and zeros.
//! * [`quantize`] writes and [`read`] reads, out of these parts.

pub mod layout;
pub mod levels;
pub mod quantize;
pub mod read;
pub mod solver;

/// Name of the format on the command line, and in `config.json`.
pub const FORMAT: &str = "gptq";
/// Name of the format for people.
pub const NAME: &str = "GPTQ";

llm_quantize_plugin_api::export_plugin! {
    id: "gptq",
    formats: ["gptq"],
    description: "GPTQ, for vLLM, transformers, GPTQModel and ExLlamaV2",
    quantizer: quantize::GptqQuantizer::new,
    converter: read::GptqConverter::new,
}
