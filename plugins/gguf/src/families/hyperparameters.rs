//! The numbers of a model's architecture, from whichever side they come.

use llm_quantize_plugin_api::hf_config::{Config, Rope, RopeScaling, experts_key, rotary_part};
use llm_quantize_plugin_api::{Error, Result};
use serde_json::Value;

use super::{Family, HeadDim, Window};

/// The most layers that llama.cpp loads (`LLAMA_MAX_LAYERS`).
pub const MAX_LAYERS: u64 = 512;
/// The most experts that llama.cpp loads (`LLAMA_MAX_EXPERTS`).
const MAX_EXPERTS: u64 = 512;

/// The experts of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertSizes {
    /// How many there are in each layer.
    pub count: u64,
    /// How many serve a token.
    pub used: u64,
    /// How wide each is.
    pub feed_forward: u64,
}

/// The numbers that say how a model computes. All counts are above zero and fit into
/// GGUF's 32 bits, as do the products of heads and head size.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyperparameters {
    /// Number of layers.
    pub layers: u32,
    /// Width of the model.
    pub hidden: u64,
    /// Width of the MLP.
    pub feed_forward: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads.
    pub kv_heads: u64,
    /// Size of a head.
    pub head_dim: u64,
    /// Whether the head's size is written out, or follows from width and heads.
    pub head_dim_stated: bool,
    /// Number of tokens.
    pub vocabulary: u64,
    /// The longest context.
    pub context: u64,
    /// Epsilon of the norms.
    pub rms_epsilon: f64,
    /// Rotary embedding.
    pub rope: Rope,
    /// Whether tokens see only those before them.
    pub causal: bool,
    /// How far a token sees back, if that is limited.
    pub sliding_window: Option<u64>,
    /// The experts, of a mixture.
    pub experts: Option<ExpertSizes>,
}

impl Hyperparameters {
    /// Reads a `config.json`, with transformers' defaults for what it lacks.
    ///
    /// # Errors
    /// If a size is missing, of a wrong type or impossible, or if the model computes in
    /// a way that GGUF does not have for its family (experts, another activation, …).
    pub fn from_config(family: &Family, config: &Value) -> Result<Self> {
        let config = Config::new(config, "config.json");
        refuse_other_computations(family, &config)?;
        if let Some(check) = family.check {
            check(&config)?;
        }
        let defaults = &family.defaults;
        let hidden = config.require_count("hidden_size")?;
        let heads = config.require_count("num_attention_heads")?;
        let stated = config.count("head_dim")?;
        let context = config
            .count("max_position_embeddings")?
            .unwrap_or(defaults.context);
        let layers = config.require_count("num_hidden_layers")?;
        let experts = experts(family, &config)?;
        let model = Self {
            layers: u32::try_from(layers).unwrap_or(u32::MAX),
            hidden,
            feed_forward: config.require_count("intermediate_size")?,
            heads,
            kv_heads: config.count("num_key_value_heads")?.unwrap_or(heads),
            head_dim: match (stated, defaults.head_dim) {
                (Some(stated), _) => stated,
                (None, HeadDim::Fixed(size)) => size,
                (None, _) => hidden / heads,
            },
            head_dim_stated: stated.is_some() || defaults.head_dim != HeadDim::DerivedSilently,
            vocabulary: config.require_count("vocab_size")?,
            context,
            rms_epsilon: config.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope: Rope::from_config(&config, context, defaults.rope_theta)?,
            causal: config.flag("is_causal")?.unwrap_or(true),
            sliding_window: sliding_window(family, &config)?,
            experts,
        };
        model.check(family, "config.json")?;
        Ok(model)
    }

    /// Checks what must hold between the numbers; `what` they come from is for messages.
    pub(crate) fn check(&self, family: &Family, what: &str) -> Result<()> {
        let wrong = |message: String| Err(Error::corrupt(format!("{what}: {message}")));
        if u64::from(self.layers) > MAX_LAYERS {
            return wrong(format!(
                "{} layers are more than llama.cpp loads ({MAX_LAYERS})",
                self.layers
            ));
        }
        if let Some(experts) = self.experts
            && (experts.count > MAX_EXPERTS || experts.used > experts.count)
        {
            return wrong(format!(
                "{} of {} experts for a token: llama.cpp loads up to {MAX_EXPERTS} of them",
                experts.used, experts.count
            ));
        }
        if self.kv_heads > self.heads || !self.heads.is_multiple_of(self.kv_heads) {
            return wrong(format!(
                "{} heads cannot share {} key/value heads",
                self.heads, self.kv_heads
            ));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return wrong(format!(
                "a head of {} elements cannot be rotated: its size must be even",
                self.head_dim
            ));
        }
        let width = self.heads.checked_mul(self.head_dim);
        if width.is_none_or(|width| width > u64::from(u32::MAX)) {
            return wrong(format!(
                "{} heads of {} elements are too many",
                self.heads, self.head_dim
            ));
        }
        if family.square_attention && width != Some(self.hidden) {
            return Err(Error::unsupported(format!(
                "{what}: llama.cpp loads {} models only if all heads together are as wide as \
                 the model; {} heads of {} are not {}",
                family.name, self.heads, self.head_dim, self.hidden
            )));
        }
        Ok(())
    }

