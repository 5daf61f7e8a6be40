//! One safetensors file: its header, checked, and where its tensors lie.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use llm_quantize_plugin_api::TensorInfo;
use llm_quantize_plugin_api::hf_folder::parse_header;

use super::MappedFile;
use crate::error::{Error, Result};

/// A safetensors file, mapped.
#[derive(Debug)]
pub struct SafetensorsFile {
    /// The file.
    pub file: Arc<MappedFile>,
    /// Its tensors in the order of their data, with their place in the file.
    pub tensors: Vec<(TensorInfo, Range<u64>)>,
}

impl SafetensorsFile {
    /// Maps a file and reads its header ([`parse_header`]).
    ///
    /// # Errors
    /// If it cannot be read or the header does not hold.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Arc::new(MappedFile::open(path)?);
        let tensors = parse_header(file.bytes()).map_err(|what| corrupt(&file, &what))?;
        Ok(Self { file, tensors })
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
    fn tensors_have_their_places() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let file = open(header, 8).unwrap();
        let start = 8 + header.len() as u64;
        assert_eq!(file.tensors[0].1, start..start + 8);
    }

    #[test]
    fn damage_is_an_error_of_the_input_that_names_the_file() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let error = open(header, 7).unwrap_err();
        assert_eq!(error.class, ExitCode::Validation);
        for what in ["model.safetensors", "cut short"] {
            assert!(error.message.contains(what), "{}", error.message);
        }
    }
}
