//! Models split over several GGUF files, as llama.cpp's gguf-split makes them.
//!
//! The first file holds all metadata and the first tensors; the others hold tensors and the three
//! `split.*` keys only. All names are `<prefix>-00001-of-0000N.gguf`.

use crate::blocks::TypeLayout;
use crate::container::{
    DEFAULT_ALIGNMENT, Gguf, Metadata, MetadataError, TensorSpec, pad_to, tensor_bytes,
};
use std::collections::HashSet;
use std::ops::Range;

#[cfg(test)]
mod tests;

/// Key: index of this file, from 0 (u16).
pub const SPLIT_NO: &str = "split.no";
/// Key: number of files (u16).
pub const SPLIT_COUNT: &str = "split.count";
/// Key: number of tensors in all files together (i32).
pub const SPLIT_TENSORS: &str = "split.tensors.count";

/// Why a model could not be split, or its files not put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum ShardError {
    #[error(
        "\"{text}\" is no size; write a number of bytes, or one followed by K, M or G (powers of 1000), such as 2G"
    )]
    BadSize { text: String },
    #[error("a model of {count} files is too much (65535 are possible); allow larger files")]
    TooManyShards { count: usize },
    #[error("{count} tensors are too many to split")]
    TooManyTensors { count: usize },
    #[error("tensor \"{name}\" has a size that cannot be computed")]
    BadTensor { name: String },
    #[error("no files were given")]
    NoFiles,
    #[error("file \"{file}\": {source}")]
    Metadata { file: String, source: MetadataError },
    #[error(
        "file \"{file}\" is part of a model of {expected} files, but {found} were given; put all of them in one folder"
    )]
    WrongCount {
        file: String,
        expected: u64,
        found: usize,
    },
    #[error("files \"{first}\" and \"{second}\" are both part {} of the model; one of them is from elsewhere", no + 1)]
    SamePart {
        first: String,
        second: String,
        no: u64,
    },
    #[error("file \"{file}\" says it is part {} of {count}", no + 1)]
    PartOutOfRange { file: String, no: u64, count: u64 },
    #[error(
        "file \"{file}\" belongs to a model of {found} tensors, the first part to one of {expected}; they are from different models"
    )]
    DifferentModels {
        file: String,
        found: u64,
        expected: u64,
    },
    #[error("tensor \"{name}\" is in both \"{first}\" and \"{second}\"")]
    DuplicateTensor {
        name: String,
        first: String,
        second: String,
    },
    #[error(
        "the files hold {found} tensors, but the first says {expected}; one of them is damaged"
    )]
    TensorsMissing { found: usize, expected: u64 },
}

