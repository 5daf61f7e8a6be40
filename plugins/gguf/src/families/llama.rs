//! Llama 1 to 3, and the many models of that shape (SmolLM, SmolLM2, TinyLlama, Yi, …).

use super::rules::{ATTENTION_BIASES, BLOCK, EMBEDDINGS, HEAD, MLP_BIASES};
use super::{Activation, Defaults, Family, HeadDim, Window};

/// `LlamaForCausalLM`.
pub static LLAMA: Family = Family {
    name: "Llama",
    architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    model_type: "llama",
    gguf: "llama",
    tensors: &[EMBEDDINGS, HEAD, BLOCK, ATTENTION_BIASES, MLP_BIASES],
    interleaved: true,
    llama_keys: true,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: None,
    square_attention: false,
    window: Window::Never,
    defaults: Defaults {
        context: 2048,
        rope_theta: 10_000.0,
        head_dim: HeadDim::Derived,
        tied: false,
    },
    constants: &[],
    check: None,
};
