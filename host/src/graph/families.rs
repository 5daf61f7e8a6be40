//! Model families: what sets one architecture apart from another, as data.
//!
//! To add a family of this shape (norms before attention and a gated MLP), add an entry to
//! [`FAMILIES`]. Names, defaults and rules are those of transformers (`models/*/modeling_*.py`
//! and `configuration_*.py`).

use llm_quantize_plugin_api::hf_config::Config;

use super::Activation;
use crate::error::{Error, Result};

/// Stands for the number of a block in a tensor's name.
pub const LAYER: &str = "{layer}";

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// Name for people.
    pub name: &'static str,
    /// Class names in `architectures`.
    pub architectures: &'static [&'static str],
    /// `model_type` of the configuration.
    pub model_type: &'static str,
    /// What its tensors are called.
    pub names: &'static Names,
    /// Biases of query, key and value.
    pub qkv_bias: Bias,
    /// Bias of the attention's output.
    pub output_bias: Bias,
    /// Biases of the MLP.
    pub mlp_bias: Bias,
    /// Whether each query and key head has a norm.
    pub head_norms: bool,
    /// Whether norms multiply with one plus their weight.
    pub norms_plus_one: bool,
    /// Whether embeddings are multiplied with the root of the model's width.
    pub scaled_embeddings: bool,
    /// The activation, whatever the configuration says.
    pub activation: Option<Activation>,
    /// Which layers turn queries and keys by their positions.
    pub rotary: RotaryLayers,
    /// Which layers see only the tokens of a window.
    pub window: Window,
    /// What holds for keys that the configuration lacks.
    pub defaults: Defaults,
}

/// Names of tensors without their ends, `.weight` and `.bias`.
#[derive(Debug)]
pub struct Names {
    /// Token embeddings.
    pub embedding: &'static str,
    /// Norm of the last block's output.
    pub final_norm: &'static str,
    /// Output head.
    pub head: &'static str,
    /// What the names below follow, with [`LAYER`] for the block's number.
    pub block: &'static str,
    /// Norm before the attention.
    pub attention_norm: &'static str,
    /// Queries.
    pub query: &'static str,
    /// Keys.
    pub key: &'static str,
    /// Values.
    pub value: &'static str,
    /// Norm of each query head.
    pub query_norm: &'static str,
    /// Norm of each key head.
    pub key_norm: &'static str,
    /// The attention's output.
    pub output: &'static str,
    /// Norm before the MLP.
    pub mlp_norm: &'static str,
    /// The part of the MLP that the activation is of.
    pub gate: &'static str,
    /// What that is multiplied with.
    pub up: &'static str,
    /// The MLP's output.
    pub down: &'static str,
    /// Queries, keys and values, where they are one layer: its rows in this order.
    pub fused_attention: Option<&'static str>,
    /// What the activation is of and what that is multiplied with, likewise.
    pub fused_gate: Option<&'static str>,
}

/// When linear layers have biases. Tensors beyond that are ignored, as transformers does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// Never.
    Never,
    /// Always.
    Always,
    /// If this key of the configuration is true.
    Flag(&'static str),
}

impl Bias {
    /// Whether a model has it.
    ///
    /// # Errors
    /// If the key is neither true nor false.
    pub fn is_there(self, config: &Config<'_>) -> Result<bool> {
        Ok(match self {
            Self::Never => false,
            Self::Always => true,
            Self::Flag(key) => config.flag(key)?.unwrap_or(false),
        })
    }
}

/// Which layers have rotary embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotaryLayers {
    /// All.
    All,
    /// Those with a 1 in `no_rope_layers`; without that list all but every
    /// `no_rope_layer_interval`-th.
    Listed {
        /// The interval if that key is missing, too.
        interval: u64,
    },
}

/// Which layers see only the tokens of a window, and how long that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// None.
    Never,
    /// All, if `sliding_window` is not `null`.
    EveryLayer {
        /// The length if the key is missing; none if there is no such length.
        default: Option<u64>,
    },
    /// Some, if `use_sliding_window` is true and `sliding_window` not `null`.
    SomeLayers {
        /// The length if the key is missing.
        default: Option<u64>,
        /// Which, if `layer_types` does not say.
        which: Windowed,
    },
}

/// Layers with windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Windowed {
    /// From number `max_window_layers` on.
    Upper {
        /// The number if the key is missing.
        default: u64,
    },
    /// Those without rotary embeddings.
    WithoutRotary,
}

/// What transformers assumes for keys that a configuration lacks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// `max_position_embeddings`.
    pub context: u64,
    /// `rope_theta`.
    pub rope_theta: f64,
    /// `head_dim`; `None`: the model's width over its heads.
    pub head_dim: Option<u64>,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

