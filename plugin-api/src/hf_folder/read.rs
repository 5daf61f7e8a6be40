//! Reads a folder out of views of its files.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use super::QUANTIZATION_FILES;
use super::header::parse_header;
use crate::interface::{ElementType, Error, FileView, Result, TensorInfo};
use crate::json;

/// The longest file of JSON that is read; the longest configs, of models with thousands of
/// exceptions from quantization, have some 100 KB.
const MAX_JSON: usize = 4 << 20;
const EXTENSION: &str = ".safetensors";

/// A tensor of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Name, type, shape and bytes.
    pub info: TensorInfo,
    /// Place of its file among the views.
    pub file: usize,
    /// Where it lies in the file.
    pub range: Range<u64>,
}

/// The tensors of a folder's safetensors files, known by their headers alone.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    tensors: Vec<StoredTensor>,
    places: HashMap<String, usize>,
}

impl Weights {
    /// Reads the headers of all safetensors files among these.
    ///
    /// # Errors
    /// If there are none, a header is damaged, or two files have a tensor of the same name.
    pub fn open(files: &[FileView<'_>]) -> Result<Self> {
        let mut weights = Self::default();
        let named = |file: &&(usize, &FileView<'_>)| file.1.name.ends_with(EXTENSION);
        let mut found = false;
        for (place, file) in files.iter().enumerate().filter(|file| named(&file)) {
            found = true;
            let tensors = parse_header(file.bytes).map_err(|what| damaged(file.name, &what))?;
            for (info, range) in tensors {
                weights.add(files, info, place, range)?;
            }
        }
        match found {
            true => Ok(weights),
            false => Err(Error::corrupt(
                "there is no safetensors file among the files",
            )),
        }
    }

    fn add(
        &mut self,
        files: &[FileView<'_>],
        info: TensorInfo,
        file: usize,
        range: Range<u64>,
    ) -> Result<()> {
        let place = self.tensors.len();
        if let Some(other) = self.places.insert(info.name.clone(), place) {
            let other = self.tensors.get(other).and_then(|t| files.get(t.file));
            return Err(damaged(
                files.get(file).map_or("", |file| file.name),
                &format!(
                    "the tensor \"{}\" is in \"{}\" already",
                    info.name,
                    other.map_or("", |file| file.name)
                ),
            ));
        }
        self.tensors.push(StoredTensor { info, file, range });
        Ok(())
    }

    /// All tensors: file after file, each in the order of its data.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn find(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(*self.places.get(name)?)
    }
}

impl StoredTensor {
    /// The tensor's bytes, in the views that it was found in.
    ///
    /// # Errors
    /// If the views are others.
    pub fn bytes<'a>(&self, files: &[FileView<'a>]) -> Result<&'a [u8]> {
        let range = usize::try_from(self.range.start)
            .ok()
            .zip(usize::try_from(self.range.end).ok());
        let file = files.get(self.file);
        file.zip(range)
            .and_then(|(file, (start, end))| file.bytes.get(start..end))
            .ok_or_else(|| Error::corrupt(format!("the tensor \"{}\" is cut off", self.info.name)))
    }

    /// Its sizes as those of a matrix.
    ///
    /// # Errors
    /// If it is none.
    pub fn matrix(&self) -> Result<[usize; 2]> {
        let size = |dim: u64| usize::try_from(dim).ok();
        let sizes = match self.info.shape[..] {
            [rows, columns] => size(rows).zip(size(columns)),
            _ => None,
        };
        sizes.map(|(rows, columns)| [rows, columns]).ok_or_else(|| {
            Error::corrupt(format!(
                "the tensor \"{}\" has the shape {:?}, expected a matrix",
                self.info.name, self.info.shape
            ))
        })
    }

    /// An error that says what its type should be.
    pub fn of_type(&self, expected: &str) -> Error {
        let info = &self.info;
        Error::unsupported(format!(
            "the tensor \"{}\" is of type {}, expected {expected}",
            info.name, info.dtype
        ))
    }

    /// Converts rows of plain numbers to single precision; `out` holds exactly those rows.
    ///
    /// # Errors
    /// If there are no such rows, or the type is no float of 16 or 32 bits.
    pub fn decode(&self, files: &[FileView<'_>], rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let info = &self.info;
        let element = ElementType::from_dtype(&info.dtype).ok_or_else(|| {
            Error::unsupported(format!(
                "the tensor \"{}\" is stored as {}, which is no plain number of 16 or 32 bits",
                info.name, info.dtype
            ))
        })?;
        let bytes = self.bytes(files)?;
        let fits = rows.start <= rows.end && info.rows().is_some_and(|count| rows.end <= count);
        let length = usize::try_from(info.cols())
            .ok()
            .and_then(|cols| cols.checked_mul(element.bytes()));
        let part = length.filter(|_| fits).and_then(|length| {
            let start = usize::try_from(rows.start).ok()?.checked_mul(length)?;
            let end = usize::try_from(rows.end).ok()?.checked_mul(length)?;
            bytes.get(start..end)
        });
        let part = part.ok_or_else(|| {
            Error::internal(format!(
                "the tensor \"{}\" {:?} has no rows {rows:?}",
                info.name, info.shape
            ))
        })?;
        crate::kernels::convert::to_f32(element, part, out)
    }
}

