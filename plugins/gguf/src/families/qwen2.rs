//! Qwen 1.5, 2 and 2.5: a Llama with biases on query, key and value.

use super::rules::{BLOCK, EMBEDDINGS, HEAD, QKV_BIASES};
use super::{Activation, Defaults, Family, HeadDim, Window};

/// `Qwen2ForCausalLM`.
pub static QWEN2: Family = Family {
    name: "Qwen2",
    architectures: &["Qwen2ForCausalLM"],
    model_type: "qwen2",
    gguf: "qwen2",
    tensors: &[EMBEDDINGS, HEAD, BLOCK, QKV_BIASES],
    interleaved: false,
    llama_keys: false,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: None,
    square_attention: true,
    window: Window::ByFlag,
    defaults: Defaults {
        context: 32_768,
        rope_theta: 10_000.0,
        head_dim: HeadDim::DerivedSilently,
        tied: false,
    },
    constants: &[],
    check: None,
};
