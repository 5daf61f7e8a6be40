//! Model families: what a Hugging Face architecture becomes in GGUF, and back.
//!
//! A family is one description, pure data in a file of its own: class names, GGUF
//! architecture, tensors with their names, shapes and row order, defaults of its
//! configuration. To add a family, add a file and a line in [`FAMILIES`]. Names, shapes
//! and order follow llama.cpp's converter (`conversion/*.py`,
//! `gguf-py/gguf/tensor_mapping.py`) and its loader (`src/models/*.cpp`).

mod gemma;
mod hyperparameters;
mod ledger;
mod llama;
mod map;
mod mistral;
mod mixtral;
mod permute;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
pub mod rules;
mod smollm3;
mod unmap;

#[cfg(test)]
pub(crate) mod testdata;

use llm_quantize_plugin_api::hf_config::Config;
use llm_quantize_plugin_api::{Error, Result};
use serde_json::Value;

pub use hyperparameters::{ExpertSizes, Hyperparameters, MAX_LAYERS};
pub use map::{GeneratedTensor, MappedModel, MappedTensor, Transform, map_model};
pub use permute::{permuted_row, unpermuted_row};
pub use rope::rope_factors;
pub(crate) use rope::wavelength;
pub use unmap::{HfTensor, NamedTensor, UnmappedModel, unmap_tensors};

use rules::{TensorGroup, TensorRule};

/// The tensor with the factors of Llama 3's rotary scaling.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

/// All families. Where two share a GGUF architecture, files are read as the first one.
pub static FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &smollm3::SMOLLM3,
    &gemma::GEMMA,
    &phi3::PHI3,
    &mixtral::MIXTRAL,
    &qwen3_moe::QWEN3_MOE,
];

/// A family of models, described as data.
#[derive(Debug)]
pub struct Family {
    /// Name for people.
    pub name: &'static str,
    /// Class names in `architectures`; the first one is written when a model is
    /// converted back.
    pub architectures: &'static [&'static str],
    /// `model_type` of the configuration.
    pub model_type: &'static str,
    /// GGUF architecture, the prefix of its keys.
    pub gguf: &'static str,
    /// All tensors.
    pub tensors: &'static [TensorGroup],
    /// Whether GGUF holds rotary pairs in neighbouring rows, so that rows of
    /// [rotary](TensorRule::rotary) tensors are permuted.
    pub interleaved: bool,
    /// Whether the vocabulary's size and the rotary dimensions are written, as the
    /// converter does for Llama and what it derives from it.
    pub llama_keys: bool,
    /// Whether norms multiply with one plus their weight, which is what GGUF stores.
    pub norms_plus_one: bool,
    /// What llama.cpp gates with.
    pub activation: Activation,
    /// How the configuration gives the experts of a mixture.
    pub experts: Option<Experts>,
    /// Whether llama.cpp loads it only if all heads together are as wide as the model.
    pub square_attention: bool,
    /// How the configuration gives a sliding window.
    pub window: Window,
    /// What holds for keys that the configuration lacks.
    pub defaults: Defaults,
    /// Keys that a configuration made from GGUF gets besides the usual ones.
    pub constants: &'static [(&'static str, Constant)],
    /// Refuses configurations that GGUF cannot express.
    pub check: Option<fn(&Config<'_>) -> Result<()>>,
}

/// The activation inside of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

impl Activation {
    /// What transformers calls it, the usual name first.
    #[must_use]
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Silu => &["silu", "swish"],
            // Gemma's first configurations say "gelu" and mean this one.
            Self::GeluTanh => &["gelu_pytorch_tanh", "gelu", "gelu_new"],
        }
    }
}

/// The keys of a configuration for a mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Experts {
    /// How many there are; programs differ, the first one is written.
    pub count: &'static [&'static str],
    /// How many serve a token.
    pub used: &'static str,
    /// How wide each is; `intermediate_size` if there is no such key.
    pub width: Option<&'static str>,
}

/// How a configuration gives a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Not at all.
    Never,
    /// `sliding_window`: a size, `null` for none, the default if it is missing.
    BySize {
        /// The size if the key is missing.
        default: u64,
    },
    /// `sliding_window`, if it is there.
    Optional,
    /// `sliding_window`, if `use_sliding_window` is true.
    ByFlag,
}

/// What a head's size is if the configuration does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadDim {
    /// Model width over heads.
    Derived,
    /// The same, but transformers does not put it into the configuration, so the
    /// converter writes no keys for it.
    DerivedSilently,
    /// A constant.
    Fixed(u64),
}

/// What transformers assumes for keys that a configuration lacks. The converter reads
/// configurations through transformers and so writes these.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// `max_position_embeddings`.
    pub context: u64,
    /// `rope_theta`.
    pub rope_theta: f64,
    /// `head_dim`.
    pub head_dim: HeadDim,
    /// `tie_word_embeddings`.
    pub tied: bool,
}

