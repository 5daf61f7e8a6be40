//! Qwen 3, dense: norms on query and key heads instead of Qwen 2's biases.

use super::rules::{BLOCK, EMBEDDINGS, HEAD, QK_NORMS};
use super::{Activation, Constant, Defaults, Family, HeadDim, Window};

/// `Qwen3ForCausalLM`. Its `attention_bias` is not here: llama.cpp has no bias for the
/// output projection of this architecture, and no released model sets it.
pub static QWEN3: Family = Family {
    name: "Qwen3",
    architectures: &["Qwen3ForCausalLM"],
    model_type: "qwen3",
    gguf: "qwen3",
    tensors: &[EMBEDDINGS, HEAD, BLOCK, QK_NORMS],
    interleaved: false,
    llama_keys: false,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: None,
    square_attention: false,
    window: Window::ByFlag,
    defaults: Defaults {
        context: 32_768,
        rope_theta: 10_000.0,
        head_dim: HeadDim::Fixed(128),
        tied: false,
    },
    constants: &[("attention_bias", Constant::Flag(false))],
    check: None,
};
