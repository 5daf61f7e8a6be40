//! A GGUF file presented as a Hugging Face model: names, row order, config.json and
//! tokenizer files rebuilt from what the file holds.

use llm_quantize_plugin_api::{
    Error, FileView, Host, LogLevel, ModelDescription, ModelView, Result, TensorInfo,
};

use super::{GgufReader, Place, Stored, rows};
use crate::families::{HfTensor, NamedTensor, ROPE_FREQS, Transform};
use crate::metadata::{GgufModel, HfModel, describe};
use crate::quantize::FORMAT;
use crate::shards::ShardedTensor;
use crate::tokenizer::{self, GgufTokenizer, ToHfOptions};
use crate::tokenizer_values;

/// The type that config.json names: the 16-bit one that the file has. Whoever writes the tensors
/// sets its own.
fn dtype(stored: &Stored) -> &'static str {
    let half = stored.tensors.iter().any(|tensor| tensor.ty.name == "F16");
    match half {
        true => "float16",
        false => "bfloat16",
    }
}

/// Rebuilt files, by name.
pub struct SideFiles(Vec<(String, Vec<u8>)>);

impl SideFiles {
    /// The content of a file.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, bytes)| bytes.clone())
    }
}

/// Opens the files as a Hugging Face model.
///
/// # Errors
/// If the architecture or tokenizer is unknown, or a key or tensor is missing or wrong.
pub fn open(host: &Host, stored: Stored, files: &[FileView<'_>]) -> Result<GgufReader> {
    let named: Vec<NamedTensor<'_>> = stored
        .tensors
        .iter()
        .map(|tensor| NamedTensor {
            name: &tensor.name,
            dims: &tensor.dims,
        })
        .collect();
    let rope_freqs = rope_freqs(&stored, files)?;
    let hf = describe(&GgufModel {
        metadata: &stored.metadata,
        tensors: &named,
        rope_freqs: rope_freqs.as_deref(),
        dtype: dtype(&stored),
    })?;
    let places = places(&stored, &hf.tensors)?;
    let side_files = side_files(host, &stored, &hf)?;
    let model = ModelDescription {
        name: Stored::name(files),
        format: FORMAT.into(),
        config: hf.config,
        tensors: places
            .iter()
            .zip(&hf.tensors)
            .map(|(place, tensor)| present(&place.tensor, tensor))
            .collect(),
        files: side_files.0.iter().map(|(name, _)| name.clone()).collect(),
        sites: Vec::new(),
        facts: stored.facts(),
        ..ModelDescription::default()
    };
    Ok(GgufReader {
        model,
        places,
        view: ModelView::HuggingFace,
        side_files: Some(side_files),
    })
}

fn rope_freqs(stored: &Stored, files: &[FileView<'_>]) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = stored.tensors.iter().find(|t| t.name == ROPE_FREQS) else {
        return Ok(None);
    };
    // A factor for each pair of a head's elements; no head is that large.
    let count = tensor
        .dims
        .iter()
        .try_fold(1u64, |n, dim| n.checked_mul(*dim));
    let count = count
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n <= 1 << 16);
    let Some(count) = count else {
        return Err(Error::corrupt(format!(
            "the tensor \"{ROPE_FREQS}\" has the impossible dimensions {:?}",
            tensor.dims
        )));
    };
    let mut factors = vec![0.0; count];
    rows::decode(files, tensor, Transform::None, 0..1, &mut factors)?;
    Ok(Some(factors))
}

fn places(stored: &Stored, tensors: &[HfTensor]) -> Result<Vec<Place>> {
    tensors
        .iter()
        .map(|tensor| {
            let missing = || Error::internal(format!("\"{}\" has no source", tensor.name));
            Ok(Place {
                tensor: stored
                    .tensors
                    .get(tensor.source)
                    .ok_or_else(missing)?
                    .clone(),
                transform: tensor.transform,
                first_row: tensor.first_row,
            })
        })
        .collect()
}

fn present(stored: &ShardedTensor, tensor: &HfTensor) -> TensorInfo {
    TensorInfo {
        name: tensor.name.clone(),
        dtype: stored.ty.name.into(),
        shape: tensor.shape.clone(),
        bytes: bytes_of(stored, tensor),
    }
}

/// Bytes of a tensor's part of the stored one.
fn bytes_of(stored: &ShardedTensor, tensor: &HfTensor) -> u64 {
    let product = |dims: &[u64]| dims.iter().fold(1u64, |n, dim| n.saturating_mul(*dim));
    let parts = product(&stored.dims) / product(&tensor.shape).max(1);
    (stored.range.end - stored.range.start) / parts.max(1)
}

fn side_files(host: &Host, stored: &Stored, hf: &HfModel) -> Result<SideFiles> {
    let json = |value: &serde_json::Value| {
        let text = serde_json::to_string_pretty(value);
        text.map(|text| (text + "\n").into_bytes())
            .map_err(|error| Error::internal(error.to_string()))
    };
    let mut files = vec![
        ("config.json".to_owned(), json(&hf.config)?),
        (
            "generation_config.json".to_owned(),
            json(&hf.generation_config)?,
        ),
    ];
    if stored.metadata.contains("tokenizer.ggml.model") {
        let refused = |error| tokenizer_values::refused(&error);
        let lookup = |key: &str| tokenizer_values::from_metadata(&stored.metadata, key);
        let found = GgufTokenizer::from_metadata(&lookup).map_err(refused)?;
        let options = ToHfOptions {
            architecture: Some(hf.family.gguf),
            context_length: Some(hf.hyperparameters.context),
        };
        let built = tokenizer::to_hf(&found, options).map_err(refused)?;
        for warning in &built.warnings {
            host.log(LogLevel::Warning, warning);
        }
        files.extend(built.files);
    }
    Ok(SideFiles(files))
}
