//! Reading a GGUF header: version, metadata and the tensor table.
//!
//! The bytes may come from anywhere, so nothing in them is believed: counts are checked against
//! the bytes that are left before anything is allocated for them, sums and products are checked,
//! and every failure names the byte where it was found.

use super::cursor::Cursor;
use super::metadata::{Metadata, MetadataError};
use super::value::{Array, StringArray, Text, Value, ValueType};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, MAX_KEY, pad_to, tensor_bytes};
use crate::blocks::{BlockError, BlockType, TypeLayout};
use std::collections::HashSet;
use std::ops::Range;

/// Tensor names longer than this are refused, whatever the file says. llama.cpp stops at
/// [`super::MAX_TENSOR_NAME`]; other ggml programs are built with longer limits.
const MAX_NAME_READ: u64 = 1024;

/// The most that the other dimensions of a tensor without weights may come to.
const MAX_EMPTY: u64 = 1 << 20;

/// The smallest pair: a key of one byte with its length, a type, a one-byte value.
const MIN_PAIR_BYTES: u64 = 8 + 1 + 4 + 1;

/// The smallest tensor entry: a name of one byte with its length, no dimensions, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// Why a file could not be read as GGUF. Offsets count bytes from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ReadError {
    #[error("not a GGUF file: it starts with {found:02x?} instead of \"GGUF\"")]
    NotGguf { found: Vec<u8> },
    #[error(
        "this GGUF file is big-endian; convert it with llama.cpp's gguf_convert_endian.py first"
    )]
    BigEndian,
    #[error("GGUF version 1 is no longer supported; convert the model anew")]
    Version1,
    #[error("GGUF version {version} is unknown (2 and 3 are supported); update this program")]
    UnknownVersion { version: u32 },
    #[error(
        "the file is cut off at byte {offset}: {what} needs {needed} bytes, {available} are left; download it again"
    )]
    Truncated {
        what: &'static str,
        offset: u64,
        needed: u64,
        available: u64,
    },
    #[error("the header claims {count} {what} at byte {offset}, more than the file has room for")]
    ImpossibleCount {
        what: &'static str,
        count: u64,
        offset: u64,
    },
    #[error(
        "metadata key {index} at byte {offset} is {len} bytes long; 1 to {MAX_KEY} are allowed"
    )]
    BadKeyLength { index: u64, len: usize, offset: u64 },
    #[error("metadata key {index} at byte {offset} is not UTF-8")]
    KeyNotText { index: u64, offset: u64 },
    #[error("metadata key \"{key}\" occurs a second time at byte {offset}")]
    DuplicateKey { key: String, offset: u64 },
    #[error(
        "metadata key \"{key}\" has value type {id} at byte {offset}, which GGUF does not define"
    )]
    UnknownValueType { key: String, id: u32, offset: u64 },
    #[error(
        "metadata key \"{key}\" at byte {offset} is an array of arrays, which no GGUF reader supports"
    )]
    NestedArray { key: String, offset: u64 },
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error("{ALIGNMENT_KEY} is {alignment}, but must be a power of two")]
    BadAlignment { alignment: u32 },
    #[error(
        "the name of tensor {index} at byte {offset} is {len} bytes long; 1 to {MAX_NAME_READ} are allowed"
    )]
    BadNameLength { index: u64, len: usize, offset: u64 },
    #[error("the name of tensor {index} at byte {offset} is not UTF-8")]
    NameNotText { index: u64, offset: u64 },
    #[error("tensor \"{name}\" occurs a second time at byte {offset}")]
    DuplicateTensor { name: String, offset: u64 },
    #[error("tensor \"{name}\" at byte {offset} has {count} dimensions; ggml allows {MAX_DIMS}")]
    TooManyDims {
        name: String,
        count: u32,
        offset: u64,
    },
    #[error(
        "tensor \"{name}\" at byte {offset} has type {id}, which ggml does not define; the file is damaged or newer than this program"
    )]
    UnknownTensorType { name: String, id: u32, offset: u64 },
    #[error(
        "tensor \"{name}\" at byte {offset}: rows of {columns} weights are not whole {block_type} blocks of {block_weights}"
    )]
    PartialBlock {
        name: String,
        columns: u64,
        block_type: &'static str,
        block_weights: u64,
        offset: u64,
    },
    #[error("tensor \"{name}\" at byte {offset} has impossible dimensions {dims:?}")]
    TooLarge {
        name: String,
        dims: Vec<u64>,
        offset: u64,
    },
    #[error(
        "the data of tensor \"{name}\" starts at {start}, which is not a multiple of {alignment}"
    )]
    Misaligned {
        name: String,
        start: u64,
        alignment: u64,
    },
    #[error(
        "the data of tensor \"{name}\" lies at bytes {start} to {end}, but the file ends at {file_size}; download it again"
    )]
    OutOfFile {
        name: String,
        start: u64,
        end: u64,
        file_size: u64,
    },
    #[error("the data of tensors \"{first}\" and \"{second}\" overlap at byte {offset}")]
    Overlap {
        first: String,
        second: String,
        offset: u64,
    },
}