impl Family {
    /// The family of a `config.json`: by the first of `architectures`, or by `model_type` if
    /// there is none.
    ///
    /// # Errors
    /// [`UnsupportedConversion`](crate::ExitCode::UnsupportedConversion), with the known ones.
    pub fn of(config: &Config<'_>) -> Result<&'static Self> {
        let class = config.value("architectures").and_then(|list| list.get(0));
        if let Some(class) = class {
            let class = class.as_str().ok_or_else(|| {
                Error::validation("config.json: \"architectures\" is not a list of names")
            })?;
            let found = FAMILIES.iter().find(|f| f.architectures.contains(&class));
            return found.ok_or_else(|| unknown(&format!("the architecture \"{class}\"")));
        }
        let Some(model_type) = config.text("model_type")? else {
            return Err(unknown(
                "a model whose configuration has neither \"architectures\" nor \"model_type\"",
            ));
        };
        let found = FAMILIES.iter().find(|f| f.model_type == model_type);
        found.ok_or_else(|| unknown(&format!("the model type \"{model_type}\"")))
    }
}

fn unknown(what: &str) -> Error {
    let known = FAMILIES.iter().filter_map(|f| f.architectures.first());
    let known: Vec<&str> = known.copied().collect();
    Error::unsupported(format!("{what} cannot be run by this program")).suggest(format!(
        "architectures that can be run: {}",
        known.join(", ")
    ))
}

/// The names that Llama gave.
const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    final_norm: "model.norm",
    head: "lm_head",
    block: "model.layers.{layer}.",
    attention_norm: "input_layernorm",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    query_norm: "self_attn.q_norm",
    key_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    fused_attention: None,
    fused_gate: None,
};

/// Llama 1 to 3, and the many models of that shape (SmolLM, SmolLM2, TinyLlama, Yi, …).
const LLAMA: Family = Family {
    name: "Llama",
    architectures: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    model_type: "llama",
    names: &LLAMA_NAMES,
    qkv_bias: Bias::Flag("attention_bias"),
    output_bias: Bias::Flag("attention_bias"),
    mlp_bias: Bias::Flag("mlp_bias"),
    head_norms: false,
    norms_plus_one: false,
    scaled_embeddings: false,
    activation: None,
    rotary: RotaryLayers::All,
    window: Window::Never,
    defaults: Defaults {
        context: 2048,
        rope_theta: 10_000.0,
        head_dim: None,
        tied: false,
    },
};

/// Mistral 7B and Nemo: every layer may have a window.
const MISTRAL: Family = Family {
    name: "Mistral",
    architectures: &["MistralForCausalLM"],
    model_type: "mistral",
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    window: Window::EveryLayer {
        default: Some(4096),
    },
    defaults: Defaults {
        context: 131_072,
        ..LLAMA.defaults
    },
    ..LLAMA
};

/// Qwen 1.5, 2 and 2.5: biases on query, key and value; the upper layers may have windows.
const QWEN2: Family = Family {
    name: "Qwen2",
    architectures: &["Qwen2ForCausalLM"],
    model_type: "qwen2",
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    window: Window::SomeLayers {
        default: Some(4096),
        which: Windowed::Upper { default: 28 },
    },
    defaults: Defaults {
        context: 32_768,
        ..LLAMA.defaults
    },
    ..LLAMA
};

/// Qwen 3, dense: norms of query and key heads.
const QWEN3: Family = Family {
    name: "Qwen3",
    architectures: &["Qwen3ForCausalLM"],
    model_type: "qwen3",
    qkv_bias: Bias::Flag("attention_bias"),
    output_bias: Bias::Flag("attention_bias"),
    head_norms: true,
    defaults: Defaults {
        head_dim: Some(128),
        ..QWEN2.defaults
    },
    ..QWEN2
};

/// SmolLM 3: no rotary embeddings in every fourth layer.
const SMOLLM3: Family = Family {
    name: "SmolLM3",
    architectures: &["SmolLM3ForCausalLM"],
    model_type: "smollm3",
    rotary: RotaryLayers::Listed { interval: 4 },
    window: Window::SomeLayers {
        default: None,
        which: Windowed::WithoutRotary,
    },
    defaults: Defaults {
        context: 32_768,
        rope_theta: 2_000_000.0,
        head_dim: None,
        tied: true,
    },
    ..LLAMA
};

/// Gemma 1: norms with one plus their weight, and scaled embeddings. Its first configurations name
/// another activation than its code has.
const GEMMA: Family = Family {
    name: "Gemma",
    architectures: &["GemmaForCausalLM"],
    model_type: "gemma",
    qkv_bias: Bias::Flag("attention_bias"),
    output_bias: Bias::Flag("attention_bias"),
    mlp_bias: Bias::Never,
    norms_plus_one: true,
    scaled_embeddings: true,
    activation: Some(Activation::GeluTanh),
    defaults: Defaults {
        context: 8192,
        rope_theta: 10_000.0,
        head_dim: Some(256),
        tied: true,
    },
    ..LLAMA
};

/// Phi 3 and 4: layers that read the same are one.
const PHI3: Family = Family {
    name: "Phi 3",
    architectures: &["Phi3ForCausalLM"],
    model_type: "phi3",
    names: &Names {
        fused_attention: Some("self_attn.qkv_proj"),
        fused_gate: Some("mlp.gate_up_proj"),
        ..LLAMA_NAMES
    },
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    window: Window::EveryLayer { default: None },
    defaults: Defaults {
        context: 4096,
        ..LLAMA.defaults
    },
    ..LLAMA
};

/// All families.
pub static FAMILIES: &[Family] = &[LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3, GEMMA, PHI3];