/// A constant of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constant {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Integer(u64),
}

impl Family {
    /// The family of a `config.json`: by its first `architectures` entry, or by
    /// `model_type` if there is none.
    ///
    /// # Errors
    /// [`Unsupported`](llm_quantize_plugin_api::ErrorKind::Unsupported), listing the
    /// known ones.
    pub fn for_architecture(config: &Value) -> Result<&'static Self> {
        let class = match config.get("architectures").and_then(|v| v.get(0)) {
            Some(class) => class.as_str(),
            None => {
                let model_type = config.get("model_type").and_then(Value::as_str);
                return Self::for_model_type(model_type);
            }
        };
        let class = class.ok_or_else(|| {
            Error::corrupt("config.json: \"architectures\" is not a list of names")
        })?;
        let found = FAMILIES.iter().find(|f| f.architectures.contains(&class));
        found
            .copied()
            .ok_or_else(|| unknown(&format!("the architecture \"{class}\" is not supported")))
    }

    fn for_model_type(model_type: Option<&str>) -> Result<&'static Self> {
        let Some(model_type) = model_type else {
            return Err(unknown(
                "config.json names neither \"architectures\" nor a \"model_type\"",
            ));
        };
        let found = FAMILIES.iter().find(|f| f.model_type == model_type);
        found
            .copied()
            .ok_or_else(|| unknown(&format!("the model type \"{model_type}\" is not supported")))
    }

    /// The family of a GGUF architecture (`general.architecture`).
    ///
    /// `llama` is read as Llama: without its window, which GGUF does not keep, a Mistral
    /// computes the same. Only a file that has a window all the same is a Mistral, and one with
    /// experts a Mixtral.
    ///
    /// # Errors
    /// [`Unsupported`](llm_quantize_plugin_api::ErrorKind::Unsupported), listing the
    /// known ones.
    pub fn for_gguf(
        architecture: &str,
        sliding_window: bool,
        experts: bool,
    ) -> Result<&'static Self> {
        let mut same = FAMILIES
            .iter()
            .filter(|f| f.gguf == architecture && f.experts.is_some() == experts);
        let windowed = |f: &&&Self| matches!(f.window, Window::BySize { .. });
        let found = if sliding_window {
            same.clone().find(windowed).or_else(|| same.next())
        } else {
            same.next()
        };
        found.copied().ok_or_else(|| {
            let mut known: Vec<&str> = FAMILIES.iter().map(|f| f.gguf).collect();
            known.dedup();
            let kind = if experts { " with experts" } else { "" };
            Error::unsupported(format!(
                "the GGUF architecture \"{architecture}\"{kind} cannot be read as a Hugging Face \
                 model"
            ))
            .suggest(format!("supported architectures: {}", known.join(", ")))
        })
    }

    /// The Hugging Face name of the tensor that GGUF calls so; `None` if the family has none, or
    /// one for each expert.
    #[must_use]
    pub fn hf_name(&self, gguf: &str) -> Option<String> {
        let mut rules = self.rules().filter(|(_, rule)| !rule.per_expert());
        rules.find_map(|(_, rule)| {
            let numbers = rules::fit(rule.gguf, gguf)?;
            Some(rule.hf_name(numbers.layer.unwrap_or(0), 0))
        })
    }

    /// All tensor rules with the condition of their group.
    pub fn rules(&self) -> impl Iterator<Item = (rules::Presence, &'static TensorRule)> {
        let groups = self.tensors.iter();
        groups.flat_map(|group| group.rules.iter().map(|rule| (group.presence, rule)))
    }
}

fn unknown(message: &str) -> Error {
    let known: Vec<&str> = FAMILIES
        .iter()
        .filter_map(|family| family.architectures.first().copied())
        .collect();
    Error::unsupported(format!("{message} by the GGUF plugin"))
        .suggest(format!("supported architectures: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_one_architecture_agree_on_names() {
        for family in FAMILIES {
            let experts = family.experts.is_some();
            let read_as = Family::for_gguf(family.gguf, false, experts).unwrap();
            for (_, rule) in family.rules().filter(|(_, rule)| !rule.per_expert()) {
                let name = rule.gguf_name(7);
                assert_eq!(read_as.hf_name(&name), Some(rule.hf_name(7, 0)), "{name}");
            }
        }
        let query = llama::LLAMA.hf_name("blk.11.attn_q.weight");
        assert_eq!(
            query.as_deref(),
            Some("model.layers.11.self_attn.q_proj.weight")
        );
        assert_eq!(llama::LLAMA.hf_name("blk.0.ffn_gate_exps.weight"), None);
    }
}
