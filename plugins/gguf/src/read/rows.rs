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
    let wanted = usize::try_from(rows.start)
        .ok()
        .zip(usize::try_from(rows.end).ok());
    let Some((start, end)) = wanted.filter(|(start, end)| start <= end && *end <= stored.count)
    else {
        return Err(Error::internal(format!(
            "\"{}\" has {} rows, not {rows:?}",
            tensor.name, stored.count
        )));
    };
    if (end - start).checked_mul(stored.cols) != Some(out.len()) {
        return Err(Error::internal(format!(
            "{} rows of {} do not fit {} numbers",
            end - start,
            stored.cols,
            out.len()
        )));
    }
    let head_rows = match transform {
        Transform::PermuteRows { head_rows, .. } => usize::try_from(head_rows).unwrap_or(0).max(1),
        Transform::None => 1,
    };
    // The rows of a bias are its elements.
    if tensor.dims.len() < 2 && head_rows > 1 {
        return stored.decode_elements(head_rows, out);
    }
    for (row, numbers) in (start..end).zip(out.chunks_exact_mut(stored.cols.max(1))) {
        stored.decode(in_head(row, head_rows), numbers)?;
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

/// The stored rows of a tensor.
struct StoredRows<'a> {
    name: &'a str,
    ty: BlockType,
    cols: usize,
    count: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> StoredRows<'a> {
    fn new(files: &[FileView<'a>], tensor: &'a ShardedTensor) -> Result<Self> {
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

    fn decode(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let bytes = &self.data[row * self.row_bytes..(row + 1) * self.row_bytes];
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