/// One row of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// Dimensions in ggml's order: `dims[0]` is the row length. One to four of them.
    pub dims: Vec<u64>,
    /// How the weights are stored: any type of ggml's, with a codec here or without.
    pub ty: TypeLayout,
    /// Where the data lies, in bytes from the start of the file.
    pub range: Range<u64>,
}

impl TensorInfo {
    /// The codec for the tensor's type.
    ///
    /// # Errors
    /// [`BlockError::Unsupported`] for a type that can be listed and copied only.
    pub fn block_type(&self) -> Result<BlockType, BlockError> {
        BlockType::from_id(self.ty.id)
    }

    /// The tensor's data within the bytes of its file.
    #[must_use]
    pub fn data<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.range.start).ok()?;
        let end = usize::try_from(self.range.end).ok()?;
        file.get(start..end)
    }

    /// How many weights the tensor has.
    #[must_use]
    pub fn weights(&self) -> u64 {
        // The reader has checked that the product fits.
        self.dims.iter().product()
    }
}

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// 2 or 3; the layouts are the same.
    pub version: u32,
    /// The alignment of the data section and of each tensor in it, in bytes.
    pub alignment: u64,
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensors, in the order of the table.
    pub tensors: Vec<TensorInfo>,
    /// Where the data section starts, in bytes from the start of the file.
    pub data_start: u64,
}

