//! SmolLM 3: a Llama that leaves out the rotary embedding in every fourth layer.

use llm_quantize_plugin_api::hf_config::Config;
use llm_quantize_plugin_api::{Error, Result};

use super::rules::{BLOCK, EMBEDDINGS, HEAD};
use super::{Activation, Constant, Defaults, Family, HeadDim, Window};

/// llama.cpp has the interval built in (`src/models/smollm3.cpp`).
const INTERVAL: usize = 4;

/// `SmolLM3ForCausalLM`.
pub static SMOLLM3: Family = Family {
    name: "SmolLM3",
    architectures: &["SmolLM3ForCausalLM"],
    model_type: "smollm3",
    gguf: "smollm3",
    tensors: &[EMBEDDINGS, HEAD, BLOCK],
    interleaved: true,
    llama_keys: true,
    norms_plus_one: false,
    activation: Activation::Silu,
    experts: None,
    square_attention: false,
    window: Window::ByFlag,
    defaults: Defaults {
        context: 32_768,
        rope_theta: 2_000_000.0,
        head_dim: HeadDim::DerivedSilently,
        tied: true,
    },
    constants: &[
        ("attention_bias", Constant::Flag(false)),
        ("mlp_bias", Constant::Flag(false)),
        ("no_rope_layer_interval", Constant::Integer(4)),
    ],
    check: Some(every_fourth_layer_without_rope),
};

/// The list names the layers (1: with rotary embedding), the interval makes the list if
/// there is none.
fn every_fourth_layer_without_rope(config: &Config<'_>) -> Result<()> {
    let fits = match config.value("no_rope_layers").and_then(|v| v.as_array()) {
        Some(layers) => layers.iter().enumerate().all(|(layer, rotary)| {
            rotary.as_u64() == Some(u64::from(!(layer + 1).is_multiple_of(INTERVAL)))
        }),
        None => config
            .integer("no_rope_layer_interval")?
            .is_none_or(|interval| interval == INTERVAL as u64),
    };
    if fits {
        return Ok(());
    }
    Err(Error::unsupported(
        "config.json: GGUF has SmolLM3 only without rotary embeddings in every fourth layer; \
         \"no_rope_layers\" says otherwise",
    ))
}