    /// What llama.cpp will compute differently, for the user to know.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(window) = self.sliding_window.filter(|window| *window < self.context) {
            warnings.push(format!(
                "llama.cpp has no sliding window for this architecture: beyond {window} tokens \
                 of context it computes differently than the original"
            ));
        }
        if self.rope.scaling == RopeScaling::Dynamic {
            warnings.push(format!(
                "GGUF has no dynamic rotary scaling: beyond {} tokens of context llama.cpp \
                 computes differently than the original",
                self.context
            ));
        }
        warnings
    }
}

fn sliding_window(family: &Family, config: &Config<'_>) -> Result<Option<u64>> {
    match family.window {
        Window::Never => Ok(None),
        Window::BySize { .. } if config.is_null("sliding_window") => Ok(None),
        Window::BySize { default } => Ok(Some(config.count("sliding_window")?.unwrap_or(default))),
        Window::Optional => config.count("sliding_window"),
        Window::ByFlag if config.flag("use_sliding_window")? == Some(true) => {
            config.count("sliding_window")
        }
        Window::ByFlag => Ok(None),
    }
}

fn experts(family: &Family, config: &Config<'_>) -> Result<Option<ExpertSizes>> {
    let Some(keys) = family.experts else {
        return Ok(None);
    };
    Ok(Some(ExpertSizes {
        count: config.require_count(experts_key(config)?.unwrap_or(keys.count[0]))?,
        used: config.require_count(keys.used)?,
        feed_forward: config.require_count(keys.width.unwrap_or("intermediate_size"))?,
    }))
}