impl Gguf {
    /// Reads the header of a file given as a whole (usually mapped); tensor data is not touched.
    ///
    /// # Errors
    /// [`ReadError`] for anything but a sound little-endian GGUF file of version 2 or 3.
    pub fn parse(file: &[u8]) -> Result<Self, ReadError> {
        let mut cursor = Cursor::new(file);
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.u64("the number of tensors")?;
        let pair_count = cursor.u64("the number of metadata keys")?;
        check_count(&cursor, "metadata keys", pair_count, MIN_PAIR_BYTES)?;
        let metadata = read_metadata(&mut cursor, pair_count)?;
        let alignment = alignment_of(&metadata)?;
        check_count(&cursor, "tensors", tensor_count, MIN_TENSOR_BYTES)?;
        let entries = read_entries(&mut cursor, tensor_count)?;
        let data_start = match entries.is_empty() {
            // Without tensors there is no data section, and ggml does not ask for its padding.
            true => cursor.offset(),
            false => pad_to(cursor.offset(), alignment).unwrap_or(u64::MAX),
        };
        let tensors = place(entries, data_start, alignment, file.len() as u64)?;
        check_overlaps(&tensors)?;
        Ok(Self {
            version,
            alignment,
            metadata,
            tensors,
            data_start,
        })
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, ReadError> {
    let magic = cursor.take(
        cursor.remaining().min(MAGIC.len() as u64),
        "the magic number",
    )?;
    if magic != MAGIC {
        return Err(ReadError::NotGguf {
            found: magic.to_vec(),
        });
    }
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err(ReadError::Version1),
        swapped if swapped != 0 && swapped & 0xffff == 0 => Err(ReadError::BigEndian),
        version => Err(ReadError::UnknownVersion { version }),
    }
}

/// Refuses a count that could not be true even if every item had the least size.
fn check_count(
    cursor: &Cursor<'_>,
    what: &'static str,
    count: u64,
    min_bytes: u64,
) -> Result<(), ReadError> {
    if count > cursor.remaining() / min_bytes {
        return Err(ReadError::ImpossibleCount {
            what,
            count,
            offset: cursor.offset(),
        });
    }
    Ok(())
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, ReadError> {
    let mut metadata = Metadata::new();
    for index in 0..count {
        let offset = cursor.offset();
        let bytes = cursor.string("a metadata key")?;
        if bytes.is_empty() || bytes.len() > MAX_KEY {
            let len = bytes.len();
            return Err(ReadError::BadKeyLength { index, len, offset });
        }
        let key =
            std::str::from_utf8(bytes).map_err(|_| ReadError::KeyNotText { index, offset })?;
        if metadata.contains(key) {
            let key = key.to_owned();
            return Err(ReadError::DuplicateKey { key, offset });
        }
        let value = read_value(cursor, key)?;
        metadata.set_in_place(key, value);
    }
    Ok(metadata)
}

fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, ReadError> {
    let offset = cursor.offset();
    let id = cursor.u32("a value type")?;
    ValueType::from_id(id).ok_or_else(|| ReadError::UnknownValueType {
        key: key.to_owned(),
        id,
        offset,
    })
}

fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, ReadError> {
    const WHAT: &str = "a metadata value";
    Ok(match read_type(cursor, key)? {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        // ggml takes any byte but zero for true.
        ValueType::Bool => Value::Bool(cursor.array::<1>(WHAT)? != [0]),
        ValueType::String => Value::String(Text::from(cursor.string("a metadata string")?)),
        ValueType::Array => Value::Array(read_array(cursor, key)?),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, ReadError> {
    let offset = cursor.offset();
    let element = read_type(cursor, key)?;
    let count = cursor.u64("the length of an array")?;
    Ok(match element {
        ValueType::U8 => Array::U8(read_numbers(cursor, count, u8::from_le_bytes)?),
        ValueType::I8 => Array::I8(read_numbers(cursor, count, i8::from_le_bytes)?),
        ValueType::U16 => Array::U16(read_numbers(cursor, count, u16::from_le_bytes)?),
        ValueType::I16 => Array::I16(read_numbers(cursor, count, i16::from_le_bytes)?),
        ValueType::U32 => Array::U32(read_numbers(cursor, count, u32::from_le_bytes)?),
        ValueType::I32 => Array::I32(read_numbers(cursor, count, i32::from_le_bytes)?),
        ValueType::F32 => Array::F32(read_numbers(cursor, count, f32::from_le_bytes)?),
        ValueType::U64 => Array::U64(read_numbers(cursor, count, u64::from_le_bytes)?),
        ValueType::I64 => Array::I64(read_numbers(cursor, count, i64::from_le_bytes)?),
        ValueType::F64 => Array::F64(read_numbers(cursor, count, f64::from_le_bytes)?),
        ValueType::Bool => Array::Bool(read_numbers(cursor, count, |byte: [u8; 1]| byte != [0])?),
        ValueType::String => Array::String(read_strings(cursor, count)?),
        ValueType::Array => {
            let key = key.to_owned();
            return Err(ReadError::NestedArray { key, offset });
        }
    })
}

fn read_numbers<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    count: u64,
    decode: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, ReadError> {
    check_count(cursor, "array elements", count, N as u64)?;
    let bytes = cursor.take(count * N as u64, "an array")?;
    let (elements, _) = bytes.as_chunks::<N>();
    Ok(elements.iter().map(|&element| decode(element)).collect())
}

fn read_strings(cursor: &mut Cursor<'_>, count: u64) -> Result<StringArray, ReadError> {
    // A string takes eight bytes for its length at least, so this also bounds the allocation.
    check_count(cursor, "array strings", count, 8)?;
    let mut strings = StringArray::with_capacity(usize::try_from(count).unwrap_or(0));
    for _ in 0..count {
        strings.push(cursor.string("a string in an array")?);
    }
    Ok(strings)
}

fn alignment_of(metadata: &Metadata) -> Result<u64, ReadError> {
    match metadata.get::<u32>(ALIGNMENT_KEY)? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() => Ok(alignment.into()),
        Some(alignment) => Err(ReadError::BadAlignment { alignment }),
    }
}

/// A row of the table as it is in the file: `start` counts from the data section.
struct Entry {
    name: String,
    dims: Vec<u64>,
    ty: TypeLayout,
    bytes: u64,
    start: u64,
}

fn read_entries(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<Entry>, ReadError> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for index in 0..count {
        let offset = cursor.offset();
        let name = read_name(cursor, index)?;
        if !seen.insert(name) {
            let name = name.to_owned();
            return Err(ReadError::DuplicateTensor { name, offset });
        }
        entries.push(read_entry(cursor, name)?);
    }
    Ok(entries)
}

fn read_name<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<&'a str, ReadError> {
    let offset = cursor.offset();
    let bytes = cursor.string("a tensor name")?;
    if bytes.is_empty() || bytes.len() as u64 > MAX_NAME_READ {
        let len = bytes.len();
        return Err(ReadError::BadNameLength { index, len, offset });
    }
    std::str::from_utf8(bytes).map_err(|_| ReadError::NameNotText { index, offset })
}

fn read_entry(cursor: &mut Cursor<'_>, name: &str) -> Result<Entry, ReadError> {
    let offset = cursor.offset();
    let name = || name.to_owned();
    let count = cursor.u32("a number of dimensions")?;
    if count as usize > MAX_DIMS {
        return Err(ReadError::TooManyDims {
            name: name(),
            count,
            offset,
        });
    }
    let mut dims = Vec::with_capacity(MAX_DIMS);
    for _ in 0..count {
        dims.push(cursor.u64("a dimension")?);
    }
    if dims.is_empty() {
        dims.push(1); // ggml reads no dimensions as one of length one
    }
    let id = cursor.u32("a tensor type")?;
    let start = cursor.u64("a tensor offset")?;
    let Some(ty) = TypeLayout::from_id(id) else {
        return Err(ReadError::UnknownTensorType {
            name: name(),
            id,
            offset,
        });
    };
    let bytes = checked_bytes(ty, &dims, name, offset)?;
    Ok(Entry {
        name: name(),
        dims,
        ty,
        bytes,
        start,
    })
}

fn checked_bytes(
    ty: TypeLayout,
    dims: &[u64],
    name: impl Fn() -> String,
    offset: u64,
) -> Result<u64, ReadError> {
    let columns = dims.first().copied().unwrap_or(1);
    let block_weights = ty.block_weights as u64;
    if !columns.is_multiple_of(block_weights) {
        return Err(ReadError::PartialBlock {
            name: name(),
            columns,
            block_type: ty.name,
            block_weights,
            offset,
        });
    }
    // A zero among the dimensions must not hide an overflow from code that multiplies in
    // another order, nor numbers that no data vouches for.
    let limit = match dims.contains(&0) {
        true => MAX_EMPTY,
        false => i64::MAX as u64,
    };
    let weights = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1)));
    let fits = weights.is_some_and(|n| n <= limit);
    tensor_bytes(ty, dims)
        .filter(|_| fits)
        .ok_or_else(|| ReadError::TooLarge {
            name: name(),
            dims: dims.to_vec(),
            offset,
        })
}

