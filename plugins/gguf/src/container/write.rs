//! Writing a GGUF header, and the places of the tensors behind it.
//!
//! For the same keys and tensors in the same order the bytes are those of ggml's own writer.
//! Both of llama.cpp's ways to write a model, `gguf_write_to_file` and the streaming one of
//! llama-quantize, pad the data of every tensor to the alignment, the last one included, and
//! so does [`layout`]. (llama-quantize ignores `general.alignment` and always pads to 32, which
//! makes files with another value unreadable; here the key is obeyed.)

use super::metadata::{Metadata, MetadataError};
use super::value::{Array, Value};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, MAX_KEY, MAX_TENSOR_NAME, pad_to,
    tensor_bytes, type_layout,
};
use crate::blocks::{BlockType, TypeLayout};
use std::collections::HashSet;
use std::ops::Range;

/// The version written.
const VERSION: u32 = 3;

/// A larger alignment is taken for a mistake: the header is padded to it in memory.
const MAX_ALIGNMENT: u32 = 1 << 20;

/// Why no header could be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum WriteError {
    #[error("metadata key \"{key}\" is {} bytes long; 1 to {MAX_KEY} are allowed", key.len())]
    BadKey { key: String },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("{ALIGNMENT_KEY} is {alignment}, but must be a power of two up to {MAX_ALIGNMENT}")]
    BadAlignment { alignment: u32 },
    #[error("tensor name \"{name}\" is {} bytes long; llama.cpp loads 1 to {MAX_TENSOR_NAME}", name.len())]
    BadName { name: String },
    #[error("tensor name \"{name}\" is used twice")]
    DuplicateTensor { name: String },
    #[error("tensor \"{name}\" has {count} dimensions; ggml allows 1 to {MAX_DIMS}")]
    BadDims { name: String, count: usize },
    #[error(
        "tensor \"{name}\" with dimensions {dims:?} cannot be stored as {block_type}: rows must be whole blocks of {block_weights} weights, no dimension zero, and the size must fit in 63 bits"
    )]
    BadShape {
        name: String,
        dims: Vec<u64>,
        block_type: &'static str,
        block_weights: u64,
    },
    #[error("the file would be larger than 2^63 bytes")]
    TooLarge,
}

/// A tensor to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorSpec<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// Dimensions in ggml's order (`dims[0]` is the row length); trailing ones are left out of
    /// the file, as ggml does.
    pub dims: &'a [u64],
    /// How the weights will be stored.
    pub ty: TypeLayout,
}

impl<'a> TensorSpec<'a> {
    /// A tensor of a type with a codec.
    #[must_use]
    pub fn new(name: &'a str, dims: &'a [u64], block_type: BlockType) -> Self {
        let ty = type_layout(block_type);
        Self { name, dims, ty }
    }
}

/// A file's header and the places of its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileLayout {
    /// The file's first bytes, padded to the alignment: tensor data follows at once.
    pub header: Vec<u8>,
    /// Where each tensor's data goes, in bytes from the start of the file; in the order given.
    /// The bytes between one range and the next (or the end of the file) are zero.
    pub tensors: Vec<Range<u64>>,
    /// Size of the whole file in bytes, final padding included.
    pub file_size: u64,
}

/// Builds the header of a GGUF file (version 3, little-endian) and places its tensors.
///
/// # Errors
/// [`WriteError`] if readers would refuse the file.
pub fn layout(metadata: &Metadata, tensors: &[TensorSpec<'_>]) -> Result<FileLayout, WriteError> {
    let alignment = alignment_of(metadata)?;
    let mut header = Vec::new();
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        if key.is_empty() || key.len() > MAX_KEY {
            let key = key.to_owned();
            return Err(WriteError::BadKey { key });
        }
        put_bytes(&mut header, key.as_bytes());
        put_value(&mut header, value);
    }
    let (relative, data_size) = put_tensors(&mut header, tensors, alignment)?;
    let data_start = pad_to(header.len() as u64, alignment).ok_or(WriteError::TooLarge)?;
    let file_size = data_start
        .checked_add(data_size)
        .filter(|&size| i64::try_from(size).is_ok())
        .ok_or(WriteError::TooLarge)?;
    header.resize(
        usize::try_from(data_start).map_err(|_| WriteError::TooLarge)?,
        0,
    );
    // Every range ends before the file does, so these sums fit.
    let tensors = relative
        .into_iter()
        .map(|range| data_start + range.start..data_start + range.end)
        .collect();
    Ok(FileLayout {
        header,
        tensors,
        file_size,
    })
}

