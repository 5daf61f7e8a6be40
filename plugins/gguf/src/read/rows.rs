//! Decodes rows of a stored tensor, in the presented order.

use std::ops::Range;

use llm_quantize_plugin_api::{Error, FileView, Result};

use crate::blocks::{BlockType, decode_row};
use crate::families::{Transform, unpermuted_row};
use crate::shards::ShardedTensor;

/// Decodes rows to single precision.
///
/// # Errors
/// If there are no such rows, `out` has another length, or the type has no decoder.
pub fn decode(
    files: &[FileView<'_>],
    tensor: &ShardedTensor,
    transform: Transform,
    rows: Range<u64>,
    out: &mut [f32],
) -> Result<()> {
    let stored = StoredRows::new(files, tensor)?;
    let Range { start, end } = stored.checked(rows)?;
    if (end - start).checked_mul(stored.cols) != Some(out.len()) {
        return Err(Error::internal(format!(
            "{} rows of {} do not fit {} numbers",
            end - start,
            stored.cols,
            out.len()
        )));
    }
    let head_rows = transform.head_rows();
    // The rows of a bias are its elements.
    if tensor.dims.len() < 2 && head_rows > 1 {
        return stored.decode_elements(head_rows, out);
    }
    for (row, numbers) in (start..end).zip(out.chunks_exact_mut(stored.cols.max(1))) {
        stored.decode(transform.presented(row), numbers)?;
    }
    if transform == Transform::AddOne {
        out.iter_mut().for_each(|number| *number -= 1.0);
    }
    Ok(())
}

/// The stored place of a presented row.
fn in_head(row: usize, head_rows: usize) -> usize {
    match head_rows {
        1 => row,
        rows => row - row % rows + unpermuted_row(rows, row % rows),
    }
}

impl Transform {
    /// Rows that are reordered together.
    fn head_rows(self) -> usize {
        match self {
            Self::PermuteRows { head_rows, .. } => usize::try_from(head_rows).unwrap_or(0).max(1),
            Self::None | Self::AddOne => 1,
        }
    }

    /// The stored place of a presented row.
    pub(super) fn presented(self, row: usize) -> usize {
        in_head(row, self.head_rows())
    }
}

/// The stored rows of a tensor.
pub(super) struct StoredRows<'a> {
    name: &'a str,
    ty: BlockType,
    cols: usize,
    count: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> StoredRows<'a> {
    pub(super) fn new(files: &[FileView<'a>], tensor: &'a ShardedTensor) -> Result<Self> {
        let damaged = || Error::corrupt(format!("the tensor \"{}\" is cut off", tensor.name));
        let ty = BlockType::from_id(tensor.ty.id).map_err(|error| {
            Error::unsupported(format!("the tensor \"{}\": {error}", tensor.name))
        })?;
        let range = usize::try_from(tensor.range.start)
            .ok()
            .zip(usize::try_from(tensor.range.end).ok());
        let file = files.get(tensor.file).ok_or_else(damaged)?;
        let data = range
            .and_then(|(start, end)| file.bytes.get(start..end))
            .ok_or_else(damaged)?;
        let cols =
            usize::try_from(tensor.dims.first().copied().unwrap_or(1)).map_err(|_| damaged())?;
        let row_bytes = ty.row_bytes(cols).ok_or_else(damaged)?;
        Ok(Self {
            name: &tensor.name,
            count: data.len().checked_div(row_bytes).unwrap_or(0),
            ty,
            cols,
            row_bytes,
            data,
        })
    }

    /// The type of its blocks.
    pub(super) fn ty(&self) -> BlockType {
        self.ty
    }

    /// Weights in a row.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// Rows that there are.
    ///
    /// # Errors
    /// If there are fewer.
    pub(super) fn checked(&self, rows: Range<u64>) -> Result<Range<usize>> {
        let wanted = usize::try_from(rows.start)
            .ok()
            .zip(usize::try_from(rows.end).ok());
        let wanted = wanted.filter(|(start, end)| start <= end && *end <= self.count);
        wanted.map(|(start, end)| start..end).ok_or_else(|| {
            let (name, count) = (self.name, self.count);
            Error::internal(format!("\"{name}\" has {count} rows, not {rows:?}"))
        })
    }

    /// The bytes of a row, of those that there are.
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    fn decode(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let bytes = self.row(row);
        decode_row(self.ty, bytes, out)
            .map_err(|error| Error::corrupt(format!("the tensor \"{}\": {error}", self.name)))
    }

    fn decode_elements(&self, head_rows: usize, out: &mut [f32]) -> Result<()> {
        let mut stored = vec![0.0; self.cols];
        self.decode(0, &mut stored)?;
        if !self.cols.is_multiple_of(head_rows) {
            return Err(Error::corrupt(format!(
                "\"{}\" is no whole number of heads",
                self.name
            )));
        }
        for (index, number) in out.iter_mut().enumerate() {
            *number = stored[in_head(index, head_rows)];
        }
        Ok(())
    }
}
