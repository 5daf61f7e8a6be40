//! Mixtral: Mistral with experts, which GGUF calls a Llama.

use super::rules::{BLOCK_WITHOUT_MLP, EMBEDDINGS, HEAD, MIXTRAL_EXPERTS};
use super::{Activation, Defaults, Experts, Family, HeadDim, Window};

/// `MixtralForCausalLM`.
pub static MIXTRAL: Family = Family {
    name: "Mixtral",
    architectures: &["MixtralForCausalLM"],
    model_type: "mixtral",
    gguf: "llama",
    tensors: &[EMBEDDINGS, HEAD, BLOCK_WITHOUT_MLP, MIXTRAL_EXPERTS],
    interleaved: true,
    llama_keys: true,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: Some(Experts {
        count: &["num_local_experts"],
        used: "num_experts_per_tok",
        width: None,
    }),
    square_attention: false,
    window: Window::Optional,
    defaults: Defaults {
        context: 131_072,
        rope_theta: 1_000_000.0,
        head_dim: HeadDim::Derived,
        tied: false,
    },
    constants: &[],
    check: None,
};
