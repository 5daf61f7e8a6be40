//! A GGUF file's metadata as a Hugging Face configuration.

use std::collections::BTreeMap;

use llm_quantize_plugin_api::hf_config::{Llama3Scaling, RopeScaling};
use llm_quantize_plugin_api::{Error, Result};
use serde_json::{Map, Value, json};

use super::{architecture, rope_freqs, sampling};
use crate::container::Metadata;
use crate::families::{
    Constant, Family, HfTensor, Hyperparameters, NamedTensor, Window, unmap_tensors,
};

/// What a Hugging Face model is made from.
#[derive(Debug, Clone, Copy)]
pub struct GgufModel<'a> {
    /// Keys of the (first) file.
    pub metadata: &'a Metadata,
    /// Tensors of all files.
    pub tensors: &'a [NamedTensor<'a>],
    /// The numbers of the tensor [`ROPE_FREQS`](crate::families::ROPE_FREQS), if there is
    /// one.
    pub rope_freqs: Option<&'a [f32]>,
    /// The type that the configuration shall name: `float32`, `float16`, `bfloat16`.
    pub dtype: &'a str,
}

/// A GGUF file in Hugging Face's terms.
#[derive(Debug, Clone)]
pub struct HfModel {
    /// The family.
    pub family: &'static Family,
    /// The numbers of the architecture.
    pub hyperparameters: Hyperparameters,
    /// `config.json`.
    pub config: Value,
    /// `generation_config.json`.
    pub generation_config: Value,
    /// The tensors, in the order of their names.
    pub tensors: Vec<HfTensor>,
    /// Whether the embeddings serve as output head.
    pub tied: bool,
}

/// Describes a GGUF file as a Hugging Face model.
///
/// # Errors
/// If a key or tensor is missing, wrong or impossible, or the model computes in a way
/// that its Hugging Face class does not.
pub fn describe(gguf: &GgufModel<'_>) -> Result<HfModel> {
    let (family, mut model) = architecture::read(gguf.metadata)?;
    let unmapped = unmap_tensors(family, &model, gguf.tensors)?;
    if let Some(scaling) = llama3(gguf, &model, unmapped.rope_freqs.is_some())? {
        model.rope.scaling = RopeScaling::Llama3(scaling);
    }
    let mut config = config(family, &model, gguf);
    config.insert("tie_word_embeddings", json!(unmapped.tied));
    config.extend(unmapped.flags.iter().map(|(key, set)| (*key, json!(set))));
    Ok(HfModel {
        config: config.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        generation_config: Value::Object(generation_config(gguf.metadata)),
        tensors: unmapped.tensors,
        tied: unmapped.tied,
        hyperparameters: model,
        family,
    })
}

fn llama3(
    gguf: &GgufModel<'_>,
    model: &Hyperparameters,
    present: bool,
) -> Result<Option<Llama3Scaling>> {
    let scaling = match (present, gguf.rope_freqs) {
        (false, _) => return Ok(None),
        (true, Some(factors)) => rope_freqs::solve(factors, model.rope.theta, model.head_dim)?,
        (true, None) => {
            return Err(Error::internal(
                "the numbers of \"rope_freqs.weight\" were not given",
            ));
        }
    };
    if scaling.is_some() && model.rope.scaling != RopeScaling::None {
        return Err(Error::unsupported(
            "the file has a rotary scaling and factors in \"rope_freqs.weight\"; a Hugging Face \
             configuration can express only one of them",
        ));
    }
    Ok(scaling)
}

