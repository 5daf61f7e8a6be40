//! Qwen 3 with experts.

use llm_quantize_plugin_api::hf_config::Config;
use llm_quantize_plugin_api::{Error, Result};
use serde_json::Value;

use super::rules::{BLOCK_WITHOUT_MLP, EMBEDDINGS, EXPERTS, HEAD, QK_NORMS};
use super::{Activation, Constant, Defaults, Experts, Family, HeadDim, Window};

/// `Qwen3MoeForCausalLM`.
pub static QWEN3_MOE: Family = Family {
    name: "Qwen3 MoE",
    architectures: &["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
    gguf: "qwen3moe",
    tensors: &[EMBEDDINGS, HEAD, BLOCK_WITHOUT_MLP, QK_NORMS, EXPERTS],
    interleaved: false,
    llama_keys: false,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: Some(Experts {
        count: &["num_experts", "num_local_experts"],
        used: "num_experts_per_tok",
        width: Some("moe_intermediate_size"),
    }),
    square_attention: false,
    window: Window::ByFlag,
    defaults: Defaults {
        context: 32_768,
        rope_theta: 10_000.0,
        head_dim: HeadDim::Derived,
        tied: false,
    },
    constants: &[
        ("attention_bias", Constant::Flag(false)),
        ("decoder_sparse_step", Constant::Integer(1)),
        ("norm_topk_prob", Constant::Flag(true)),
    ],
    check: Some(as_llama_cpp_has_it),
};

/// llama.cpp has experts in every layer, and weighs those that serve a token so that they sum up
/// to one.
fn as_llama_cpp_has_it(config: &Config<'_>) -> Result<()> {
    let refuse = |what: &str| {
        Err(Error::unsupported(format!(
            "config.json: {what}, which llama.cpp does not have for Qwen3 with experts"
        )))
    };
    if config.flag("norm_topk_prob")? != Some(true) {
        return refuse("\"norm_topk_prob\" is not true");
    }
    if config
        .integer("decoder_sparse_step")?
        .is_some_and(|step| step != 1)
    {
        return refuse("\"decoder_sparse_step\" is not 1");
    }
    let dense = config.value("mlp_only_layers").and_then(Value::as_array);
    match dense.is_some_and(|layers| !layers.is_empty()) {
        true => refuse("\"mlp_only_layers\" names layers without experts"),
        false => Ok(()),
    }
}
