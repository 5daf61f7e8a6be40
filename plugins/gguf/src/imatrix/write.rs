//! Writing the GGUF layout, as llama-imatrix does.

use std::ops::Range;

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

/// What a file says about the text that was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasuredText<'a> {
    /// The calibration texts' names.
    pub datasets: &'a [&'a str],
    /// How many chunks of it were measured.
    pub chunk_count: u32,
    /// Tokens in a chunk.
    pub chunk_size: u32,
}

/// The size of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntrySize<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// Inputs of the linear layer: the tensor's row length.
    pub columns: u64,
    /// How many experts are counted apart; 1 for plain tensors.
    pub experts: u64,
}

/// A file before its numbers are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImatrixLayout {
    /// The file's first bytes.
    pub header: Vec<u8>,
    /// The entries in the file's order, which is that of their names.
    pub entries: Vec<PlacedEntry>,
    /// Size of the whole file in bytes.
    pub file_size: u64,
}

/// Where an entry's numbers go, in bytes from the start of the file. They are little-endian
/// singles; what lies between is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// Place in the list that was laid out.
    pub index: usize,
    /// The sums of squares: for each expert one for each column.
    pub sums: Range<u64>,
    /// For each expert, how many rows were summed.
    pub counts: Range<u64>,
}

/// The name of the tensor with an entry's sums, and that of the one with its counts.
#[must_use]
pub fn stored_names(entry: &str) -> [String; 2] {
    [SUMS, COUNTS].map(|end| format!("{entry}{end}"))
}

/// Lays out an importance matrix's file.
///
/// # Errors
/// [`ImatrixError`] if a name is there twice or too long for llama.cpp: with the ending
/// `.in_sum2` it may have 63 bytes.
pub fn lay_out(
    entries: &[EntrySize<'_>],
    text: MeasuredText<'_>,
) -> Result<ImatrixLayout, ImatrixError> {
    let mut order: Vec<usize> = (0..entries.len()).collect();
    order.sort_by_key(|&index| entries[index].name);
    let mut named = Vec::with_capacity(entries.len() * 2);
    for &index in &order {
        let EntrySize {
            name,
            columns,
            experts,
        } = entries[index];
        let [sums, counts] = stored_names(name);
        named.push((sums, [columns, experts]));
        named.push((counts, [1, experts]));
    }
    let specs: Vec<TensorSpec<'_>> = named
        .iter()
        .map(|(name, dims)| TensorSpec::new(name, dims, BlockType::F32))
        .collect();
    let placed = layout(&metadata(text), &specs)?;
    let (pairs, _) = placed.tensors.as_chunks::<2>();
    let entries = order.into_iter().zip(pairs);
    Ok(ImatrixLayout {
        header: placed.header,
        entries: entries
            .map(|(index, [sums, counts])| PlacedEntry {
                index,
                sums: sums.clone(),
                counts: counts.clone(),
            })
            .collect(),
        file_size: placed.file_size,
    })
}

/// The bytes of an importance matrix's file; entries are sorted by name, empty ones left out.
///
/// `datasets` are the calibration texts' names, `chunk_count` of `chunk_size` tokens were measured.
///
/// # Errors
/// [`ImatrixError`] if counts and sums do not divide, and as [`lay_out`].
pub fn write(
    entries: &[Collected<'_>],
    datasets: &[&str],
    chunk_count: u32,
    chunk_size: u32,
) -> Result<Vec<u8>, ImatrixError> {
    let filled: Vec<&Collected<'_>> = entries
        .iter()
        .filter(|entry| !entry.sums.is_empty() && !entry.counts.is_empty())
        .collect();
    let sizes = filled
        .iter()
        .map(|entry| entry.size())
        .collect::<Result<Vec<_>, _>>()?;
    let text = MeasuredText {
        datasets,
        chunk_count,
        chunk_size,
    };
    let laid_out = lay_out(&sizes, text)?;
    let mut file = laid_out.header;
    for placed in laid_out.entries {
        let entry = filled[placed.index];
        put_at(&mut file, placed.sums.start, entry.sums.iter().copied());
        let counts = entry.counts.iter().map(|&count| count as f32);
        put_at(&mut file, placed.counts.start, counts);
    }
    put_at(&mut file, laid_out.file_size, std::iter::empty());
    Ok(file)
}

impl<'a> Collected<'a> {
    fn size(&self) -> Result<EntrySize<'a>, ImatrixError> {
        let (values, counts) = (self.sums.len(), self.counts.len());
        if values.checked_rem(counts) != Some(0) {
            return Err(ImatrixError::Indivisible {
                tensor: self.name.to_owned(),
                values,
                counts,
            });
        }
        Ok(EntrySize {
            name: self.name,
            columns: (values / counts) as u64,
            experts: counts as u64,
        })
    }
}

fn metadata(text: MeasuredText<'_>) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.set(KEY_TYPE, TYPE);
    metadata.set(KEY_DATASETS, text.datasets.iter().collect::<StringArray>());
    metadata.set(KEY_CHUNK_COUNT, text.chunk_count);
    metadata.set(KEY_CHUNK_SIZE, text.chunk_size);
    metadata
}

/// Appends zeros up to an offset that is not behind, then numbers.
fn put_at(file: &mut Vec<u8>, offset: u64, values: impl Iterator<Item = f32>) {
    // The layout is that of slices in memory.
    file.resize(usize::try_from(offset).unwrap_or(usize::MAX), 0);
    file.extend(values.flat_map(f32::to_le_bytes));
}
