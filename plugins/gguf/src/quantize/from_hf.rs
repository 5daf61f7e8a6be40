//! A Hugging Face model as the source: convert_hf_to_gguf.py's job.

use llm_quantize_plugin_api::{Inputs, Result};

use super::draft::{Content, Draft, DraftTensor};
use crate::blocks::BlockType;
use crate::container::{Metadata, type_layout};
use crate::families::{MappedTensor, map_model};
use crate::metadata::{self, Sources};
use crate::mixture::is_quantized;
use crate::tokenizer::{self, FileSet};
use crate::tokenizer_values;

/// Makes a draft of a Hugging Face model.
///
/// # Errors
/// If the architecture or tokenizer is unknown, or a tensor missing or of a wrong shape.
pub fn draft(inputs: &dyn Inputs) -> Result<Draft> {
    let model = inputs.model();
    let mapped = map_model(model)?;
    let card = inputs.file("README.md")?;
    let built = metadata::build(&Sources {
        model,
        mapped: &mapped,
        generation_config: inputs.file("generation_config.json")?,
        model_card: card.and_then(|bytes| std::str::from_utf8(bytes).ok()),
        // Replaced when the level is known; it keeps its place.
        file_type: 0,
    });
    let mut metadata = built.metadata;
    let mut warnings = mapped.warnings;
    warnings.extend(built.warnings);
    warnings.extend(add_tokenizer(inputs, &mut metadata)?);

    let generated = mapped.generated.into_iter().map(|tensor| DraftTensor {
        name: tensor.name,
        dims: tensor.dims,
        ty: type_layout(BlockType::F32),
        content: Content::Values(tensor.values),
        layer: None,
    });
    let mut tensors: Vec<DraftTensor> = generated.collect();
    for tensor in mapped.tensors {
        let first = tensor
            .sources
            .first()
            .and_then(|first| model.tensors.get(*first));
        let dtype = first.map_or("", |t| t.dtype.as_str());
        tensors.push(tensor_draft(mapped.family.gguf, tensor, dtype));
    }
    Ok(Draft {
        family: Some(mapped.family),
        metadata,
        tensors,
        from_gguf: false,
        warnings,
    })
}

/// The type that a conversion without quantization gives: the stored one for matrices,
/// single precision for what is small and sensitive.
fn tensor_draft(architecture: &str, tensor: MappedTensor, dtype: &str) -> DraftTensor {
    let stored = BlockType::from_name(dtype).unwrap_or(BlockType::F32);
    let ty = match is_quantized(architecture, &tensor.name, &tensor.dims) {
        true => stored,
        false => BlockType::F32,
    };
    DraftTensor {
        name: tensor.name,
        dims: tensor.dims,
        ty: type_layout(ty),
        content: Content::Source {
            sources: tensor.sources,
            transform: tensor.transform,
        },
        layer: tensor.layer,
    }
}

fn add_tokenizer(inputs: &dyn Inputs, metadata: &mut Metadata) -> Result<Vec<String>> {
    let found = tokenizer::from_hf(&ModelFiles(inputs))
        .map_err(|error| tokenizer_values::refused(&error))?;
    for (key, value) in found.tokenizer.entries() {
        metadata.set(&key, tokenizer_values::to_value(value));
    }
    Ok(found.warnings)
}

/// The model's files as the tokenizer reads them.
struct ModelFiles<'a>(&'a dyn Inputs);

impl FileSet for ModelFiles<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.file(name).ok().flatten()
    }

    fn names(&self) -> Vec<String> {
        self.0.model().files.clone()
    }
}