/// Reads a size such as `2G`, `500M`, `64K` or `1000000`: bytes, with units of powers of 1000 as
/// in gguf-split.
///
/// # Errors
/// [`ShardError::BadSize`] for anything else, and for zero.
pub fn parse_size(text: &str) -> Result<u64, ShardError> {
    let bad = || ShardError::BadSize {
        text: text.to_owned(),
    };
    let trimmed = text.trim();
    let (digits, unit) = match trimmed.char_indices().last() {
        Some((at, 'k' | 'K')) => (&trimmed[..at], 1_000),
        Some((at, 'm' | 'M')) => (&trimmed[..at], 1_000_000),
        Some((at, 'g' | 'G')) => (&trimmed[..at], 1_000_000_000),
        _ => (trimmed, 1),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(unit).filter(|&n| n > 0).ok_or_else(bad)
}

/// Divides tensors, in their order, into files of at most `max_size` bytes of padded tensor data
/// (headers are not counted, as in gguf-split).
///
/// Each range indexes `tensors`. A tensor larger than `max_size` gets a file of its own; where it
/// is the first of the model gguf-split gives up instead.
///
/// # Errors
/// [`ShardError`] if the counts do not fit in the keys, or a tensor's shape is impossible.
pub fn divide(tensors: &[TensorSpec<'_>], max_size: u64) -> Result<Vec<Range<usize>>, ShardError> {
    if i32::try_from(tensors.len()).is_err() {
        let count = tensors.len();
        return Err(ShardError::TooManyTensors { count });
    }
    let mut shards = Vec::new();
    let mut start = 0;
    let mut size = 0u64;
    for (index, tensor) in tensors.iter().enumerate() {
        let padded = tensor_bytes(tensor.ty, tensor.dims)
            .and_then(|bytes| pad_to(bytes, DEFAULT_ALIGNMENT))
            .ok_or_else(|| ShardError::BadTensor {
                name: tensor.name.to_owned(),
            })?;
        let next = size.saturating_add(padded);
        if next > max_size && index > start {
            shards.push(start..index);
            start = index;
            size = padded;
        } else {
            size = next;
        }
    }
    shards.push(start..tensors.len());
    if u16::try_from(shards.len()).is_err() {
        let count = shards.len();
        return Err(ShardError::TooManyShards { count });
    }
    Ok(shards)
}

/// The metadata of each file of a model of `count` files and `tensors` tensors: all of it in the
/// first, the `split.*` keys in every one.
///
/// The keys come in gguf-split's order, which sets the count last, once it is known.
///
/// # Errors
/// [`ShardError`] if the counts do not fit in the keys.
pub fn shard_metadata(
    metadata: &Metadata,
    count: usize,
    tensors: usize,
) -> Result<Vec<Metadata>, ShardError> {
    let split_count = u16::try_from(count).map_err(|_| ShardError::TooManyShards { count })?;
    let split_tensors =
        i32::try_from(tensors).map_err(|_| ShardError::TooManyTensors { count: tensors })?;
    let part = |no: u16| {
        let mut part = match no {
            0 => metadata.clone(),
            _ => Metadata::new(),
        };
        part.set(SPLIT_NO, no);
        part.set(SPLIT_TENSORS, split_tensors);
        part.set(SPLIT_COUNT, split_count);
        part
    };
    Ok((0..split_count).map(part).collect())
}

/// The name of part `no` (from 0) of `count`: `<prefix>-00001-of-00003.gguf`.
#[must_use]
pub fn shard_name(prefix: &str, no: usize, count: usize) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", no.saturating_add(1))
}

/// What the name of a file says about its place in a split model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardName<'a> {
    /// The name without the numbers and the ending.
    pub prefix: &'a str,
    /// Which part it is, from 0.
    pub no: usize,
    /// How many parts there are.
    pub count: usize,
}

impl<'a> ShardName<'a> {
    /// Recognises `<prefix>-00001-of-0000N.gguf`; `None` for any other name.
    #[must_use]
    pub fn parse(file_name: &'a str) -> Option<Self> {
        let stem = file_name.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, part) = rest.rsplit_once('-')?;
        let name = Self {
            prefix,
            no: part.parse::<u16>().ok()?.checked_sub(1)?.into(),
            count: count.parse::<u16>().ok()?.into(),
        };
        // Numbers with other widths or signs are not ours, and neither is part 4 of 3.
        let exact = shard_name(name.prefix, name.no, name.count) == file_name;
        (exact && !prefix.is_empty() && name.no < name.count).then_some(name)
    }

    /// The names of all parts.
    #[must_use]
    pub fn siblings(&self) -> Vec<String> {
        (0..self.count)
            .map(|no| shard_name(self.prefix, no, self.count))
            .collect()
    }
}

/// A tensor of a split model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardedTensor {
    /// The tensor's name.
    pub name: String,
    /// Dimensions in ggml's order (`dims[0]` is the row length).
    pub dims: Vec<u64>,
    /// How the weights are stored.
    pub ty: TypeLayout,
    /// Which of the files given to [`merge`] holds it.
    pub file: usize,
    /// Where its data lies, in bytes from the start of that file.
    pub range: Range<u64>,
}

/// One or more files seen as one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged {
    /// The metadata of the first part, without the `split.*` keys.
    pub metadata: Metadata,
    /// All tensors: part by part, in the order of each file.
    pub tensors: Vec<ShardedTensor>,
    /// For each part, which of the files given holds it.
    pub parts: Vec<usize>,
}