/// Refuses what llama.cpp would silently compute otherwise.
fn refuse_other_computations(family: &Family, config: &Config<'_>) -> Result<()> {
    let names = family.activation.names();
    let usual = names.first().copied().unwrap_or_default();
    let activation = config.text("hidden_act")?.unwrap_or(usual);
    if !names.contains(&activation) {
        return Err(Error::unsupported(format!(
            "config.json: llama.cpp computes this architecture with the activation \"{usual}\", \
             not \"{activation}\""
        )));
    }
    if let Some(key) = experts_key(config)?.filter(|_| family.experts.is_none()) {
        return Err(Error::unsupported(format!(
            "config.json: \"{key}\" says that this is a mixture of experts, which the GGUF \
             plugin does not support"
        )));
    }
    if rotary_part(config)?.is_some_and(|part| part != 1.0) {
        return Err(Error::unsupported(
            "config.json: llama.cpp rotates whole heads in this architecture, but \
             \"partial_rotary_factor\" is not 1",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::FAMILIES;
    use llm_quantize_plugin_api::hf_config::Llama3Scaling;
    use serde_json::json;

    fn config(extra: Value) -> Value {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn read(extra: Value) -> Result<Hyperparameters> {
        let config = config(extra);
        Hyperparameters::from_config(Family::for_architecture(&config)?, &config)
    }

    #[test]
    fn missing_keys_get_transformers_defaults() {
        let model = read(json!({})).unwrap();
        assert_eq!(
            (model.kv_heads, model.head_dim, model.context),
            (4, 16, 2048)
        );
        assert_eq!((model.rms_epsilon, model.rope.theta), (1e-6, 10_000.0));
        assert!(model.head_dim_stated && model.causal);
        let qwen3 = read(json!({"architectures": ["Qwen3ForCausalLM"]})).unwrap();
        assert_eq!((qwen3.head_dim, qwen3.context), (128, 32_768));
    }

    #[test]
    fn both_spellings_of_the_rotary_embedding() {
        let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
        let older = read(json!({"rope_theta": 500000.0, "rope_scaling": scaling})).unwrap();
        let mut newer = scaling.clone();
        newer["rope_theta"] = json!(500000.0);
        let newer = read(json!({"rope_parameters": newer})).unwrap();
        assert_eq!(older, newer);
        let expected = Llama3Scaling {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        };
        assert_eq!(older.rope.scaling, RopeScaling::Llama3(expected));
        assert_eq!(older.rope.theta, 500_000.0);
    }

    #[test]
    fn a_configuration_of_transformers_5_is_read() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/fixtures/tiny-llama/config.json"
        ));
        let config: Value = serde_json::from_str(text).unwrap();
        let family = Family::for_architecture(&config).unwrap();
        let expected = Hyperparameters {
            layers: 4,
            hidden: 256,
            feed_forward: 768,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            head_dim_stated: true,
            vocabulary: 2048,
            context: 512,
            rms_epsilon: 1e-5,
            rope: Rope {
                theta: 10_000.0,
                scaling: RopeScaling::None,
            },
            causal: true,
            sliding_window: None,
            experts: None,
        };
        let found = Hyperparameters::from_config(family, &config);
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn the_oldest_spelling_says_type() {
        let model = read(json!({"rope_scaling": {"type": "linear", "factor": 2.0}})).unwrap();
        assert_eq!(model.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn windows_are_read_as_the_family_does() {
        let window = |extra| read(extra).unwrap().sliding_window;
        let mistral = ["MistralForCausalLM"];
        let qwen = ["Qwen2ForCausalLM"];
        assert_eq!(window(json!({"sliding_window": 9})), None);
        assert_eq!(window(json!({"architectures": mistral})), Some(4096));
        let null = json!({"architectures": mistral, "sliding_window": null});
        assert_eq!(window(null), None);
        let unused = json!({"architectures": qwen, "sliding_window": 9});
        assert_eq!(window(unused), None);
        let used = json!({"architectures": qwen, "sliding_window": 9, "use_sliding_window": true});
        assert_eq!(window(used.clone()), Some(9));
        assert_eq!(read(used).unwrap().warnings().len(), 1);
    }

    #[test]
    fn impossible_models_are_refused() {
        for (extra, part) in [
            (json!({"num_attention_heads": 0}), "no possible size"),
            (
                json!({"num_hidden_layers": 1_000_000_000_000u64}),
                "no possible size",
            ),
            (
                json!({"num_hidden_layers": 4000}),
                "more than llama.cpp loads",
            ),
            (json!({"num_key_value_heads": 3}), "cannot share"),
            (json!({"head_dim": 15}), "must be even"),
            (json!({"head_dim": 4_000_000_000u64}), "too many"),
            (json!({"num_attention_heads": 100}), "must be even"),
            (json!({"hidden_size": null}), "has no \"hidden_size\""),
            (json!({"hidden_size": "64"}), "expected a whole number"),
            (json!({"hidden_act": "gelu"}), "\"gelu\""),
            (json!({"num_local_experts": 8}), "mixture of experts"),
            (
                json!({"partial_rotary_factor": 0.5}),
                "partial_rotary_factor",
            ),
            (
                json!({"rope_scaling": {"rope_type": "longrope"}}),
                "\"longrope\"",
            ),
            (
                json!({"rope_scaling": {"rope_type": "linear"}}),
                "no \"factor\"",
            ),
            (
                json!({"rope_scaling": {"rope_type": "llama3", "high_freq_factor": 1}}),
                "not above",
            ),
            (
                json!({"architectures": ["Qwen2ForCausalLM"], "head_dim": 32}),
                "as wide as",
            ),
        ] {
            let error = read(extra.clone()).unwrap_err();
            assert!(error.message.contains(part), "{extra}: {error}");
        }
    }

    #[test]
    fn smollm3_needs_its_interval() {
        let smollm3 = |layers| {
            read(
                json!({"architectures": ["SmolLM3ForCausalLM"], "num_hidden_layers": 4,
                "no_rope_layers": layers}),
            )
        };
        assert!(smollm3(json!([1, 1, 1, 0])).is_ok());
        assert!(smollm3(json!([1, 1, 0, 1])).is_err());
        assert!(smollm3(json!(null)).is_ok());
    }

    #[test]
    fn every_family_has_a_class_and_unique_names() {
        let mut classes: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|f| f.architectures)
            .copied()
            .collect();
        let count = classes.len();
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(classes.len(), count);
        assert!(
            FAMILIES
                .iter()
                .all(|family| !family.architectures.is_empty())
        );
    }

    #[test]
    fn unknown_architectures_are_refused_with_the_known_ones() {
        let error = Family::for_architecture(&json!({"architectures": ["GptOssForCausalLM"]}));
        let error = error.unwrap_err();
        assert!(error.message.contains("GptOssForCausalLM"));
        assert!(
            error
                .suggestion
                .unwrap()
                .contains("LlamaForCausalLM, MistralForCausalLM")
        );
        let by_type = Family::for_architecture(&json!({"model_type": "qwen3"})).unwrap();
        assert_eq!(by_type.gguf, "qwen3");
        let empty = json!({"architectures": [], "model_type": "llama"});
        assert_eq!(Family::for_architecture(&empty).unwrap().gguf, "llama");
        assert!(Family::for_architecture(&json!({"model_type": "mamba"})).is_err());
        assert!(Family::for_architecture(&json!({})).is_err());
    }

    #[test]
    fn gguf_architectures_map_back() {
        assert_eq!(
            Family::for_gguf("llama", false, false).unwrap().name,
            "Llama"
        );
        assert_eq!(
            Family::for_gguf("llama", true, false).unwrap().name,
            "Mistral"
        );
        assert_eq!(
            Family::for_gguf("qwen2", true, false).unwrap().name,
            "Qwen2"
        );
        let error = Family::for_gguf("gemma3", false, false).unwrap_err();
        assert!(error.suggestion.unwrap().contains("llama, qwen2, qwen3"));
    }
}
