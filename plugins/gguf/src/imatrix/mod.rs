//! Importance matrices: how much each column of a tensor matters, measured on calibration text.
//!
//! Both layouts of llama.cpp's llama-imatrix are read: the GGUF one of today and the older `.dat`.
//! The weights come out as llama-quantize uses them, so that the same file gives the same bytes.
//! [`lay_out`] and [`write()`] make the GGUF layout; [`Measured`] is an entry before it is stored.

mod error;
mod gguf;
mod legacy;
mod measured;
mod write;

#[cfg(test)]
mod tests;

pub use error::ImatrixError;
pub use measured::{Measured, statistics};
pub use write::{
    Collected, EntrySize, ImatrixLayout, MeasuredText, PlacedEntry, lay_out, stored_names, write,
};

use crate::container::{MAGIC, Metadata, Text};
use indexmap::IndexMap;

/// Key of quantized files: the importance matrix's file name.
pub const KEY_FILE: &str = "quantize.imatrix.file";
/// Key of quantized files: the calibration text's file name.
pub const KEY_DATASET: &str = "quantize.imatrix.dataset";
/// Key of quantized files: how many tensors the matrix covers.
pub const KEY_ENTRIES: &str = "quantize.imatrix.entries_count";
/// Key of quantized files: how many chunks of text were measured.
pub const KEY_CHUNKS: &str = "quantize.imatrix.chunks_count";

/// llama-quantize keeps strings of metadata it adds in buffers of 128 bytes with the terminator.
const MAX_RECORDED: usize = 127;

/// Which layout a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// GGUF with `.in_sum2` and `.counts` tensors.
    Gguf,
    /// The older `.dat`.
    Legacy,
}

/// What is known about one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// One weight for each column; for stacks of experts one such row for each expert, in order.
    pub weights: Vec<f32>,
    /// How many experts were counted apart (1 for plain tensors, and always in the older layout).
    pub experts: usize,
    /// How many of those the calibration text never reached; their weights are all 1.
    pub unseen: usize,
}

/// An importance matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Imatrix {
    /// The layout of the file it was read from.
    pub layout: Layout,
    /// The calibration texts' file names, oldest first; often just one, possibly none.
    pub datasets: Vec<Text>,
    /// How many chunks of text were measured; 0 if unknown.
    pub chunk_count: u32,
    /// Tokens in a chunk; 0 if unknown.
    pub chunk_size: u32,
    entries: IndexMap<String, Entry>,
}

impl Imatrix {
    /// Reads an importance matrix in either layout from the bytes of its file.
    ///
    /// # Errors
    /// [`ImatrixError`] if the file is something else, damaged, or holds weights that are negative
    /// or not finite.
    pub fn parse(file: &[u8]) -> Result<Self, ImatrixError> {
        let imatrix = match file.starts_with(&MAGIC) {
            true => gguf::parse(file)?,
            false => legacy::parse(file)?,
        };
        if imatrix.entries.is_empty() {
            return Err(ImatrixError::Empty);
        }
        imatrix.check_weights()?;
        Ok(imatrix)
    }

    /// How many tensors it covers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it covers none; matrices that were read cover at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tensor names and what is known about them, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }

    /// What is known about the tensor of this name.
    #[must_use]
    pub fn entry(&self, tensor: &str) -> Option<&Entry> {
        self.entries.get(tensor)
    }

    /// The weights for a tensor of these dimensions (`dims[0]` columns, `dims[2]` experts):
    /// expert `e` has `weights[e * dims[0]..][..dims[0]]`. `None` if it is not covered.
    ///
    /// Token embeddings with weights of another length count as not covered: their lookups are no
    /// products, so what was measured under their name belongs to something else.
    ///
    /// # Errors
    /// [`ImatrixError::WrongLength`] if the matrix was made for another model.
    pub fn weights_for(&self, tensor: &str, dims: &[u64]) -> Result<Option<&[f32]>, ImatrixError> {
        let Some(entry) = self.entry(tensor) else {
            return Ok(None);
        };
        let columns = dims.first().copied().unwrap_or(1);
        let experts = dims.get(2).copied().unwrap_or(1);
        let expected = columns.saturating_mul(experts);
        if entry.weights.len() as u64 == expected {
            return Ok(Some(&entry.weights));
        }
        if matches!(tensor, "token_embd.weight" | "per_layer_token_embd.weight") {
            return Ok(None);
        }
        Err(ImatrixError::WrongLength {
            tensor: tensor.to_owned(),
            found: entry.weights.len(),
            columns,
            experts,
        })
    }

    /// Notes the use of this matrix in the metadata of a quantized file, with llama-quantize's
    /// keys, types and order; `file` is the matrix's file name as the user gave it.
    pub fn record(&self, metadata: &mut Metadata, file: &str) {
        metadata.set(KEY_FILE, recorded(file.as_bytes()));
        // Like llama-quantize, only the first of several.
        let dataset = self.datasets.first().map(Text::as_bytes);
        record_measurement(metadata, dataset, self.len(), self.chunk_count);
    }

    /// Means of squares are neither negative nor infinite.
    fn check_weights(&self) -> Result<(), ImatrixError> {
        let bad = |weight: &f32| !weight.is_finite() || *weight < 0.0;
        for (name, entry) in &self.entries {
            if let Some(index) = entry.weights.iter().position(bad) {
                return Err(ImatrixError::BadWeight {
                    tensor: name.clone(),
                    index,
                    value: entry.weights.get(index).copied().unwrap_or(f32::NAN),
                });
            }
        }
        Ok(())
    }
}

/// Notes in the metadata of a quantized file what its importance weights were measured on, with
/// llama-quantize's keys, types and order: the calibration text's name, how many tensors were
/// measured, on how many chunks of text (0 if unknown).
pub fn record_measurement(
    metadata: &mut Metadata,
    dataset: Option<&[u8]>,
    entries: usize,
    chunk_count: u32,
) {
    if let Some(dataset) = dataset {
        metadata.set(KEY_DATASET, recorded(dataset));
    }
    metadata.set(KEY_ENTRIES, u32::try_from(entries).unwrap_or(u32::MAX));
    if chunk_count > 0 {
        metadata.set(KEY_CHUNKS, chunk_count);
    }
}

/// A string as it fits in llama-quantize's buffer: C strings end at the first zero byte. Unlike
/// there no character is cut in two, as GGUF's strings must be UTF-8 for readers in Python.
fn recorded(text: &[u8]) -> Text {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    let mut end = end.min(MAX_RECORDED);
    if let Ok(text) = std::str::from_utf8(text) {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
    }
    Text::from(text.get(..end).unwrap_or(text))
}
