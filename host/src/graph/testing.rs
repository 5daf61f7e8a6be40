//! Models of four small layers for the tests: descriptions only.

use llm_quantize_plugin_api::{ModelDescription, TensorInfo};
use serde_json::{Value, json};

use super::Graph;
use crate::error::Result;

/// A configuration of four layers, 8 wide, with two query heads and one key head of 4.
pub fn config(architecture: &str, extra: &Value) -> Value {
    let mut config = json!({
        "architectures": [architecture], "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 4, "vocab_size": 10,
    });
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// The tensors that every one of these models has.
pub fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![10, 8]),
        ("model.norm.weight".to_owned(), vec![8]),
        ("lm_head.weight".to_owned(), vec![10, 8]),
    ];
    let parts: [(&str, &[u64]); 9] = [
        ("input_layernorm", &[8]),
        ("self_attn.q_proj", &[8, 8]),
        ("self_attn.k_proj", &[4, 8]),
        ("self_attn.v_proj", &[4, 8]),
        ("self_attn.o_proj", &[8, 8]),
        ("post_attention_layernorm", &[8]),
        ("mlp.gate_proj", &[12, 8]),
        ("mlp.up_proj", &[12, 8]),
        ("mlp.down_proj", &[8, 12]),
    ];
    for layer in 0..4 {
        for (name, shape) in parts {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.into()));
        }
    }
    tensors
}

/// Adds a tensor to each layer.
pub fn with(mut tensors: Vec<(String, Vec<u64>)>, more: &[(&str, u64)]) -> Vec<(String, Vec<u64>)> {
    for layer in 0..4 {
        for (name, length) in more {
            tensors.push((format!("model.layers.{layer}.{name}"), vec![*length]));
        }
    }
    tensors
}

/// A model with these tensors.
pub fn described(config: Value, tensors: Vec<(String, Vec<u64>)>) -> ModelDescription {
    let tensors = tensors.into_iter().map(|(name, shape)| TensorInfo {
        name,
        dtype: "F32".into(),
        shape,
        bytes: 0,
    });
    ModelDescription {
        config,
        tensors: tensors.collect(),
        ..ModelDescription::default()
    }
}

/// The graph of such a model.
pub fn graph_of(config: Value, tensors: Vec<(String, Vec<u64>)>) -> Result<Graph> {
    Graph::of(&described(config, tensors))
}

/// The graph of a model of this architecture.
pub fn graph(architecture: &str, extra: Value) -> Result<Graph> {
    graph_of(config(architecture, &extra), tensors())
}

/// Biases of the attention.
pub const ATTENTION_BIASES: [(&str, u64); 4] = [
    ("self_attn.q_proj.bias", 8),
    ("self_attn.k_proj.bias", 4),
    ("self_attn.v_proj.bias", 4),
    ("self_attn.o_proj.bias", 8),
];
/// Norms of the heads.
pub const HEAD_NORMS: [(&str, u64); 2] = [
    ("self_attn.q_norm.weight", 4),
    ("self_attn.k_norm.weight", 4),
];
