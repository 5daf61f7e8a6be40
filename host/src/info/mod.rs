//! What `info` says about a model.

mod human;
mod tokenizer;
mod types;

use llm_quantize_plugin_api::{Inputs, TensorInfo};
use serde::Serialize;
use serde_json::{Map, Value};

pub use human::human;
pub use tokenizer::TokenizerInfo;
pub use types::{KindCount, Quantization, TypeCount};

use crate::source::{SourceModel, config};

/// The description of a model; in JSON a document of this form. Numbers that the
/// model does not tell are null.
#[derive(Debug, Clone, Serialize)]
pub struct ModelInfo {
    /// Name of the folder or file.
    pub model_name: String,
    /// Where it lies.
    pub path: String,
    /// `hf`, or the format that a plugin reads.
    pub format: String,
    /// Class in transformers, or what the format calls it.
    pub architecture: Option<String>,
    /// Numbers in all tensors.
    pub parameter_count: u64,
    /// Width of the residual stream.
    pub hidden_size: Option<u64>,
    /// Transformer blocks.
    pub num_layers: Option<u64>,
    /// Attention heads.
    pub num_heads: Option<u64>,
    /// Key and value heads.
    pub num_kv_heads: Option<u64>,
    /// Tokens.
    pub vocab_size: Option<u64>,
    /// Longest sequence.
    pub context_length: Option<u64>,
    /// The dtype of the config, else the one that most numbers have.
    pub torch_dtype: String,
    /// How the weights are stored, unless all are plain floats.
    pub quantization: Option<Quantization>,
    /// Stored types with their share.
    pub tensor_types: Vec<TypeCount>,
    /// Number of tensors.
    pub tensor_count: usize,
    /// Bytes of the files that hold the tensors.
    pub file_size: u64,
    /// The tokenizer, if there is one.
    pub tokenizer: Option<TokenizerInfo>,
    /// Facts that only the format has.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub facts: Map<String, Value>,
    /// All tensors, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<TensorInfo>>,
}

impl ModelInfo {
    /// Gathers what there is to say. Reads no weights.
    pub fn new(source: &SourceModel, with_tensors: bool) -> Self {
        let model = source.model();
        let config = &model.config;
        let counts = model.tensors.iter().filter_map(TensorInfo::elements);
        let facts = model.facts.iter();
        let layers = Some(source.num_layers()).filter(|&layers| layers > 0);
        Self {
            model_name: model.name.clone(),
            path: source.path().to_string_lossy().into_owned(),
            format: model.format.clone(),
            architecture: config::architecture(config).map(str::to_owned),
            parameter_count: counts.fold(0, u64::saturating_add),
            hidden_size: config::hidden_size(config),
            num_layers: config::num_layers(config).or(layers),
            num_heads: config::num_heads(config),
            num_kv_heads: config::num_kv_heads(config),
            vocab_size: config::vocab_size(config),
            context_length: config::context_length(config),
            torch_dtype: match config::dtype(config) {
                Some(dtype) => dtype.to_owned(),
                None => source.original_dtype(),
            },
            quantization: types::quantization(model, source.total_bytes()),
            tensor_types: types::types(&model.tensors),
            tensor_count: model.tensors.len(),
            file_size: source.file_bytes(),
            tokenizer: tokenizer::tokenizer(source),
            facts: facts
                .map(|(name, value)| (name.clone(), value.clone().into()))
                .collect(),
            tensors: with_tensors.then(|| model.tensors.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::fixtures::{Tensor, write_llama, write_safetensors};
    use crate::source::test_plugin::converters;
    use llm_quantize_plugin_api::ModelView;
    use serde_json::json;

    fn info(path: &std::path::Path, tensors: bool) -> ModelInfo {
        let path = path.to_str().unwrap();
        let source = SourceModel::open(path, &converters(), ModelView::HuggingFace).unwrap();
        ModelInfo::new(&source, tensors)
    }

    #[test]
    fn a_folder() {
        let folder = tempfile::tempdir().unwrap();
        write_llama(folder.path());
        let info = info(folder.path(), false);
        let value = serde_json::to_value(&info).unwrap();
        for (key, expected) in [
            ("architecture", json!("LlamaForCausalLM")),
            ("parameter_count", json!(8 * 4 + 2 * (16 + 4))),
            ("hidden_size", json!(4)),
            ("num_layers", json!(2)),
            ("num_heads", json!(2)),
            ("num_kv_heads", json!(1)),
            ("vocab_size", json!(8)),
            ("context_length", json!(16)),
            ("torch_dtype", json!("bfloat16")),
            ("quantization", json!(null)),
            ("tensor_count", json!(5)),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
        assert_eq!(value["tokenizer"]["kind"], "BPE");
        assert_eq!(value["tensor_types"][0]["type"], "BF16");
        assert!(value.get("tensors").is_none());
        assert!(human(&info).contains("LlamaForCausalLM"));
    }

    #[test]
    fn the_older_spelling_and_no_dtype_at_all() {
        let folder = tempfile::tempdir().unwrap();
        write_llama(folder.path());
        let path = folder.path().join("config.json");
        std::fs::write(&path, r#"{"torch_dtype":"float16","rope_theta":1e4}"#).unwrap();
        assert_eq!(info(folder.path(), false).torch_dtype, "float16");
        std::fs::write(&path, "{}").unwrap();
        let without = info(folder.path(), false);
        assert_eq!(without.torch_dtype, "bfloat16");
        assert_eq!(without.num_layers, Some(2));
        assert_eq!(without.architecture, None);
        assert!(!human(&without).contains("Architecture"));
    }

    #[test]
    fn a_plugins_model_with_tensors_and_facts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.text");
        std::fs::write(&path, "TEXT 1234").unwrap();
        let info = info(&path, true);
        let value = serde_json::to_value(&info).unwrap();
        assert_eq!(value["quantization"]["bits_per_weight"], 8.0);
        assert_eq!(value["quantization"]["kinds"][0]["kind"], "layers.*.weight");
        assert_eq!(value["facts"]["text.version"], "1");
        assert_eq!(value["tensors"][0]["dtype"], "DIGIT");
        let text = human(&info);
        assert!(text.contains("layers.0.weight") && text.contains("text.version"));
    }

    #[test]
    fn names_cannot_send_control_characters() {
        let folder = tempfile::tempdir().unwrap();
        write_llama(folder.path());
        let tensor = Tensor::bf16_zeros("evil\x1b[2J", &[2]);
        write_safetensors(&folder.path().join("model.safetensors"), &[tensor]);
        assert!(!human(&info(folder.path(), true)).contains('\x1b'));
    }
}
