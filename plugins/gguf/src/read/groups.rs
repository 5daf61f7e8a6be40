//! Rows of a stored tensor as groups, in the presented order.

use std::ops::Range;

use llm_quantize_plugin_api::{AffineGroups, FileView, Result};

use super::rows::StoredRows;
use crate::blocks::groups::{GROUP, bits_of_groups, unpack_row};
use crate::families::Transform;
use crate::shards::ShardedTensor;

/// The groups of rows; `None` if the tensor's type has none.
///
/// # Errors
/// If there are no such rows, or the type is unknown.
pub fn groups(
    files: &[FileView<'_>],
    tensor: &ShardedTensor,
    transform: Transform,
    rows: Range<u64>,
) -> Result<Option<AffineGroups>> {
    let stored = StoredRows::new(files, tensor)?;
    let Some(bits) = bits_of_groups(stored.ty()) else {
        return Ok(None);
    };
    let rows = stored.checked(rows)?;
    let (cols, count) = (stored.cols(), rows.len());
    let in_row = cols / GROUP;
    let mut found = AffineGroups {
        bits,
        group_size: GROUP as u32,
        codes: vec![0; count * cols],
        scales: vec![0.0; count * in_row],
        zeros: vec![f32::from(1u16 << (bits - 1)); count * in_row],
        permutation: None,
    };
    let codes = found.codes.chunks_exact_mut(cols.max(1));
    let scales = found.scales.chunks_exact_mut(in_row.max(1));
    for ((row, codes), scales) in rows.zip(codes).zip(scales) {
        let bytes = stored.row(transform.presented(row));
        unpack_row(stored.ty(), bytes, codes, scales);
    }
    Ok(Some(found))
}
