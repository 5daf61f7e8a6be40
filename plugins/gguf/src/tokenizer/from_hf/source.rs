//! The small configuration files of a model folder, parsed.

use serde_json::{Map, Value};

use crate::tokenizer::TokenizerError;
use crate::tokenizer::files::{self, FileSet};
use crate::tokenizer::metadata::check_count;

/// A model folder with the configuration that every step needs.
pub(super) struct Source<'a> {
    /// The files themselves.
    pub files: &'a dyn FileSet,
    /// config.json.
    pub config: Map<String, Value>,
    /// tokenizer_config.json.
    pub tokenizer_config: Map<String, Value>,
    /// special_tokens_map.json.
    pub special_tokens_map: Map<String, Value>,
    /// What to tell the user although the conversion succeeds.
    pub warnings: Vec<String>,
}

impl<'a> Source<'a> {
    pub(super) fn load(files: &'a dyn FileSet) -> Result<Self, TokenizerError> {
        let object = |name| files::object(files, name).map(Option::unwrap_or_default);
        Ok(Self {
            files,
            config: object("config.json")?,
            tokenizer_config: object("tokenizer_config.json")?,
            special_tokens_map: object("special_tokens_map.json")?,
            warnings: Vec::new(),
        })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.files.get(name).is_some()
    }

    pub(super) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// A value of config.json; that of the language model where several models are nested.
    pub(super) fn config(&self, key: &str) -> Option<&Value> {
        let nested = self
            .config
            .get("text_config")
            .and_then(|text| text.get(key));
        nested.or_else(|| self.config.get(key))
    }

    /// The number of rows of the embedding table.
    pub(super) fn vocab_size(&self) -> Result<Option<usize>, TokenizerError> {
        match self.config("vocab_size") {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let size = value.as_u64().filter(|size| *size > 0).ok_or_else(|| {
                    let what = format!("vocab_size is {value}, not a positive integer");
                    TokenizerError::malformed("config.json", what)
                })?;
                check_count("config.json", size)?;
                Ok(Some(size as usize))
            }
        }
    }

    /// The model's class, from `architectures`.
    pub(super) fn architecture(&self) -> &str {
        let first = self
            .config
            .get("architectures")
            .and_then(|list| list.get(0));
        first.and_then(Value::as_str).unwrap_or("")
    }

    /// Whether llama.cpp treats the model as a plain Llama.
    pub(super) fn is_llama(&self) -> bool {
        const LLAMA: [&str; 7] = [
            "LLaMAForCausalLM",
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "MixtralForCausalLM",
            "VLlama3ForCausalLM",
            "IQuestCoderForCausalLM",
            "LlamaModel",
        ];
        LLAMA.contains(&self.architecture())
    }
}

/// The text of a special token in a configuration: a string or an object with `content`.
pub(super) fn token_text(entry: Option<&Value>) -> Option<&str> {
    let entry = entry?;
    let text = entry
        .as_str()
        .or_else(|| entry.get("content").and_then(Value::as_str));
    text.filter(|text| !text.is_empty())
}
