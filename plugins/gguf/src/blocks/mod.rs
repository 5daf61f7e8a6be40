//! GGML's block types: tables of sizes, encoders and decoders of rows.
//!
//! A row of a GGUF tensor is a sequence of blocks; a block holds a fixed number
//! of weights in a fixed number of bytes. Encoders write the very bytes that
//! ggml's `ggml_quantize_chunk` writes, with and without importance weights;
//! decoders give the very values of its `to_float`. The layouts and searches
//! are ggml's (`ggml-common.h`, `ggml-quants.c`, MIT licence).
//!
//! The codecs of a family live in a file named after it; `CODECS` is the one
//! place that ties names, ids, sizes and functions together, and `cpu` the one
//! that picks the machine code.

mod cpu;
mod error;
mod float;
mod iq4_nl;
mod iq4_xs;
mod k_affine;
mod lanes;
mod mxfp4;
mod other_types;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;
mod scale_search;
mod small_blocks;
mod super_block;
mod tq1_0;
mod tq2_0;
mod validate;

use std::fmt;

pub use cpu::CpuLevel;
pub use error::{BlockError, InvalidRow};
use other_types::OTHER_TYPES;
pub use other_types::TypeLayout;
use validate::Check;
pub use validate::validate_rows;

/// A ggml tensor type that rows can be decoded from and, apart from those for
/// which [`BlockType::supports_encode`] says no, encoded to.
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

type Encode = fn(CpuLevel, &[f32], Option<&[f32]>, &mut [u8]);
type Decode = fn(CpuLevel, &[u8], &mut [f32]);

/// Everything known about one type.
struct Codec {
    ty: BlockType,
    layout: TypeLayout,
    encode: Option<Encode>,
    decode: Decode,
    check: Check,
}

/// In the order of [`BlockType`]'s variants, which index it.
#[rustfmt::skip] // a table
const CODECS: &[Codec] = &[
    codec(BlockType::F32, "F32", 0, (1, 4), Some(cpu::encode_f32), cpu::decode_f32, Check::F32),
    codec(BlockType::F16, "F16", 1, (1, 2), Some(cpu::encode_f16), cpu::decode_f16, Check::F16),
    codec(BlockType::BF16, "BF16", 30, (1, 2), Some(cpu::encode_bf16), cpu::decode_bf16, Check::BF16),
    codec(BlockType::Q4_0, "Q4_0", 2, (small_blocks::WEIGHTS, q4::Q4_0_BYTES), Some(cpu::encode_q4_0), cpu::decode_q4_0, Check::Scales(&[0])),
    codec(BlockType::Q4_1, "Q4_1", 3, (small_blocks::WEIGHTS, q4::Q4_1_BYTES), Some(cpu::encode_q4_1), cpu::decode_q4_1, Check::Scales(&[0, 2])),
    codec(BlockType::Q5_0, "Q5_0", 6, (small_blocks::WEIGHTS, q5::Q5_0_BYTES), Some(cpu::encode_q5_0), cpu::decode_q5_0, Check::Scales(&[0])),
    codec(BlockType::Q5_1, "Q5_1", 7, (small_blocks::WEIGHTS, q5::Q5_1_BYTES), Some(cpu::encode_q5_1), cpu::decode_q5_1, Check::Scales(&[0, 2])),
    codec(BlockType::Q8_0, "Q8_0", 8, (q8_0::WEIGHTS, q8_0::BYTES), Some(cpu::encode_q8_0), cpu::decode_q8_0, Check::Scales(&[0])),
    codec(BlockType::Q2_K, "Q2_K", 10, (super_block::WEIGHTS, q2_k::BYTES), Some(cpu::encode_q2_k), cpu::decode_q2_k, Check::Scales(&[80, 82])),
    codec(BlockType::Q3_K, "Q3_K", 11, (super_block::WEIGHTS, q3_k::BYTES), Some(cpu::encode_q3_k), cpu::decode_q3_k, Check::Scales(&[108])),
    codec(BlockType::Q4_K, "Q4_K", 12, (super_block::WEIGHTS, q4_k::BYTES), Some(cpu::encode_q4_k), cpu::decode_q4_k, Check::Scales(&[0, 2])),
    codec(BlockType::Q5_K, "Q5_K", 13, (super_block::WEIGHTS, q5_k::BYTES), Some(cpu::encode_q5_k), cpu::decode_q5_k, Check::Scales(&[0, 2])),
    codec(BlockType::Q6_K, "Q6_K", 14, (super_block::WEIGHTS, q6_k::BYTES), Some(cpu::encode_q6_k), cpu::decode_q6_k, Check::Scales(&[208])),
    codec(BlockType::IQ4_NL, "IQ4_NL", 20, (iq4_nl::WEIGHTS, iq4_nl::BYTES), Some(cpu::encode_iq4_nl), cpu::decode_iq4_nl, Check::Scales(&[0])),
    codec(BlockType::IQ4_XS, "IQ4_XS", 23, (iq4_xs::WEIGHTS, iq4_xs::BYTES), Some(cpu::encode_iq4_xs), cpu::decode_iq4_xs, Check::Scales(&[0])),
    codec(BlockType::TQ1_0, "TQ1_0", 34, (tq1_0::WEIGHTS, tq1_0::BYTES), Some(cpu::encode_tq1_0), cpu::decode_tq1_0, Check::Scales(&[52])),
    codec(BlockType::TQ2_0, "TQ2_0", 35, (tq2_0::WEIGHTS, tq2_0::BYTES), Some(cpu::encode_tq2_0), cpu::decode_tq2_0, Check::Scales(&[64])),
    codec(BlockType::MXFP4, "MXFP4", 39, (mxfp4::WEIGHTS, mxfp4::BYTES), Some(cpu::encode_mxfp4), cpu::decode_mxfp4, Check::Exponent(0)),
];

