//! GGML's block types: tables of sizes, encoders and decoders of rows.
//!
//! A row of a GGUF tensor is a sequence of blocks; a block holds a fixed number
//! of weights in a fixed number of bytes. Encoders write the very bytes that
//! ggml's `ggml_quantize_chunk` writes, with and without importance weights;
//! decoders give the very values of its `to_float`. The layouts and searches
//! are ggml's (`ggml-common.h`, `ggml-quants.c`, MIT licence).
//!
//! The codecs of a family live in a file named after it: each is a
//! [`codec::Codec`], with names, sizes and functions in one place, and a row of
//! `CODECS`. `scale_search` has the searches that they share.

mod codec;
mod error;
mod float;
pub mod groups;
mod iq4_nl;
mod iq4_values;
mod iq4_xs;
mod k_affine;
mod k_symmetric;
mod mxfp4;
mod other_types;
mod plain;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;
mod scalars;
mod scale_search;
mod small_blocks;
mod super_block;
mod tq1_0;
mod tq2_0;
mod validate;
mod weights;

use std::fmt;

use llm_quantize_plugin_api::kernels::simd::Level;

use codec::Codec;
pub use error::{BlockError, InvalidRow};
use other_types::OTHER_TYPES;
pub use other_types::TypeLayout;
use validate::Check;
pub use validate::validate_rows;

/// A ggml tensor type that rows can be encoded to and decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs)] // the field's own names
#[repr(u8)]
pub enum BlockType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    TQ1_0,
    TQ2_0,
    MXFP4,
}

type Encode = fn(Level, &[f32], Option<&[f32]>, &mut [u8]);
type Decode = fn(Level, &[u8], &mut [f32]);

/// A row of the table.
struct Row {
    ty: BlockType,
    layout: TypeLayout,
    encode: Encode,
    decode: Decode,
    check: Check,
}

const fn row<C: Codec>(ty: BlockType) -> Row {
    Row {
        ty,
        layout: C::LAYOUT,
        encode: codec::encode::<C>,
        decode: codec::decode::<C>,
        check: C::CHECK,
    }
}

/// In the order of [`BlockType`]'s variants, which index it.
const CODECS: &[Row] = &[
    row::<float::F32>(BlockType::F32),
    row::<float::F16>(BlockType::F16),
    row::<float::BF16>(BlockType::BF16),
    row::<q4::Q4_0>(BlockType::Q4_0),
    row::<q4::Q4_1>(BlockType::Q4_1),
    row::<q5::Q5_0>(BlockType::Q5_0),
    row::<q5::Q5_1>(BlockType::Q5_1),
    row::<q8_0::Q8_0>(BlockType::Q8_0),
    row::<q2_k::Q2K>(BlockType::Q2_K),
    row::<q3_k::Q3K>(BlockType::Q3_K),
    row::<q4_k::Q4K>(BlockType::Q4_K),
    row::<q5_k::Q5K>(BlockType::Q5_K),
    row::<q6_k::Q6K>(BlockType::Q6_K),
    row::<iq4_nl::Iq4Nl>(BlockType::IQ4_NL),
    row::<iq4_xs::Iq4Xs>(BlockType::IQ4_XS),
    row::<tq1_0::Tq1_0>(BlockType::TQ1_0),
    row::<tq2_0::Tq2_0>(BlockType::TQ2_0),
    row::<mxfp4::Mxfp4>(BlockType::MXFP4),
];

impl BlockType {
    /// Every supported type.
    pub fn all() -> impl Iterator<Item = Self> {
        CODECS.iter().map(|codec| codec.ty)
    }

