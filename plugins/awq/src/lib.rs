//! The AWQ plugin: 4-bit folders for vLLM, transformers, GPTQModel and AutoAWQ.
//!
//! * [`layout`]: how a layer is stored; [`levels`]: the one level.
//! * [`rounding`]: from a weight to codes, scales and zeros; [`search`]: what makes that cost least.
//! * [`quantize`] writes and [`read`] reads, out of these parts.

pub mod layout;
pub mod levels;
pub mod quantize;
pub mod read;
pub mod rounding;
pub mod search;

/// Name of the format on the command line, and in `config.json`.
pub const FORMAT: &str = "awq";
/// Name of the format for people.
pub const NAME: &str = "AWQ";

llm_quantize_plugin_api::export_plugin! {
    id: "awq",
    formats: ["awq"],
    description: "AWQ, for vLLM, transformers, GPTQModel and AutoAWQ",
    quantizer: quantize::AwqQuantizer::new,
    converter: read::AwqConverter::new,
}
