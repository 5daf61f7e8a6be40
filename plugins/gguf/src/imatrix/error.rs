//! What can be wrong with an importance matrix.

use crate::container::{MetadataError, ReadError, WriteError};

/// Why an importance matrix could not be read, used or written. Offsets count bytes from the start
/// of the file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ImatrixError {
    #[error("the importance matrix: {0}")]
    Read(#[from] ReadError),
    #[error("the importance matrix: {0}")]
    Metadata(#[from] MetadataError),
    #[error(
        "this GGUF file is of type \"{kind}\", not an importance matrix; make one with `llm-quantize analyze`"
    )]
    NotImatrix { kind: String },
    #[error(
        "the importance matrix covers no tensors; it was measured on too little text, or is something else"
    )]
    Empty,
    #[error(
        "the importance matrix has no \"{missing}\" for tensor \"{tensor}\"; the file is damaged"
    )]
    Unpaired {
        tensor: String,
        missing: &'static str,
    },
    #[error("the importance matrix stores tensor \"{tensor}\" as {found} instead of F32")]
    NotF32 { tensor: String, found: &'static str },
    #[error(
        "the importance matrix has {values} values and {counts} counts for tensor \"{tensor}\"; they do not divide"
    )]
    Indivisible {
        tensor: String,
        values: usize,
        counts: usize,
    },
    #[error(
        "the importance matrix has value {value} at place {index} for tensor \"{tensor}\", but the mean of squares is finite and not negative; measure it anew"
    )]
    BadWeight {
        tensor: String,
        index: usize,
        value: f32,
    },
    #[error(
        "the importance matrix is cut off at byte {offset}: {what} needs {needed} bytes, {available} are left (or it is no importance matrix at all)"
    )]
    Truncated {
        what: &'static str,
        offset: usize,
        needed: usize,
        available: usize,
    },
    #[error("this is no importance matrix: {what} at byte {offset} is {value}")]
    Impossible {
        what: &'static str,
        value: i32,
        offset: usize,
    },
    #[error("this is no importance matrix: the tensor name at byte {offset} is not UTF-8")]
    NameNotText { offset: usize },
    #[error("the importance matrix has tensor \"{tensor}\" twice")]
    Duplicate { tensor: String },
    #[error(
        "the importance matrix has {found} weights for tensor \"{tensor}\", which needs {columns} x {experts}; it was made for another model"
    )]
    WrongLength {
        tensor: String,
        found: usize,
        columns: u64,
        experts: u64,
    },
    #[error("the importance matrix could not be written: {0}")]
    Write(#[from] WriteError),
}