    fn codec(self) -> &'static Row {
        &CODECS[self as usize]
    }

    /// ggml's name, in upper case as llama.cpp's tools print it: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.codec().layout.name
    }

    /// The type of that name, whatever its case.
    ///
    /// # Errors
    /// [`BlockError::Unsupported`] for a type of ggml's without a codec here,
    /// [`BlockError::UnknownName`] for any other name.
    pub fn from_name(name: &str) -> Result<Self, BlockError> {
        if let Some(ty) = Self::all().find(|ty| ty.name().eq_ignore_ascii_case(name)) {
            return Ok(ty);
        }
        match OTHER_TYPES
            .iter()
            .find(|other| other.name.eq_ignore_ascii_case(name))
        {
            Some(other) => Err(BlockError::Unsupported { name: other.name }),
            None => Err(BlockError::UnknownName { name: name.into() }),
        }
    }

    /// ggml's id, as stored in GGUF tensor tables.
    pub fn id(self) -> u32 {
        self.codec().layout.id
    }

    /// The type with that id.
    ///
    /// # Errors
    /// [`BlockError::Unsupported`] for a type of ggml's without a codec here,
    /// [`BlockError::UnknownId`] for any other id.
    pub fn from_id(id: u32) -> Result<Self, BlockError> {
        if let Some(ty) = Self::all().find(|ty| ty.id() == id) {
            return Ok(ty);
        }
        match TypeLayout::from_id(id) {
            Some(other) => Err(BlockError::Unsupported { name: other.name }),
            None => Err(BlockError::UnknownId { id }),
        }
    }

    /// Weights in one block.
    pub fn block_weights(self) -> usize {
        self.codec().layout.block_weights
    }

    /// Bytes that one block takes.
    pub fn block_bytes(self) -> usize {
        self.codec().layout.block_bytes
    }

    /// Bytes of a row of `cols` weights; `None` if that is not a whole number
    /// of blocks or does not fit in a `usize`.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        self.codec().layout.row_bytes(cols)
    }

    /// Bits that a weight takes on average, scales included.
    pub fn bits_per_weight(self) -> f64 {
        let layout = self.codec().layout;
        layout.block_bytes as f64 * 8.0 / layout.block_weights as f64
    }

    /// Whether rows are encoded differently with importance weights.
    pub fn takes_importance(self) -> bool {
        use BlockType::{BF16, F16, F32, MXFP4, Q8_0, TQ1_0, TQ2_0};
        !matches!(self, F32 | F16 | BF16 | Q8_0 | TQ1_0 | TQ2_0 | MXFP4)
    }

    /// The supported names, for messages.
    pub(crate) fn names() -> String {
        let names: Vec<_> = Self::all().map(Self::name).collect();
        names.join(", ")
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Encodes one row: the bytes that ggml writes for it.
///
/// `row` holds whole blocks, `out` exactly [`BlockType::row_bytes`] of it.
/// `importance` weighs the squared error of each column and has the row's
/// length; types that do not [take it](BlockType::takes_importance) ignore it.
///
/// Weights of huge magnitude can overflow a half-precision scale, as in ggml;
/// [`validate_rows`] finds such rows.
///
/// # Errors
/// Lengths that do not fit together, NaN or infinity among the weights or importances. `out` is then unchanged.
pub fn encode_row(
    ty: BlockType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    encode_row_on(Level::detect(), ty, row, importance, out)
}

/// [`encode_row`] with the instructions of a given level. The bytes are the
/// same on every level.
///
/// # Errors
/// As [`encode_row`].
pub fn encode_row_on(
    level: Level,
    ty: BlockType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    let encode = ty.codec().encode;
    check_lengths(ty, row.len(), out.len())?;
    if let Some((index, value)) = first_not_finite(level, row) {
        return Err(BlockError::NotFinite { index, value });
    }
    if let Some(importance) = importance {
        if importance.len() != row.len() {
            return Err(BlockError::ImportanceLength {
                expected: row.len(),
                actual: importance.len(),
            });
        }
        if let Some((index, value)) = first_not_finite(level, importance) {
            return Err(BlockError::ImportanceNotFinite { index, value });
        }
    }
    encode(level, row, importance, out);
    Ok(())
}

/// Decodes one row of `out.len()` weights: the values that ggml reads from it,
/// bit for bit; which NaN a block with a NaN scale gives is left open.
///
/// # Errors
/// Lengths that do not fit together.
pub fn decode_row(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    decode_row_on(Level::detect(), ty, bytes, out)
}

/// [`decode_row`] with the instructions of a given level.
///
/// # Errors
/// As [`decode_row`].
pub fn decode_row_on(
    level: Level,
    ty: BlockType,
    bytes: &[u8],
    out: &mut [f32],
) -> Result<(), BlockError> {
    check_lengths(ty, out.len(), bytes.len())?;
    (ty.codec().decode)(level, bytes, out);
    Ok(())
}

fn check_lengths(ty: BlockType, weights: usize, bytes: usize) -> Result<(), BlockError> {
    let expected = ty.row_bytes(weights).ok_or(BlockError::RowLength {
        ty,
        len: weights,
        block: ty.block_weights(),
    })?;
    if bytes != expected {
        return Err(BlockError::ByteLength {
            ty,
            weights,
            expected,
            actual: bytes,
        });
    }
    Ok(())
}

/// Index and value of the first NaN or infinity.
fn first_not_finite(level: Level, values: &[f32]) -> Option<(usize, f32)> {
    if codec::all_finite(level, values) {
        return None;
    }
    let index = values.iter().position(|value| !value.is_finite())?;
    Some((index, values[index]))
}

#[cfg(test)]
mod tests;
