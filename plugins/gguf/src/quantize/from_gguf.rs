//! A GGUF file as the source: llama-quantize's own job.

use std::collections::HashMap;

use llm_quantize_plugin_api::{Error, FileView, Inputs, Result};

use super::draft::{Content, Draft, DraftTensor};
use crate::families::{Family, Transform};
use crate::mixture::layer_of;
use crate::read;

/// Makes a draft of a native view: everything is carried over as it is.
///
/// # Errors
/// If the files are damaged or do not belong together.
pub fn draft(inputs: &dyn Inputs) -> Result<Draft> {
    let model = inputs.model();
    let mut files = Vec::with_capacity(model.files.len());
    for name in &model.files {
        let missing = || Error::internal(format!("the source has no file \"{name}\""));
        let bytes = inputs.file(name)?.ok_or_else(missing)?;
        files.push(FileView { name, bytes });
    }
    let merged = read::merged(&files)?;
    let described = model.tensors.iter().map(|tensor| tensor.name.as_str());
    let places: HashMap<&str, usize> = described.zip(0..).collect();
    let tensors = merged
        .tensors
        .into_iter()
        .map(|tensor| {
            let missing = || Error::internal(format!("\"{}\" is not described", tensor.name));
            Ok(DraftTensor {
                content: Content::Source {
                    sources: vec![*places.get(tensor.name.as_str()).ok_or_else(missing)?],
                    transform: Transform::None,
                },
                layer: layer_of(&tensor.name),
                name: tensor.name,
                dims: tensor.dims,
                ty: tensor.ty,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    // Families of one architecture share their names, so that its window need not be known.
    let architecture = merged.metadata.get::<&str>("general.architecture");
    let architecture = architecture.ok().flatten().unwrap_or_default();
    let experts = merged
        .metadata
        .contains(&format!("{architecture}.expert_count"));
    let family = Family::for_gguf(architecture, false, experts).ok();
    Ok(Draft {
        family,
        metadata: merged.metadata,
        tensors,
        from_gguf: true,
        warnings: Vec::new(),
    })
}
