//! A GGUF file as the source: llama-quantize's own job.

use llm_quantize_plugin_api::{Error, Inputs, Result};

use super::draft::{Content, Draft, DraftTensor};
use crate::container::Gguf;
use crate::families::Transform;
use crate::mixture::layer_of;
use crate::shards;

/// Makes a draft of a native view: everything is carried over as it is.
///
/// # Errors
/// If the files are damaged or do not belong together.
pub fn draft(inputs: &dyn Inputs) -> Result<Draft> {
    let model = inputs.model();
    let mut headers = Vec::with_capacity(model.files.len());
    for name in &model.files {
        let missing = || Error::internal(format!("the source has no file \"{name}\""));
        let bytes = inputs.file(name)?.ok_or_else(missing)?;
        let parsed = Gguf::parse(bytes);
        headers.push(parsed.map_err(|error| Error::corrupt(format!("\"{name}\": {error}")))?);
    }
    let named: Vec<(&str, &Gguf)> = model
        .files
        .iter()
        .map(String::as_str)
        .zip(&headers)
        .collect();
    let merged = shards::merge(&named).map_err(|error| Error::corrupt(error.to_string()))?;
    let tensors = merged
        .tensors
        .into_iter()
        .map(|tensor| {
            let missing = || Error::internal(format!("\"{}\" is not described", tensor.name));
            Ok(DraftTensor {
                content: Content::Source {
                    index: model.tensor_index(&tensor.name).ok_or_else(missing)?,
                    transform: Transform::None,
                },
                layer: layer_of(&tensor.name),
                name: tensor.name,
                dims: tensor.dims,
                ty: tensor.ty,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Draft {
        metadata: merged.metadata,
        tensors,
        from_gguf: true,
        warnings: Vec::new(),
    })
}