fn alignment_of(metadata: &Metadata) -> Result<u64, WriteError> {
    match metadata.get::<u32>(ALIGNMENT_KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => Ok(a.into()),
        Some(alignment) => Err(WriteError::BadAlignment { alignment }),
    }
}

/// Writes the tensor table; returns each tensor's range in the data section, and its size.
fn put_tensors(
    out: &mut Vec<u8>,
    tensors: &[TensorSpec<'_>],
    alignment: u64,
) -> Result<(Vec<Range<u64>>, u64), WriteError> {
    let mut seen = HashSet::with_capacity(tensors.len());
    let mut ranges = Vec::with_capacity(tensors.len());
    let mut offset = 0u64;
    for tensor in tensors {
        let bytes = check_tensor(tensor)?;
        if !seen.insert(tensor.name) {
            let name = tensor.name.to_owned();
            return Err(WriteError::DuplicateTensor { name });
        }
        put_bytes(out, tensor.name.as_bytes());
        let dims = without_trailing_ones(tensor.dims);
        out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        for dim in dims {
            out.extend_from_slice(&dim.to_le_bytes());
        }
        out.extend_from_slice(&tensor.ty.id.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        let end = offset.checked_add(bytes).ok_or(WriteError::TooLarge)?;
        ranges.push(offset..end);
        offset = pad_to(end, alignment).ok_or(WriteError::TooLarge)?;
    }
    Ok((ranges, offset))
}

fn check_tensor(tensor: &TensorSpec<'_>) -> Result<u64, WriteError> {
    let name = || tensor.name.to_owned();
    // ggml keeps names as C strings: a zero byte would end them early.
    if tensor.name.is_empty() || tensor.name.len() > MAX_TENSOR_NAME || tensor.name.contains('\0') {
        return Err(WriteError::BadName { name: name() });
    }
    if tensor.dims.is_empty() || tensor.dims.len() > MAX_DIMS {
        return Err(WriteError::BadDims {
            name: name(),
            count: tensor.dims.len(),
        });
    }
    let weights = tensor.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
    let fits = weights.is_some_and(|n| n > 0 && i64::try_from(n).is_ok());
    tensor_bytes(tensor.ty, tensor.dims)
        .filter(|_| fits)
        .ok_or_else(|| WriteError::BadShape {
            name: name(),
            dims: tensor.dims.to_vec(),
            block_type: tensor.ty.name,
            block_weights: tensor.ty.block_weights as u64,
        })
}

/// ggml counts dimensions up to the last one above 1, but at least one.
fn without_trailing_ones(dims: &[u64]) -> &[u64] {
    let used = dims.iter().rposition(|&d| d > 1).map_or(1, |last| last + 1);
    dims.get(..used).unwrap_or(dims)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    out.extend_from_slice(&value.value_type().id().to_le_bytes());
    match value {
        Value::U8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(text) => put_bytes(out, text.as_bytes()),
        Value::Array(array) => put_array(out, array),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&array.element_type().id().to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(values) => out.extend_from_slice(values),
        Array::I8(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::U64(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(values) => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(values) => out.extend(values.iter().map(|&v| u8::from(v))),
        Array::String(strings) => strings.iter().for_each(|text| put_bytes(out, text)),
    }
}
