//! Gemma 1: norms that multiply with one plus their weight, embeddings that are multiplied with the
//! root of the width (as llama.cpp does it by itself), always tied.

use llm_quantize_plugin_api::hf_config::Config;
use llm_quantize_plugin_api::{Error, Result};

use super::rules::{BLOCK, EMBEDDINGS};
use super::{Activation, Defaults, Family, HeadDim, Window};

/// `GemmaForCausalLM`.
pub static GEMMA: Family = Family {
    name: "Gemma",
    architectures: &["GemmaForCausalLM"],
    model_type: "gemma",
    gguf: "gemma",
    tensors: &[EMBEDDINGS, BLOCK],
    interleaved: false,
    llama_keys: false,
    norms_plus_one: true,
    activation: Activation::GeluTanh,
    experts: None,
    square_attention: false,
    window: Window::Never,
    defaults: Defaults {
        context: 8192,
        rope_theta: 10_000.0,
        head_dim: HeadDim::Fixed(256),
        tied: true,
    },
    constants: &[],
    check: Some(as_llama_cpp_has_it),
};

/// llama.cpp has no other head than the embeddings for this architecture, and looks back only.
fn as_llama_cpp_has_it(config: &Config<'_>) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::unsupported(format!(
            "config.json: {what}, which llama.cpp does not have for Gemma"
        )))
    };
    if config.flag("tie_word_embeddings")? == Some(false) {
        return refuse("\"tie_word_embeddings\" is false");
    }
    if config.flag("use_bidirectional_attention")? == Some(true) {
        return refuse("\"use_bidirectional_attention\" is true");
    }
    match config.text("hidden_activation")? {
        None | Some("gelu_pytorch_tanh") => Ok(()),
        Some(other) => refuse(&format!("\"hidden_activation\" is \"{other}\"")),
    }
}
