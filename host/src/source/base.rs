//! A model whose configuration and small files come from another one.

use llm_quantize_plugin_api::hf_folder::QUANTIZATION;
use llm_quantize_plugin_api::{Inputs, ModelView};
use serde_json::Value;

use super::{SourceModel, config};
use crate::error::{Error, Result};

/// What both configurations must agree on, with its name for people.
type Size = (&'static str, fn(&Value) -> Option<u64>);

const SIZES: [Size; 5] = [
    ("layers", config::num_layers),
    ("hidden size", config::hidden_size),
    ("heads", config::num_heads),
    ("key and value heads", config::num_kv_heads),
    ("vocabulary", config::vocab_size),
];

impl SourceModel {
    /// Takes the configuration and the small files (tokenizer, templates) of another model, of
    /// which this one is a version.
    ///
    /// # Errors
    /// If it is no version of it, or is seen as its own format has it.
    pub fn with_base(mut self, base: Self) -> Result<Self> {
        if self.view() == ModelView::Native {
            let format = &self.model().format;
            return Err(Error::invalid_arguments(format!(
                "a {format} model that stays one keeps its own configuration"
            ))
            .suggest("leave out --base"));
        }
        let ours = &self.model().config;
        let theirs = &base.model().config;
        for (name, size) in SIZES {
            if let (Some(ours), Some(theirs)) = (size(ours), size(theirs))
                && ours != theirs
            {
                return Err(Error::invalid_arguments(format!(
                    "{} is not the base of {}: it has another {name} ({theirs}, not {ours})",
                    base.path().display(),
                    self.path().display()
                ))
                .suggest("give the model that this one was quantized from with --base"));
            }
        }
        let mut config = theirs.clone();
        if let Some(fields) = config.as_object_mut() {
            fields.shift_remove(QUANTIZATION);
        }
        self.replace_config(config, base);
        Ok(self)
    }
}
