//! Mistral 7B and Nemo: a Llama whose attention may be limited to a window.

use super::rules::{BLOCK, EMBEDDINGS, HEAD};
use super::{Activation, Defaults, Family, HeadDim, Window};

/// `MistralForCausalLM`; a `llama` to GGUF. llama.cpp has no sliding window for that
/// architecture and neither writes nor reads one.
pub static MISTRAL: Family = Family {
    name: "Mistral",
    architectures: &["MistralForCausalLM"],
    model_type: "mistral",
    gguf: "llama",
    tensors: &[EMBEDDINGS, HEAD, BLOCK],
    interleaved: true,
    llama_keys: true,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: None,
    square_attention: false,
    window: Window::BySize { default: 4096 },
    defaults: Defaults {
        context: 131_072,
        rope_theta: 10_000.0,
        head_dim: HeadDim::Derived,
        tied: false,
    },
    constants: &[],
    check: None,
};
