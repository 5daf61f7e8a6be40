//! What can go wrong when rows are encoded, decoded or checked.

use thiserror::Error;

use super::BlockType;

/// Why a type name or id was refused, or a row could not be encoded, decoded
/// or validated. Indexes count from 0 within the slice that was passed in.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum BlockError {
    /// The name is not one of ggml's.
    #[error(
        "\"{name}\" is not a ggml tensor type; supported are {}",
        BlockType::names()
    )]
    UnknownName {
        /// The name as it was given.
        name: String,
    },
    /// The id is not one of ggml's.
    #[error(
        "{id} is not the id of a ggml tensor type; the file is damaged or newer than this program"
    )]
    UnknownId {
        /// The id as it was given.
        id: u32,
    },
    /// A type of ggml's that has no codec here.
    #[error("ggml's {name} is not supported; supported are {}", BlockType::names())]
    Unsupported {
        /// ggml's name of the type, in upper case.
        name: &'static str,
    },
    /// Blocks do not span rows, so a row must hold whole blocks.
    #[error("a row of {len} weights is not a whole number of {ty} blocks of {block} weights")]
    RowLength {
        /// The type asked for.
        ty: BlockType,
        /// Weights in the row.
        len: usize,
        /// Weights in a block.
        block: usize,
    },
    /// The byte slice does not match the row.
    #[error("a {ty} row of {weights} weights takes {expected} bytes, the buffer has {actual}")]
    ByteLength {
        /// The type asked for.
        ty: BlockType,
        /// Weights in the row.
        weights: usize,
        /// Bytes that the row takes.
        expected: usize,
        /// Bytes in the slice.
        actual: usize,
    },
    /// There must be one importance weight per column.
    #[error("{actual} importance weights for a row of {expected} weights")]
    ImportanceLength {
        /// Weights in the row.
        expected: usize,
        /// Importance weights given.
        actual: usize,
    },
    /// A source weight is NaN or infinite, which no block type can hold.
    #[error("weight {index} of the row is {value}; the source tensor is damaged or overflowed")]
    NotFinite {
        /// Column of the first such weight.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// An importance weight is NaN or infinite.
    #[error("importance weight {index} is {value}; the importance matrix is damaged")]
    ImportanceNotFinite {
        /// Column of the first such weight.
        index: usize,
        /// Its value.
        value: f32,
    },
}

/// Why encoded rows are not usable: what ggml's own row check would refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidRow {
    /// A value, or a scale of a block, is infinite.
    #[error("block {block} holds an infinite value")]
    Infinite {
        /// Block within the row.
        block: usize,
    },
    /// A value, or a scale of a block, is not a number.
    #[error("block {block} holds a NaN")]
    NotANumber {
        /// Block within the row.
        block: usize,
    },
    /// The row ends in the middle of a block.
    #[error("the row ends in the middle of a block")]
    PartialBlock,
}
