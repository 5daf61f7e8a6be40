//! Writing the GGUF layout, as llama-imatrix does.

use super::ImatrixError;
use super::gguf::{COUNTS, KEY_CHUNK_COUNT, KEY_CHUNK_SIZE, KEY_DATASETS, KEY_TYPE, SUMS, TYPE};
use crate::blocks::BlockType;
use crate::container::{Metadata, StringArray, TensorSpec, layout};

/// What was measured for one tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collected<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// Sums of squared inputs: for each expert one value for each column.
    pub sums: &'a [f32],
    /// For each expert, how many input rows were summed; one number for plain tensors.
    pub counts: &'a [u64],
}

/// The bytes of an importance matrix's file; entries are sorted by name, empty ones left out.
///
/// `datasets` are the calibration texts' names, `chunk_count` of `chunk_size` tokens were measured.
///
/// # Errors
/// [`ImatrixError`] if counts and sums do not divide, or a name is too long for llama.cpp: with
/// the ending `.in_sum2` it may have 63 bytes.
pub fn write(
    entries: &[Collected<'_>],
    datasets: &[&str],
    chunk_count: u32,
    chunk_size: u32,
) -> Result<Vec<u8>, ImatrixError> {
    let mut entries: Vec<&Collected<'_>> = entries
        .iter()
        .filter(|entry| !entry.sums.is_empty() && !entry.counts.is_empty())
        .collect();
    entries.sort_by_key(|entry| entry.name);
    let mut named = Vec::with_capacity(entries.len() * 2);
    for entry in &entries {
        let (values, counts) = (entry.sums.len(), entry.counts.len());
        if values % counts != 0 {
            return Err(ImatrixError::Indivisible {
                tensor: entry.name.to_owned(),
                values,
                counts,
            });
        }
        let columns = (values / counts) as u64;
        named.push((format!("{}{SUMS}", entry.name), [columns, counts as u64]));
        named.push((format!("{}{COUNTS}", entry.name), [1, counts as u64]));
    }
    let specs: Vec<TensorSpec<'_>> = named
        .iter()
        .map(|(name, dims)| TensorSpec::new(name, dims, BlockType::F32))
        .collect();
    let metadata = metadata(datasets, chunk_count, chunk_size);
    let placed = layout(&metadata, &specs)?;
    let mut file = placed.header;
    for entry in entries {
        put_padded(&mut file, entry.sums.iter().copied());
        put_padded(&mut file, entry.counts.iter().map(|&count| count as f32));
    }
    debug_assert_eq!(file.len() as u64, placed.file_size);
    Ok(file)
}

fn metadata(datasets: &[&str], chunk_count: u32, chunk_size: u32) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set(KEY_TYPE, TYPE);
    metadata.set(KEY_DATASETS, datasets.iter().collect::<StringArray>());
    metadata.set(KEY_CHUNK_COUNT, chunk_count);
    metadata.set(KEY_CHUNK_SIZE, chunk_size);
    metadata
}

/// Appends the data of a tensor and the zeros up to the next one. Headers end on a multiple of the
/// alignment, so the file's length tells how many.
fn put_padded(file: &mut Vec<u8>, values: impl Iterator<Item = f32>) {
    file.extend(values.flat_map(f32::to_le_bytes));
    let alignment = usize::try_from(crate::container::DEFAULT_ALIGNMENT).unwrap_or(32);
    file.resize(file.len().next_multiple_of(alignment), 0);
}
