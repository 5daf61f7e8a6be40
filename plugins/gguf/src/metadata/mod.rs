//! GGUF metadata apart from the tokenizer: `general.*` and `<arch>.*`.
//!
//! Keys, types and order are those of llama.cpp's converter, so that the metadata of a
//! converted model is the same. All of these keys stand before the tokenizer's.

mod architecture;
mod authorship;
mod card;
mod name;
mod rope_freqs;
mod sampling;
mod to_hf;

#[cfg(test)]
mod tests;

use llm_quantize_plugin_api::ModelDescription;

use crate::container::Metadata;
use crate::families::MappedModel;

pub use architecture::read as read_architecture;
pub use name::{ModelName, parse as parse_name, size_of, title};
pub use rope_freqs::solve as solve_rope_freqs;
pub use to_hf::{GgufModel, HfModel, describe};

/// `general.quantization_version` (`GGML_QNT_VERSION`).
pub const QUANTIZATION_VERSION: u32 = 2;

/// What the metadata is made from.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The model.
    pub model: &'a ModelDescription,
    /// The same in GGUF's terms.
    pub mapped: &'a MappedModel,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<&'a [u8]>,
    /// The model card, `README.md`, if there is one.
    pub model_card: Option<&'a str>,
    /// `general.file_type`, llama.cpp's number of the level (`llama_ftype`).
    pub file_type: u32,
}

/// The keys before the tokenizer's, and what the user should know about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The keys in the converter's order.
    pub metadata: Metadata,
    /// Parts of the sources that could not be used.
    pub warnings: Vec<String>,
}

/// Builds all keys that stand before the tokenizer's.
///
/// A model card that cannot be read is left out with a warning: it is about the model,
/// not part of it.
#[must_use]
pub fn build(sources: &Sources<'_>) -> Built {
    let MappedModel {
        family,
        hyperparameters,
        ..
    } = sources.mapped;
    let mut metadata = Metadata::new();
    let mut warnings = Vec::new();
    metadata.set("general.architecture", family.gguf);
    metadata.set("general.type", "model");
    if let Some(config) = sources.generation_config {
        sampling::write(config, &mut metadata);
    }
    let card = card::parse(sources.model_card.unwrap_or_default()).unwrap_or_else(|error| {
        warnings.push(error.message);
        card::Card::new()
    });
    let authorship = authorship::Sources {
        card: &card,
        config: &sources.model.config,
        name: &sources.model.name,
        parameters: sources.mapped.parameters(),
    };
    authorship::write(&authorship, &mut metadata);
    architecture::write(family, hyperparameters, &mut metadata);
    metadata.set("general.file_type", sources.file_type);
    architecture::write_llama(family, hyperparameters, &mut metadata);
    metadata.set("general.quantization_version", QUANTIZATION_VERSION);
    Built { metadata, warnings }
}

/// The double that is written like this single: 0.00001 and not 0.000009999999747.
/// `None` if it is infinite or no number.
pub(crate) fn shortest(single: f32) -> Option<f64> {
    let double = single.to_string().parse::<f64>().ok()?;
    double.is_finite().then_some(double)
}
