//! The header of a safetensors file: the length, as eight bytes, and JSON that says where each
//! tensor's data lies behind it (<https://huggingface.co/docs/safetensors>).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::check_tensor;
use crate::interface::{Error, Result, TensorInfo};
use crate::json;

/// The longest header that any reader of the format accepts.
const MAX_HEADER: u64 = 100_000_000;
/// The header's length comes first, in so many bytes.
const LENGTH_BYTES: u64 = 8;
/// Key of the header's own remarks.
const METADATA: &str = "__metadata__";
/// Headers end at multiples of this, so that the data is aligned.
const ALIGNMENT: usize = 8;

/// The header of a file with these tensors, in this order and without gaps.
///
/// # Errors
/// If two tensors share a name, or the offsets overflow.
pub fn write_header<'a>(tensors: impl IntoIterator<Item = &'a TensorInfo>) -> Result<Vec<u8>> {
    let mut fields = Map::new();
    fields.insert(METADATA.into(), json!({"format": "pt"}));
    let mut offset = 0u64;
    for tensor in tensors {
        let end = offset
            .checked_add(tensor.bytes)
            .ok_or_else(|| Error::unsupported("the model is too large"))?;
        let entry =
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]});
        if fields.insert(tensor.name.clone(), entry).is_some() {
            let name = &tensor.name;
            return Err(Error::internal(format!("two tensors are named \"{name}\"")));
        }
        offset = end;
    }
    let mut json = Value::Object(fields).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(ALIGNMENT), b' ');
    Ok([(json.len() as u64).to_le_bytes().as_slice(), &json].concat())
}

/// The tensors of a safetensors file in the order of their data, each with its place in the
/// file. They follow each other without gap or overlap up to the file's end.
///
/// # Errors
/// What is wrong with the header, in words.
pub fn parse_header(file: &[u8]) -> Result<Vec<(TensorInfo, Range<u64>)>, String> {
    let header = header(file)?;
    let start = LENGTH_BYTES + header.len() as u64;
    let mut tensors = tensors(header)?;
    tensors.sort_by(|a, b| (a.1, &a.0.name).cmp(&(b.1, &b.0.name)));
    check_places(&tensors, file.len() as u64 - start)?;
    let placed = tensors.into_iter().map(|(info, (from, to))| {
        check_size(&info)?;
        Ok((info, start + from..start + to))
    });
    placed.collect()
}

