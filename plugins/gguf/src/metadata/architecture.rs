//! The keys of the architecture: `<arch>.*` from the hyperparameters, and back.

use llm_quantize_plugin_api::hf_config::{Rope, RopeScaling, YarnScaling};
use llm_quantize_plugin_api::{Error, Result};

use crate::container::{Array, Metadata, MetadataError, Value};
use crate::families::{ExpertSizes, Family, Hyperparameters, Window};

/// Writes the keys that the converter writes before `general.file_type`.
pub(super) fn write(family: &Family, model: &Hyperparameters, metadata: &mut Metadata) {
    let mut set = |name: &str, value: Value| metadata.set(&key(family, name), value);
    set("block_count", model.layers.into());
    set("context_length", count(model.context));
    set("embedding_length", count(model.hidden));
    set("feed_forward_length", count(model.feed_forward));
    set("attention.head_count", count(model.heads));
    set("attention.head_count_kv", count(model.kv_heads));
    if let Some(experts) = model.experts {
        set("expert_count", count(experts.count));
        set("expert_used_count", count(experts.used));
        if family.experts.is_some_and(|keys| keys.width.is_some()) {
            set("expert_feed_forward_length", count(experts.feed_forward));
        }
    }
    if family.window == Window::Optional
        && let Some(window) = model.sliding_window
    {
        set("attention.sliding_window", count(window));
    }
    if !model.causal {
        set("attention.causal", false.into());
    }
    for (name, value) in scaling(&model.rope.scaling) {
        set(name, value);
    }
    set("rope.freq_base", single(model.rope.theta));
    set(
        "attention.layer_norm_rms_epsilon",
        single(model.rms_epsilon),
    );
    if model.head_dim_stated {
        set("attention.key_length", count(model.head_dim));
        set("attention.value_length", count(model.head_dim));
    }
}

/// Writes the keys that the converter writes after `general.file_type` for Llama and its
/// kin.
pub(super) fn write_llama(family: &Family, model: &Hyperparameters, metadata: &mut Metadata) {
    if family.llama_keys {
        metadata.set(&key(family, "vocab_size"), count(model.vocabulary));
        metadata.set(&key(family, "rope.dimension_count"), count(model.head_dim));
    }
}

fn key(family: &Family, name: &str) -> String {
    format!("{}.{name}", family.gguf)
}

/// Counts have been checked to fit when the hyperparameters were read.
fn count(count: u64) -> Value {
    Value::U32(u32::try_from(count).unwrap_or(u32::MAX))
}

fn single(number: f64) -> Value {
    Value::F32(number as f32)
}

fn scaling(scaling: &RopeScaling) -> Vec<(&'static str, Value)> {
    match *scaling {
        // Llama 3's factors are a tensor; the others have no keys.
        RopeScaling::None | RopeScaling::Llama3(_) | RopeScaling::Dynamic => Vec::new(),
        RopeScaling::Linear { factor } => vec![
            ("rope.scaling.type", "linear".into()),
            ("rope.scaling.factor", single(factor)),
        ],
        RopeScaling::Yarn(yarn) => {
            let mut keys = vec![
                ("rope.scaling.type", "yarn".into()),
                ("rope.scaling.factor", single(yarn.factor)),
                (
                    "rope.scaling.original_context_length",
                    count(yarn.original_context),
                ),
            ];
            let optional = [
                ("rope.scaling.yarn_ext_factor", yarn.extrapolation_factor),
                (
                    "rope.scaling.yarn_attn_factor",
                    yarn.attention_factor.or(yarn.attn_factor),
                ),
                ("rope.scaling.yarn_beta_fast", yarn.beta_fast),
                ("rope.scaling.yarn_beta_slow", yarn.beta_slow),
            ];
            keys.extend(
                optional
                    .into_iter()
                    .filter_map(|(key, v)| Some((key, single(v?)))),
            );
            keys
        }
    }
}

/// Reads the family and the hyperparameters of a GGUF file. A scaling of Llama 3's kind
/// is not among its keys and is left to the caller.
///
/// # Errors
/// If a key is missing, of a wrong type or impossible, or the architecture is unknown or
/// computes in a way that its Hugging Face class does not.
pub fn read(metadata: &Metadata) -> Result<(&'static Family, Hyperparameters)> {
    let architecture: &str = metadata
        .require("general.architecture")
        .map_err(|error| wrong(&error))?;
    let keys = Keys {
        metadata,
        architecture,
    };
    let sliding_window = keys.count("attention.sliding_window")?;
    let experts = keys.count("expert_count")?;
    let family = Family::for_gguf(architecture, sliding_window.is_some(), experts.is_some())?;
    let hidden = keys.require("embedding_length")?;
    let heads = keys.require("attention.head_count")?;
    let stated = keys.count("attention.key_length")?;
    let context = keys.require("context_length")?;
    let model = Hyperparameters {
        layers: u32::try_from(keys.require("block_count")?).unwrap_or(u32::MAX),
        hidden,
        feed_forward: keys.require("feed_forward_length")?,
        experts: read_experts(&keys, experts)?,
        heads,
        kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
        head_dim: stated.unwrap_or(hidden / heads),
        head_dim_stated: stated.is_some(),
        vocabulary: vocabulary(&keys)?,
        context,
        rms_epsilon: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| keys.missing("attention.layer_norm_rms_epsilon"))?,
        rope: Rope {
            theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
            scaling: read_scaling(&keys, context)?,
        },
        causal: keys.flag("attention.causal")?.unwrap_or(true),
        sliding_window,
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if keys.count(name)?.is_some_and(|size| size != model.head_dim) {
            return Err(Error::unsupported(format!(
                "\"{architecture}.{name}\" is not the size of a head, {}: the Hugging Face class \
                 has no such setting",
                model.head_dim
            )));
        }
    }
    model.check(family, "the file's metadata")?;
    Ok((family, model))
}