/// The configuration but for what depends on the tensors, sorted as transformers does.
fn config(
    family: &Family,
    model: &Hyperparameters,
    gguf: &GgufModel<'_>,
) -> BTreeMap<&'static str, Value> {
    let class = family.architectures.first().copied().unwrap_or_default();
    let mut config = BTreeMap::from([
        ("architectures", json!([class])),
        ("attention_dropout", json!(0.0)),
        ("hidden_act", json!(family.activation.names()[0])),
        ("hidden_size", json!(model.hidden)),
        ("initializer_range", json!(0.02)),
        ("intermediate_size", json!(model.feed_forward)),
        ("max_position_embeddings", json!(model.context)),
        ("model_type", json!(family.model_type)),
        ("num_attention_heads", json!(model.heads)),
        ("num_hidden_layers", json!(model.layers)),
        ("num_key_value_heads", json!(model.kv_heads)),
        ("rms_norm_eps", json!(model.rms_epsilon)),
        ("rope_scaling", scaling(&model.rope.scaling)),
        ("rope_theta", json!(model.rope.theta)),
        ("torch_dtype", json!(gguf.dtype)),
        ("use_cache", json!(true)),
        ("vocab_size", json!(model.vocabulary)),
    ]);
    if model.head_dim_stated {
        config.insert("head_dim", json!(model.head_dim));
    }
    if !model.causal {
        config.insert("is_causal", json!(false));
    }
    match family.window {
        Window::Never => {}
        Window::BySize { .. } | Window::Optional => {
            config.insert("sliding_window", json!(model.sliding_window));
        }
        Window::ByFlag => {
            config.insert("use_sliding_window", json!(model.sliding_window.is_some()));
            if let Some(window) = model.sliding_window {
                config.insert("sliding_window", json!(window));
                // All layers have it, as far as the file says.
                config.insert("max_window_layers", json!(0));
            }
        }
    }
    if let (Some(keys), Some(experts)) = (family.experts, model.experts) {
        config.insert(keys.count[0], json!(experts.count));
        config.insert(keys.used, json!(experts.used));
        config.extend(keys.width.map(|key| (key, json!(experts.feed_forward))));
    }
    for (key, constant) in family.constants {
        let value = match constant {
            Constant::Flag(flag) => json!(flag),
            Constant::Integer(number) => json!(number),
        };
        config.insert(key, value);
    }
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"];
    for (key, id) in ids.iter().zip(token_ids(gguf.metadata)) {
        config.insert(key, id.map_or(Value::Null, |id| json!(id)));
    }
    config
}

/// `rope_scaling`, with the name of its type as older versions of transformers read it
/// and as newer ones do.
fn scaling(scaling: &RopeScaling) -> Value {
    match *scaling {
        RopeScaling::None | RopeScaling::Dynamic => Value::Null,
        RopeScaling::Linear { factor } => {
            json!({"type": "linear", "rope_type": "linear", "factor": factor})
        }
        RopeScaling::Llama3(scaling) => json!({
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context as u64,
        }),
        RopeScaling::Yarn(yarn) => {
            let mut object = json!({
                "type": "yarn",
                "rope_type": "yarn",
                "factor": yarn.factor,
                "original_max_position_embeddings": yarn.original_context,
            });
            let optional = [
                ("extrapolation_factor", yarn.extrapolation_factor),
                ("attention_factor", yarn.attention_factor),
                ("beta_fast", yarn.beta_fast),
                ("beta_slow", yarn.beta_slow),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    object[key] = json!(value);
                }
            }
            object
        }
    }
}

/// Ids of the tokens that begin and end a text and fill batches.
fn token_ids(metadata: &Metadata) -> [Option<u64>; 3] {
    ["bos", "eos", "padding"].map(|name| token_id(metadata, name))
}

/// A token's id; one of a wrong type is as good as none.
fn token_id(metadata: &Metadata, name: &str) -> Option<u64> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    metadata.unsigned(&key).ok().flatten()
}

fn generation_config(metadata: &Metadata) -> Map<String, Value> {
    let [bos, eos, pad] = token_ids(metadata);
    let mut ends: Vec<u64> = eos.into_iter().collect();
    for name in ["eot", "eom"] {
        ends.extend(token_id(metadata, name).filter(|id| !ends.contains(id)));
    }
    let mut config = Map::new();
    config.insert("_from_model_config".into(), json!(true));
    for (key, id) in [("bos_token_id", bos), ("pad_token_id", pad)] {
        if let Some(id) = id {
            config.insert(key.into(), json!(id));
        }
    }
    match ends.as_slice() {
        [] => {}
        [end] => {
            config.insert("eos_token_id".into(), json!(end));
        }
        ends => {
            config.insert("eos_token_id".into(), json!(ends));
        }
    }
    config.extend(sampling::read(metadata));
    config.sort_keys();
    config
}

#[cfg(test)]
mod tests;