fn place(
    entries: Vec<Entry>,
    data_start: u64,
    alignment: u64,
    file_size: u64,
) -> Result<Vec<TensorInfo>, ReadError> {
    let mut tensors = Vec::with_capacity(entries.len());
    for entry in entries {
        if !entry.start.is_multiple_of(alignment) {
            return Err(ReadError::Misaligned {
                name: entry.name,
                start: entry.start,
                alignment,
            });
        }
        let start = data_start.saturating_add(entry.start);
        let end = start.saturating_add(entry.bytes);
        if end > file_size {
            return Err(ReadError::OutOfFile {
                name: entry.name,
                start,
                end,
                file_size,
            });
        }
        tensors.push(TensorInfo {
            name: entry.name,
            dims: entry.dims,
            ty: entry.ty,
            range: start..end,
        });
    }
    Ok(tensors)
}

fn check_overlaps(tensors: &[TensorInfo]) -> Result<(), ReadError> {
    let mut by_start: Vec<&TensorInfo> = tensors.iter().filter(|t| !t.range.is_empty()).collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    for pair in by_start.windows(2) {
        if let [first, second] = pair
            && second.range.start < first.range.end
        {
            return Err(ReadError::Overlap {
                first: first.name.clone(),
                second: second.name.clone(),
                offset: second.range.start,
            });
        }
    }
    Ok(())
}
