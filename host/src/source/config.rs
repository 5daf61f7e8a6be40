//! What the host itself reads from a `config.json`, in all its spellings.

use serde_json::Value;

/// The part of a config that describes the language model: multimodal models keep
/// it one level down.
pub fn language_model(config: &Value) -> &Value {
    ["text_config", "language_config", "llm_config"]
        .into_iter()
        .filter_map(|key| config.get(key))
        .find(|inner| inner.get("hidden_size").is_some())
        .unwrap_or(config)
}

fn number(config: &Value, keys: &[&str]) -> Option<u64> {
    [language_model(config), config]
        .into_iter()
        .find_map(|part| keys.iter().find_map(|key| part.get(key)?.as_u64()))
}

fn text<'a>(config: &'a Value, keys: &[&str]) -> Option<&'a str> {
    [config, language_model(config)]
        .into_iter()
        .find_map(|part| keys.iter().find_map(|key| part.get(key)?.as_str()))
}

/// The class in transformers, e.g. `LlamaForCausalLM`; else the model type.
pub fn architecture(config: &Value) -> Option<&str> {
    let first = config.get("architectures").and_then(|list| list.get(0));
    first
        .and_then(Value::as_str)
        .or_else(|| text(config, &["model_type"]))
}

/// Width of the residual stream.
pub fn hidden_size(config: &Value) -> Option<u64> {
    number(config, &["hidden_size", "n_embd", "d_model"])
}

/// Number of transformer blocks.
pub fn num_layers(config: &Value) -> Option<u64> {
    number(
        config,
        &["num_hidden_layers", "n_layer", "num_layers", "n_layers"],
    )
}

/// Number of attention heads.
pub fn num_heads(config: &Value) -> Option<u64> {
    number(
        config,
        &["num_attention_heads", "n_head", "num_heads", "n_heads"],
    )
}

/// Number of key and value heads; as many as heads where the config has none.
pub fn num_kv_heads(config: &Value) -> Option<u64> {
    number(config, &["num_key_value_heads", "num_kv_heads"]).or_else(|| num_heads(config))
}

/// Size of the vocabulary.
pub fn vocab_size(config: &Value) -> Option<u64> {
    number(config, &["vocab_size", "n_vocab"])
}

/// Longest sequence that the positions allow.
pub fn context_length(config: &Value) -> Option<u64> {
    number(
        config,
        &[
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_seq_len",
            "max_sequence_length",
        ],
    )
}

/// The dtype that the config names: `dtype` since transformers 5, `torch_dtype`
/// before.
pub fn dtype(config: &Value) -> Option<&str> {
    text(config, &["dtype", "torch_dtype"]).map(|name| name.trim_start_matches("torch."))
}

/// The method of a quantized model, e.g. `awq`.
pub fn quantization_method(config: &Value) -> Option<&str> {
    let section = config
        .get("quantization_config")
        .or_else(|| language_model(config).get("quantization_config"))?;
    section.get("quant_method").and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_spellings_of_the_dtype() {
        assert_eq!(dtype(&json!({"dtype": "bfloat16"})), Some("bfloat16"));
        assert_eq!(
            dtype(&json!({"torch_dtype": "torch.float16"})),
            Some("float16")
        );
        assert_eq!(dtype(&json!({})), None);
    }

    #[test]
    fn nested_and_old_configs() {
        let nested = json!({"architectures": ["X"], "text_config":
            {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 4, "dtype": "float32"}});
        assert_eq!(num_layers(&nested), Some(3));
        assert_eq!(num_kv_heads(&nested), Some(4));
        assert_eq!(dtype(&nested), Some("float32"));
        assert_eq!(architecture(&nested), Some("X"));
        let gpt2 = json!({"model_type": "gpt2", "n_embd": 5, "n_layer": 2, "n_positions": 7});
        assert_eq!((hidden_size(&gpt2), num_layers(&gpt2)), (Some(5), Some(2)));
        assert_eq!(context_length(&gpt2), Some(7));
        assert_eq!(architecture(&gpt2), Some("gpt2"));
    }

    #[test]
    fn quantization_is_found() {
        let awq = json!({"quantization_config": {"quant_method": "awq"}});
        assert_eq!(quantization_method(&awq), Some("awq"));
        assert_eq!(quantization_method(&json!({"hidden_size": 1})), None);
    }
}