/// The header's text. That its length fits is checked first: an interrupted download looks like
/// this.
fn header(file: &[u8]) -> Result<&[u8], String> {
    let Some((length, rest)) = file.split_first_chunk::<{ LENGTH_BYTES as usize }>() else {
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

/// An entry of the header. All fields are optional here, for better messages.
#[derive(Deserialize)]
struct Entry {
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    data_offsets: Option<(u64, u64)>,
}

type Offsets = (u64, u64);

fn tensors(header: &[u8]) -> Result<Vec<(TensorInfo, Offsets)>, String> {
    let invalid = |error| format!("its header is not valid JSON: {error}");
    json::check_unique_keys(header).map_err(invalid)?;
    let entries: HashMap<Cow<'_, str>, Value> = serde_json::from_slice(header).map_err(invalid)?;
    let tensors = entries.into_iter().filter(|(name, _)| name != METADATA);
    tensors
        .map(|(name, value)| {
            let shown = || shorten(&name);
            let entry: Entry = serde_json::from_value(value)
                .map_err(|error| format!("the entry of the tensor {}: {error}", shown()))?;
            let lacks = |what: &str| format!("the entry of the tensor {} has no {what}", shown());
            let (start, end) = entry.data_offsets.ok_or_else(|| lacks("data_offsets"))?;
            let info = TensorInfo {
                dtype: entry.dtype.ok_or_else(|| lacks("dtype"))?,
                shape: entry.shape.ok_or_else(|| lacks("shape"))?,
                bytes: end.saturating_sub(start),
                name: name.clone().into_owned(),
            };
            Ok((info, (start, end)))
        })
        .collect()
}

/// Everything lies in the data, one after the other.
fn check_places(tensors: &[(TensorInfo, Offsets)], data: u64) -> Result<(), String> {
    let beyond = tensors.iter().filter(|(_, (_, end))| *end > data);
    if let Some((info, (_, end))) = beyond.min_by_key(|(_, (_, end))| end) {
        return Err(format!(
            "the data of the tensor {} ends at byte {end} of the data, which has only {data} \
             (the file is cut short)",
            shorten(&info.name)
        ));
    }
    let mut at = 0;
    for (info, (start, end)) in tensors {
        if *start != at || end < start {
            return Err(format!(
                "the tensor {} overlaps another one or leaves a gap before it",
                shorten(&info.name)
            ));
        }
        at = *end;
    }
    if at != data {
        return Err(format!(
            "its tensors do not end where the file ends (cut short, or with a tail of {} bytes)",
            data - at
        ));
    }
    Ok(())
}

/// The offsets fit the type and the shape.
fn check_size(info: &TensorInfo) -> Result<(), String> {
    check_tensor(info)?;
    let Some(bits) = bits_of(&info.dtype) else {
        return Err(format!(
            "the tensor {:?} has the unknown type {:?}",
            info.name, info.dtype
        ));
    };
    let bytes = info.elements().and_then(|n| n.checked_mul(bits));
    match bytes {
        Some(total) if total.is_multiple_of(8) && total / 8 == info.bytes => Ok(()),
        _ => Err(format!(
            "the offsets of the tensor {:?} do not fit its type and shape: {} bytes for {:?} {}",
            info.name, info.bytes, info.shape, info.dtype
        )),
    }
}

/// Bits of an element of a type; `None` if the format has no such type.
pub(super) fn bits_of(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

fn shorten(name: &str) -> String {
    let shown: String = name.chars().take(80).collect();
    format!("{shown:?}")
}

/// Names that occur more than once.
pub(super) fn first_duplicate<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[12,20]},
            "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
        let tensors = parse_header(&file(header, 20)).unwrap();
        let start = 8 + header.len() as u64;
        let (first, range) = &tensors[0];
        assert_eq!((first.name.as_str(), first.dtype.as_str()), ("b", "BF16"));
        assert_eq!(first.shape, [2, 3]);
        assert_eq!(*range, start..start + 12);
        assert_eq!(tensors[1].1, start + 12..start + 20);
    }

    #[test]
    fn a_written_header_reads_back() {
        let tensor = |name: &str, dtype: &str, shape: &[u64], bytes| TensorInfo {
            name: name.into(),
            dtype: dtype.into(),
            shape: shape.to_vec(),
            bytes,
        };
        let tensors = [
            tensor("z", "I32", &[2, 3], 24),
            tensor("empty", "F16", &[0], 0),
            tensor("scalar", "BF16", &[], 2),
            tensor("ä\"", "F16", &[3], 6),
        ];
        let header = write_header(&tensors).unwrap();
        assert_eq!(header.len() % 8, 0);
        let data = [header.clone(), vec![0; 32]].concat();
        let found = parse_header(&data).unwrap();
        let infos: Vec<_> = found.iter().map(|(info, _)| info.clone()).collect();
        assert_eq!(infos, tensors);
        assert_eq!(found[0].1.start, header.len() as u64);
        assert!(write_header([&tensors[0], &tensors[0]]).is_err());
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
            (tensor("[0,8]", ""), 9, "tail of 1"),
            (tensor("[0,4]", ""), 4, "fit its type and shape"),
            (tensor("[8,0]", ""), 8, "overlaps"),
            (tensor("[0,8]", "").replace("F32", "F33"), 8, "\"F33\""),
            (tensor("[0,8]", "").replace("shape", "form"), 8, "no shape"),
            (tensor("[0,8]", "").replace("[2]", "[-2]"), 8, "\"a\""),
            (tensor("[0,-8]", ""), 8, "\"a\""),
            ("{\"a\":".into(), 0, "not valid JSON: EOF"),
            ("[]".into(), 0, "not valid JSON"),
            (
                r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8]}}"#
                    .into(),
                8,
                "impossible shape",
            ),
        ] {
            let error = parse_header(&file(&header, data)).unwrap_err();
            assert!(error.contains(what), "{header}: {error}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for (bytes, what) in [
            (vec![1, 2, 3], "shorter"),
            (u64::MAX.to_le_bytes().to_vec(), "limit"),
            (1000u64.to_le_bytes().to_vec(), "only 8"),
        ] {
            let error = parse_header(&bytes).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
