//! One safetensors file: its header, checked, and where its tensors lie.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use llm_quantize_plugin_api::{TensorInfo, json};
use safetensors::SafeTensors;
use safetensors::tensor::SafeTensorError;
use serde::Deserialize;

use super::MappedFile;
use super::limits::check_tensor;
use crate::error::{Error, Result};

/// The longest header that any reader of the format accepts.
const MAX_HEADER: u64 = 100_000_000;
/// The header's length comes first, in so many bytes.
const LENGTH_BYTES: u64 = 8;

/// A safetensors file, mapped.
#[derive(Debug)]
pub struct SafetensorsFile {
    /// The file.
    pub file: Arc<MappedFile>,
    /// Its tensors in the order of their data, with their place in the file.
    pub tensors: Vec<(TensorInfo, Range<u64>)>,
}

impl SafetensorsFile {
    /// Maps a file and reads its header ([`parse_safetensors`]).
    ///
    /// # Errors
    /// If it cannot be read or the header does not hold.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Arc::new(MappedFile::open(path)?);
        let tensors = parse_safetensors(file.bytes()).map_err(|what| corrupt(&file, &what))?;
        Ok(Self { file, tensors })
    }
}

/// The tensors of a safetensors file in the order of their data, each with its place in
/// the file. They follow each other without gap or overlap up to the file's end.
///
/// # Errors
/// What is wrong with the header, in words.
pub fn parse_safetensors(
    file: &[u8],
) -> std::result::Result<Vec<(TensorInfo, Range<u64>)>, String> {
    let header = header(file)?;
    let data_start = LENGTH_BYTES + header.len() as u64;
    check_header(header, file.len() as u64 - data_start)?;
    let (_, metadata) = SafeTensors::read_metadata(file).map_err(|error| explain(&error))?;
    let mut tensors = Vec::new();
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let (start, end) = info.data_offsets;
        let range = data_start + start as u64..data_start + end as u64;
        let info = TensorInfo {
            name,
            dtype: info.dtype.to_string(),
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            bytes: range.end - range.start,
        };
        check_tensor(&info)?;
        tensors.push((info, range));
    }
    Ok(tensors)
}

/// The header's text. Its length is checked here, although the crate does too, because
/// these are the usual signs of an interrupted download and deserve plain words.
fn header(file: &[u8]) -> std::result::Result<&[u8], String> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err("it is shorter than the 8 bytes of its length".into());
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(format!(
            "its header claims {length} bytes; the limit is {MAX_HEADER}"
        ));
    }
    let header = usize::try_from(length).ok().and_then(|n| rest.get(..n));
    header.ok_or_else(|| {
        format!(
            "its header ends at byte {}, but the file has only {}",
            length + LENGTH_BYTES,
            file.len()
        )
    })
}

/// What the crate does not look at: names that occur twice (it takes the last), and ends
/// beyond the file, which it finds without a name.
fn check_header(header: &[u8], data_len: u64) -> std::result::Result<(), String> {
    json::check_unique_keys(header)
        .map_err(|error| format!("its header is not valid JSON: {error}"))?;
    let Ok(entries) = serde_json::from_slice::<HashMap<Cow<'_, str>, Entry>>(header) else {
        // The crate says better what an entry lacks.
        return Ok(());
    };
    let beyond = entries.iter().filter_map(|(name, entry)| {
        let (_, end) = entry.data_offsets?;
        (end > data_len).then_some((end, name))
    });
    match beyond.min() {
        Some((end, name)) => Err(format!(
            "the data of the tensor {name:?} ends at byte {end} of the data, which has only \
             {data_len} (the file is cut short)"
        )),
        None => Ok(()),
    }
}

/// An entry of the header; that of the metadata has no offsets.
#[derive(Deserialize)]
struct Entry {
    data_offsets: Option<(u64, u64)>,
}

fn explain(error: &SafeTensorError) -> String {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => {
            "its tensors do not end where the file ends (cut short, or with a tail)".into()
        }
        SafeTensorError::InvalidOffset(name) => {
            format!("the tensor {name:?} overlaps another one or leaves a gap before it")
        }
        SafeTensorError::TensorInvalidInfo => {
            "a tensor's offsets do not fit its type and shape".into()
        }
        other => other.to_string(),
    }
}

fn corrupt(file: &MappedFile, what: &str) -> Error {
    Error::validation(format!(
        "{} is not a valid safetensors file: {what}",
        file.path().display()
    ))
    .suggest("get the file again: an interrupted download looks like this")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

    fn write(folder: &Path, header: &str, data: usize) -> std::path::PathBuf {
        let path = folder.join("model.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn open(header: &str, data: usize) -> Result<SafetensorsFile> {
        let folder = tempfile::tempdir().unwrap();
        SafetensorsFile::open(&write(folder.path(), header, data))
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},
            "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
        let file = open(header, 20).unwrap();
        let start = 8 + header.len() as u64;
        let (first, range) = &file.tensors[0];
        assert_eq!((first.name.as_str(), first.dtype.as_str()), ("b", "BF16"));
        assert_eq!(first.shape, [2, 3]);
        assert_eq!(*range, start..start + 12);
        assert_eq!(file.tensors[1].1, start + 12..start + 20);
    }

    #[test]
    fn damaged_headers_are_refused() {
        let tensor = |offsets: &str, more: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}{more}}}"#)
        };
        let second = |offsets: &str| {
            let b = format!(r#","b":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#);
            tensor("[0,8]", &b)
        };
        for (header, data, what) in [
            (
                tensor("[0,8]", ""),
                7,
                "\"a\" ends at byte 8 of the data, which has only 7",
            ),
            (tensor("[0,18446744073709551615]", ""), 8, "cut short"),
            (
                second("[8,12]").replacen("\"b\"", "\"a\"", 1),
                12,
                "\"a\" occurs twice",
            ),
            (second("[4,8]"), 12, "overlaps"),
            (second("[9,13]"), 13, "gap"),
            (tensor("[0,4]", ""), 4, "fit its type and shape"),
            (tensor("[8,0]", ""), 8, "overlaps"),
            ("{\"a\":".into(), 0, "not valid JSON: EOF"),
            (
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#
                    .into(),
                8,
                "overflow",
            ),
        ] {
            let error = open(&header, data).unwrap_err();
            assert_eq!(error.class, ExitCode::Validation, "{header}");
            assert!(error.message.contains(what), "{header}: {}", error.message);
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        for (bytes, what) in [
            (vec![1, 2, 3], "shorter"),
            (u64::MAX.to_le_bytes().to_vec(), "limit"),
            (1000u64.to_le_bytes().to_vec(), "only 8"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = SafetensorsFile::open(&path).unwrap_err();
            assert!(error.message.contains(what), "{}", error.message);
        }
    }
}
