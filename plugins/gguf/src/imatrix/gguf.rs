//! The GGUF layout: for each tensor `<name>.in_sum2`, the sums of squared inputs [columns,
//! experts], and `<name>.counts`, how many rows were summed [1, experts].

use super::measured::to_weights;
use super::{Entry, Imatrix, ImatrixError, Layout};
use crate::container::{Gguf, StringArray, TensorInfo, Text};
use indexmap::IndexMap;

pub(super) const KEY_TYPE: &str = "general.type";
pub(super) const TYPE: &str = "imatrix";
pub(super) const KEY_DATASETS: &str = "imatrix.datasets";
pub(super) const KEY_CHUNK_COUNT: &str = "imatrix.chunk_count";
pub(super) const KEY_CHUNK_SIZE: &str = "imatrix.chunk_size";
pub(super) const SUMS: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";

/// The two tensors that belong together.
#[derive(Default)]
struct Pair<'a> {
    sums: Option<&'a TensorInfo>,
    counts: Option<&'a TensorInfo>,
}

pub(super) fn parse(file: &[u8]) -> Result<Imatrix, ImatrixError> {
    let gguf = Gguf::parse(file)?;
    if let Some(kind) = gguf.metadata.get::<&Text>(KEY_TYPE)?
        && kind.as_bytes() != TYPE.as_bytes()
    {
        let kind = kind.to_string();
        return Err(ImatrixError::NotImatrix { kind });
    }
    let datasets: &StringArray = gguf.metadata.require(KEY_DATASETS)?;
    let chunk_count: u32 = gguf.metadata.require(KEY_CHUNK_COUNT)?;
    let chunk_size: u32 = gguf.metadata.require(KEY_CHUNK_SIZE)?;

    let mut pairs: IndexMap<&str, Pair<'_>> = IndexMap::new();
    for tensor in &gguf.tensors {
        if let Some(name) = tensor.name.strip_suffix(SUMS) {
            pairs.entry(name).or_default().sums = Some(tensor);
        } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
            pairs.entry(name).or_default().counts = Some(tensor);
        }
    }
    let mut entries = IndexMap::with_capacity(pairs.len());
    for (name, pair) in pairs {
        entries.insert(name.to_owned(), entry(file, name, &pair)?);
    }
    Ok(Imatrix {
        layout: Layout::Gguf,
        datasets: datasets.iter().map(Text::from).collect(),
        // llama.cpp's programs keep it as a signed number.
        chunk_count: if i32::try_from(chunk_count).is_ok() {
            chunk_count
        } else {
            0
        },
        chunk_size,
        entries,
    })
}

fn entry(file: &[u8], name: &str, pair: &Pair<'_>) -> Result<Entry, ImatrixError> {
    let unpaired = |missing| ImatrixError::Unpaired {
        tensor: name.to_owned(),
        missing,
    };
    let mut weights = floats(file, pair.sums.ok_or_else(|| unpaired(SUMS))?)?;
    let counts = floats(file, pair.counts.ok_or_else(|| unpaired(COUNTS))?)?;
    let indivisible = || ImatrixError::Indivisible {
        tensor: name.to_owned(),
        values: weights.len(),
        counts: counts.len(),
    };
    if weights.is_empty() || weights.len().checked_rem(counts.len()) != Some(0) {
        return Err(indivisible());
    }
    let columns = weights.len() / counts.len();
    let mut unseen = 0;
    for (index, (row, &count)) in weights.chunks_exact_mut(columns).zip(&counts).enumerate() {
        if !count.is_finite() || count < 0.0 {
            let tensor = format!("{name}{COUNTS}");
            let value = count;
            return Err(ImatrixError::BadWeight {
                tensor,
                index,
                value,
            });
        }
        unseen += usize::from(!to_weights(row, count));
    }
    Ok(Entry {
        weights,
        experts: counts.len(),
        unseen,
    })
}

fn floats(file: &[u8], tensor: &TensorInfo) -> Result<Vec<f32>, ImatrixError> {
    if tensor.ty.name != "F32" {
        return Err(ImatrixError::NotF32 {
            tensor: tensor.name.clone(),
            found: tensor.ty.name,
        });
    }
    // The reader has checked that the data lies in the file.
    let bytes = tensor.data(file).unwrap_or_default();
    let (values, _) = bytes.as_chunks::<4>();
    Ok(values
        .iter()
        .map(|&value| f32::from_le_bytes(value))
        .collect())
}