const fn codec(
    ty: BlockType,
    name: &'static str,
    id: u32,
    (block_weights, block_bytes): (usize, usize),
    encode: Option<Encode>,
    decode: Decode,
    check: Check,
) -> Codec {
    Codec {
        ty,
        layout: TypeLayout {
            name,
            id,
            block_weights,
            block_bytes,
        },
        encode,
        decode,
        check,
    }
}

impl BlockType {
    /// Every supported type.
    pub fn all() -> impl Iterator<Item = Self> {
        CODECS.iter().map(|codec| codec.ty)
    }

    fn codec(self) -> &'static Codec {
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

    /// Whether [`encode_row`] can write the type.
    pub fn supports_encode(self) -> bool {
        self.codec().encode.is_some()
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
/// length; with it ggml uses other searches for all but F32, F16, BF16, Q8_0,
/// TQ1_0, TQ2_0 and MXFP4, which ignore it.
///
/// Weights of huge magnitude can overflow a half-precision scale, as in ggml;
/// [`validate_rows`] finds such rows.
///
/// # Errors
/// Lengths that do not fit together, a type that cannot be encoded, NaN or
/// infinity among the weights or importances. `out` is then unchanged.
pub fn encode_row(
    ty: BlockType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    encode_row_on(CpuLevel::detect(), ty, row, importance, out)
}

/// [`encode_row`] with the instructions of a given level. The bytes are the
/// same on every level.
///
/// # Errors
/// As [`encode_row`].
pub fn encode_row_on(
    cpu: CpuLevel,
    ty: BlockType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), BlockError> {
    let encode = ty.codec().encode.ok_or(BlockError::DecodeOnly { ty })?;
    check_lengths(ty, row.len(), out.len())?;
    if let Some((index, value)) = first_not_finite(cpu, row) {
        return Err(BlockError::NotFinite { index, value });
    }
    if let Some(importance) = importance {
        if importance.len() != row.len() {
            return Err(BlockError::ImportanceLength {
                expected: row.len(),
                actual: importance.len(),
            });
        }
        if let Some((index, value)) = first_not_finite(cpu, importance) {
            return Err(BlockError::ImportanceNotFinite { index, value });
        }
    }
    encode(cpu, row, importance, out);
    Ok(())
}

/// Decodes one row of `out.len()` weights: the values that ggml reads from it,
/// bit for bit; which NaN a block with a NaN scale gives is left open.
///
/// # Errors
/// Lengths that do not fit together.
pub fn decode_row(ty: BlockType, bytes: &[u8], out: &mut [f32]) -> Result<(), BlockError> {
    decode_row_on(CpuLevel::detect(), ty, bytes, out)
}

/// [`decode_row`] with the instructions of a given level.
///
/// # Errors
/// As [`decode_row`].
pub fn decode_row_on(
    cpu: CpuLevel,
    ty: BlockType,
    bytes: &[u8],
    out: &mut [f32],
) -> Result<(), BlockError> {
    check_lengths(ty, out.len(), bytes.len())?;
    (ty.codec().decode)(cpu, bytes, out);
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
fn first_not_finite(cpu: CpuLevel, values: &[f32]) -> Option<(usize, f32)> {
    if cpu::all_finite(cpu, values) {
        return None;
    }
    let index = values.iter().position(|value| !value.is_finite())?;
    Some((index, values[index]))
}

#[cfg(test)]
mod tests;