fn read_experts(keys: &Keys<'_>, count: Option<u64>) -> Result<Option<ExpertSizes>> {
    let Some(count) = count else { return Ok(None) };
    let width = match keys.count("expert_feed_forward_length")? {
        Some(width) => width,
        None => keys.require("feed_forward_length")?,
    };
    Ok(Some(ExpertSizes {
        count,
        used: keys.require("expert_used_count")?,
        feed_forward: width,
    }))
}

fn vocabulary(keys: &Keys<'_>) -> Result<u64> {
    if let Some(size) = keys.count("vocab_size")? {
        return Ok(size);
    }
    match keys.metadata.value("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) if !tokens.is_empty() => Ok(tokens.len() as u64),
        _ => Err(Error::corrupt(
            "the file says neither how many tokens there are nor what they are \
             (\"tokenizer.ggml.tokens\")",
        )),
    }
}

fn read_scaling(keys: &Keys<'_>, context: u64) -> Result<RopeScaling> {
    // The second name is that of files from before August 2023.
    let factor = match keys.number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.number("rope.scale_linear")?,
    };
    let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
    match (kind, factor) {
        ("none", _) | ("linear", None) => Ok(RopeScaling::None),
        ("linear", Some(1.0)) => Ok(RopeScaling::None),
        ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
        ("yarn", Some(factor)) => Ok(RopeScaling::Yarn(YarnScaling {
            factor,
            original_context: keys
                .count("rope.scaling.original_context_length")?
                .unwrap_or(context),
            extrapolation_factor: keys.number("rope.scaling.yarn_ext_factor")?,
            attention_factor: keys.number("rope.scaling.yarn_attn_factor")?,
            beta_fast: keys.number("rope.scaling.yarn_beta_fast")?,
            beta_slow: keys.number("rope.scaling.yarn_beta_slow")?,
            ..YarnScaling::default()
        })),
        ("yarn", None) => Err(keys.missing("rope.scaling.factor")),
        (other, _) => Err(Error::unsupported(format!(
            "the rotary scaling \"{other}\" of the file has no counterpart in its Hugging Face class"
        ))),
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn missing(&self, name: &str) -> Error {
        Error::corrupt(format!("the file has no \"{}\"", self.key(name)))
    }

    /// A count, or an array that says the same for every layer. Zero means "none".
    fn count(&self, name: &str) -> Result<Option<u64>> {
        let key = self.key(name);
        let count = match self.metadata.value(&key) {
            Some(Value::Array(array)) => Some(uniform(&key, array)?),
            _ => self
                .metadata
                .unsigned(&key)
                .map_err(|error| wrong(&error))?,
        };
        if count.is_some_and(|count| count > u64::from(u32::MAX)) {
            return Err(Error::corrupt(format!("\"{key}\" is impossibly large")));
        }
        Ok(count.filter(|count| *count > 0))
    }

    fn require(&self, name: &str) -> Result<u64> {
        self.count(name)?.ok_or_else(|| {
            Error::corrupt(format!(
                "the file has no \"{}\", or it is zero",
                self.key(name)
            ))
        })
    }

    /// A number above zero; zero means "none".
    fn number(&self, name: &str) -> Result<Option<f64>> {
        let key = self.key(name);
        let number = match self.metadata.value(&key) {
            None => return Ok(None),
            Some(Value::F32(number)) => super::shortest(*number),
            Some(Value::F64(number)) => Some(*number).filter(|number| number.is_finite()),
            Some(other) => {
                return Err(Error::corrupt(format!(
                    "\"{key}\" has type {}, expected f32",
                    other.describe_type()
                )));
            }
        };
        match number {
            // llama.cpp takes a zero for "not set" as well.
            Some(0.0) => Ok(None),
            Some(number) if number > 0.0 => Ok(Some(number)),
            _ => Err(Error::corrupt(format!("\"{key}\" is no possible number"))),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>> {
        let flag = self.metadata.get(&self.key(name));
        flag.map_err(|error| wrong(&error))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let text = self.metadata.get(&self.key(name));
        text.map_err(|error| wrong(&error))
    }
}

pub(super) fn wrong(error: &MetadataError) -> Error {
    Error::corrupt(error.to_string())
}

/// The value that all layers share.
fn uniform(key: &str, array: &Array) -> Result<u64> {
    let values: Option<Vec<u64>> = match array {
        Array::U32(values) => Some(values.iter().map(|v| u64::from(*v)).collect()),
        Array::I32(values) => values.iter().map(|v| u64::try_from(*v).ok()).collect(),
        Array::U64(values) => Some(values.clone()),
        _ => None,
    };
    let values = values.unwrap_or_default();
    match values.first() {
        Some(first) if values.iter().all(|value| value == first) => Ok(*first),
        Some(_) => Err(Error::unsupported(format!(
            "\"{key}\" differs between layers, which the Hugging Face class does not have"
        ))),
        None => Err(Error::corrupt(format!("\"{key}\" is no list of counts"))),
    }
}