/// Puts the files of a model together; a single file without `split.*` keys is a model as well.
///
/// `files` holds names (for messages) and headers, in any order.
///
/// # Errors
/// [`ShardError`] if parts are missing, doubled or of different models.
pub fn merge(files: &[(&str, &Gguf)]) -> Result<Merged, ShardError> {
    let parts = order_parts(files)?;
    let in_order = || {
        parts
            .iter()
            .filter_map(|&file| Some((file, files.get(file)?)))
    };
    check_tensor_counts(in_order().map(|(_, entry)| entry))?;

    let mut tensors: Vec<ShardedTensor> = Vec::new();
    let mut seen = HashSet::new();
    for (file, (file_name, gguf)) in in_order() {
        for tensor in &gguf.tensors {
            if !seen.insert(tensor.name.as_str()) {
                let first = tensors.iter().find(|t| t.name == tensor.name);
                let first = first.and_then(|t| files.get(t.file));
                return Err(ShardError::DuplicateTensor {
                    name: tensor.name.clone(),
                    first: first.map_or_else(String::new, |(name, _)| (*name).to_owned()),
                    second: (*file_name).to_owned(),
                });
            }
            tensors.push(ShardedTensor {
                name: tensor.name.clone(),
                dims: tensor.dims.clone(),
                ty: tensor.ty,
                file,
                range: tensor.range.clone(),
            });
        }
    }
    let (_, (_, first)) = in_order().next().ok_or(ShardError::NoFiles)?;
    let mut metadata = first.metadata.clone();
    for key in [SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS] {
        metadata.remove(key);
    }
    Ok(Merged {
        metadata,
        tensors,
        parts,
    })
}

/// For each part of the model, the index of its file.
fn order_parts(files: &[(&str, &Gguf)]) -> Result<Vec<usize>, ShardError> {
    let mut parts: Vec<Option<usize>> = vec![None; files.len()];
    for (index, (name, gguf)) in files.iter().enumerate() {
        // gguf-split leaves a count of 0 in models it has merged.
        let count = unsigned(name, gguf, SPLIT_COUNT)?.unwrap_or(1).max(1);
        if count != files.len() as u64 {
            return Err(ShardError::WrongCount {
                file: (*name).to_owned(),
                expected: count,
                found: files.len(),
            });
        }
        let no = match count {
            1 => 0,
            _ => unsigned(name, gguf, SPLIT_NO)?.ok_or_else(|| no_number(name))?,
        };
        let slot = usize::try_from(no).ok().and_then(|no| parts.get_mut(no));
        let Some(slot) = slot else {
            let file = (*name).to_owned();
            return Err(ShardError::PartOutOfRange { file, no, count });
        };
        if let Some(other) = slot.replace(index) {
            let first = files.get(other).map_or("", |(name, _)| name).to_owned();
            let second = (*name).to_owned();
            return Err(ShardError::SamePart { first, second, no });
        }
    }
    // As many files as parts and none twice: every slot is taken.
    let parts: Vec<usize> = parts.into_iter().flatten().collect();
    match parts.is_empty() {
        true => Err(ShardError::NoFiles),
        false => Ok(parts),
    }
}

fn check_tensor_counts<'a>(
    parts: impl Iterator<Item = &'a (&'a str, &'a Gguf)>,
) -> Result<(), ShardError> {
    let mut found = 0usize;
    let mut expected = None;
    for (name, gguf) in parts {
        found = found.saturating_add(gguf.tensors.len());
        match (unsigned(name, gguf, SPLIT_TENSORS)?, expected) {
            (Some(count), None) => expected = Some(count),
            (Some(count), Some(expected)) if count != expected => {
                return Err(ShardError::DifferentModels {
                    file: (*name).to_owned(),
                    found: count,
                    expected,
                });
            }
            _ => {}
        }
    }
    match expected {
        Some(expected) if expected != found as u64 => {
            Err(ShardError::TensorsMissing { found, expected })
        }
        _ => Ok(()),
    }
}

fn unsigned(file: &str, gguf: &Gguf, key: &str) -> Result<Option<u64>, ShardError> {
    gguf.metadata
        .unsigned(key)
        .map_err(|source| ShardError::Metadata {
            file: file.to_owned(),
            source,
        })
}

fn no_number(file: &str) -> ShardError {
    ShardError::Metadata {
        file: file.to_owned(),
        source: MetadataError::Missing {
            key: SPLIT_NO.to_owned(),
            expected: "an unsigned integer",
        },
    }
}