/// Reads a document beside the weights; `None` if there is none of that name.
///
/// # Errors
/// If it is too long, or no JSON object.
pub fn read_json(files: &[FileView<'_>], name: &str) -> Result<Option<Value>> {
    let Some(file) = files.iter().find(|file| file.name == name) else {
        return Ok(None);
    };
    let length = file.bytes.len();
    if length > MAX_JSON {
        return Err(damaged(
            name,
            &format!("it has {length} bytes; the limit is {MAX_JSON}"),
        ));
    }
    let value: Value =
        json::from_slice(file.bytes).map_err(|error| damaged(name, &error.to_string()))?;
    match value.is_object() {
        true => Ok(Some(value)),
        false => Err(damaged(name, "it is no JSON object")),
    }
}

/// Whether a file stands beside the weights whatever they are: no weights, no index, nothing
/// about how they are quantized, and not in a folder of its own.
pub fn is_side_file(name: &str) -> bool {
    let of_weights = name.ends_with(EXTENSION) || name.ends_with(".index.json");
    !of_weights && !QUANTIZATION_FILES.contains(&name) && !name.contains(['/', '\\'])
}

fn damaged(file: &str, what: &str) -> Error {
    Error::corrupt(format!("\"{file}\": {what}"))
        .suggest("get the file again: an interrupted download looks like this")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf_folder::write_header;

    fn weights(name: &str, data: &[u8]) -> Vec<u8> {
        let info = TensorInfo {
            name: name.into(),
            dtype: "F32".into(),
            shape: vec![2, 1],
            bytes: 8,
        };
        [write_header([&info]).unwrap(), data.to_vec()].concat()
    }

    fn view<'a>(name: &'a str, bytes: &'a [u8]) -> FileView<'a> {
        FileView { name, bytes }
    }

    #[test]
    fn tensors_are_found_and_decoded() {
        let data = [1.0f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat();
        let (a, b) = (weights("a", &data), weights("b", &data));
        let files = [
            view("config.json", b"{}"),
            view("model-1.safetensors", &a),
            view("model-2.safetensors", &b),
        ];
        let weights = Weights::open(&files).unwrap();
        assert_eq!(weights.tensors().len(), 2);
        let b = weights.find("b").unwrap();
        assert_eq!(b.file, 2);
        assert_eq!(b.bytes(&files).unwrap(), data);
        let mut row = [0.0];
        b.decode(&files, 1..2, &mut row).unwrap();
        assert_eq!(row, [2.0]);
        assert!(b.decode(&files, 2..3, &mut row).is_err());
        assert!(b.decode(&files, 0..2, &mut row).is_err());
        assert!(b.bytes(&files[..2]).is_err());
    }

    #[test]
    fn damage_is_named_with_its_file() {
        let a = weights("a", &[0; 8]);
        for (files, what) in [
            (vec![view("config.json", b"{}")], "no safetensors file"),
            (vec![view("x.safetensors", &a[..20])], "\"x.safetensors\""),
            (
                vec![view("1.safetensors", &a), view("2.safetensors", &a)],
                "\"2.safetensors\": the tensor \"a\" is in \"1.safetensors\" already",
            ),
        ] {
            let error = Weights::open(&files).unwrap_err();
            assert!(error.message.contains(what), "{error}");
        }
    }

    #[test]
    fn documents_are_objects_of_sane_length() {
        let long = vec![b' '; MAX_JSON + 1];
        for (bytes, what) in [
            (&b"[]"[..], "no JSON object"),
            (b"{", "EOF"),
            (&long, "limit"),
        ] {
            let error = read_json(&[view("config.json", bytes)], "config.json").unwrap_err();
            assert!(error.message.contains(what), "{error}");
        }
        assert_eq!(read_json(&[], "config.json"), Ok(None));
        let files = [view("config.json", b"{\"a\": 1}")];
        let value = read_json(&files, "config.json").unwrap().unwrap();
        assert_eq!(value["a"], 1);
    }
}
