//! Phi 3 and 4: queries, keys and values are one layer, and so are both halves of the gate.

use super::rules::{EMBEDDINGS, FUSED_BLOCK, HEAD};
use super::{Activation, Defaults, Family, HeadDim, Window};

/// `Phi3ForCausalLM`. llama.cpp turns the sliding window off for this architecture.
pub static PHI3: Family = Family {
    name: "Phi 3",
    architectures: &["Phi3ForCausalLM"],
    model_type: "phi3",
    gguf: "phi3",
    tensors: &[EMBEDDINGS, HEAD, FUSED_BLOCK],
    interleaved: false,
    llama_keys: true,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: None,
    square_attention: false,
    window: Window::Optional,
    defaults: Defaults {
        context: 4096,
        rope_theta: 10_000.0,
        head_dim: HeadDim::DerivedSilently,
        tied: false,
    },
    constants: &[],
    check: None,
};
