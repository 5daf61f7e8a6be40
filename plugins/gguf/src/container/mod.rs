//! The GGUF container: metadata, the tensor table, and where each tensor's data lies.
//!
//! Everything here works on byte slices; files are the caller's business. Facts follow ggml's
//! own reader and writer (`ggml/src/gguf.cpp`): little-endian, versions 2 and 3, one header
//! followed by the tensors' data, each padded to the file's alignment.

mod cursor;
mod metadata;
mod read;
mod value;
mod write;

#[cfg(test)]
mod tests;

pub use metadata::{FromValue, Metadata, MetadataError};
pub use read::{Gguf, ReadError, TensorInfo};
pub use value::{Array, StringArray, Text, Value, ValueType};
pub use write::{FileLayout, TensorSpec, WriteError, layout};

use crate::blocks::{BlockType, TypeLayout};

/// The four bytes every GGUF file starts with.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The alignment of tensor data when `general.alignment` says nothing else.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// The metadata key that overrides [`DEFAULT_ALIGNMENT`].
pub const ALIGNMENT_KEY: &str = "general.alignment";

/// The most dimensions a ggml tensor can have.
pub const MAX_DIMS: usize = 4;

/// The longest tensor name, in bytes, that llama.cpp loads (its buffer holds 64 with the
/// terminator).
pub const MAX_TENSOR_NAME: usize = 63;

/// The longest metadata key the GGUF specification allows, in bytes.
pub const MAX_KEY: usize = 65_535;

/// Bytes of a tensor of these dimensions (`dims[0]` is the row length), without padding.
///
/// `None` when a row is not a whole number of blocks or the size does not fit in 64 bits.
#[must_use]
pub fn tensor_bytes(ty: TypeLayout, dims: &[u64]) -> Option<u64> {
    let row = dims.first().copied().unwrap_or(1);
    let weights = ty.block_weights as u64;
    if !row.is_multiple_of(weights) {
        return None;
    }
    let row_bytes = (row / weights).checked_mul(ty.block_bytes as u64)?;
    let rows = dims
        .iter()
        .skip(1)
        .try_fold(1u64, |n, &d| n.checked_mul(d))?;
    row_bytes.checked_mul(rows)
}

/// `n` rounded up to a multiple of `alignment` (a power of two); `None` on overflow.
#[must_use]
pub fn pad_to(n: u64, alignment: u64) -> Option<u64> {
    n.checked_next_multiple_of(alignment)
}

/// The sizes of a block type, in the form that also describes types without a codec.
#[must_use]
pub fn type_layout(block_type: BlockType) -> TypeLayout {
    TypeLayout {
        name: block_type.name(),
        id: block_type.id(),
        block_weights: block_type.block_weights(),
        block_bytes: block_type.block_bytes(),
    }
}
