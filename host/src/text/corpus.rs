//! Documents with a name: a file of the user's, or what is built in.

use std::path::Path;

use super::built_in;
use super::documents::{Kind, documents};
use crate::error::{Error, ExitCode, Result};
use crate::source::read_small;

/// Text of this size takes many minutes to tokenize; a larger file is a mistake.
const MAX_BYTES: u64 = 1 << 30;

/// Documents to run a model on, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corpus {
    /// The file's name without its folder, or the name of what is built in.
    pub name: String,
    /// At least one; none is without a visible character.
    pub documents: Vec<String>,
    /// Whether it comes with the program.
    pub built_in: bool,
}

impl Corpus {
    /// Reads a file in UTF-8; its extension says how, in capitals or not:
    ///
    /// - `.txt`: the whole file is one document;
    /// - `.json`: a list of documents (strings, or objects whose `"text"` is one), or one object
    ///   whose `"text"` is a document or a list of them;
    /// - `.jsonl`: such a string or object in every line.
    ///
    /// A byte order mark and documents of nothing but white space are skipped.
    ///
    /// # Errors
    /// [`ExitCode::InvalidArguments`] if there is no such file, its extension is none of these,
    /// it is larger than 1 GiB or has no text; [`ExitCode::Validation`] with the line if its
    /// content is not what the extension says.
    pub fn open(path: &Path) -> Result<Self> {
        let kind = Kind::of(path)?;
        let wrong = |error: Error| error.class(ExitCode::InvalidArguments);
        let metadata = std::fs::metadata(path);
        let metadata = metadata.map_err(|error| wrong(Error::io("read", path, error)))?;
        if metadata.len() > MAX_BYTES {
            return Err(too_large(path, metadata.len()));
        }
        let bytes = read_small(path, MAX_BYTES).map_err(wrong)?;
        let documents = documents(kind, bytes, path)?;
        let name = path.file_name().unwrap_or_default();
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            documents,
            built_in: false,
        })
    }

    /// What statistics are gathered on where the user names no text: prose, dialogue, code,
    /// tables, mathematics and many languages, mixed so that every stretch has some of each.
    #[must_use]
    pub fn calibration() -> Self {
        built_in::calibration()
    }

    /// What models are compared on where the user names no text; none of it is part of
    /// [`calibration`](Self::calibration). The first document is English prose alone.
    #[must_use]
    pub fn evaluation() -> Self {
        built_in::evaluation()
    }
}

fn too_large(path: &Path, bytes: u64) -> Error {
    Error::invalid_arguments(format!(
        "{} has {bytes} bytes of text; the limit is {MAX_BYTES}",
        path.display()
    ))
    .suggest("use a part of it: some megabytes are enough")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_without_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my text.JSON");
        std::fs::write(&path, "[\"a\", \"b\"]").unwrap();
        let corpus = Corpus::open(&path).unwrap();
        assert_eq!(corpus.name, "my text.JSON");
        assert_eq!(corpus.documents, ["a", "b"]);
        assert!(!corpus.built_in);
    }

    #[test]
    fn files_that_cannot_be_read_are_wrong_arguments() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.txt");
        let nested = folder.path().join("folder.txt");
        std::fs::create_dir(&nested).unwrap();
        let large = folder.path().join("large.txt");
        // Sparse: it takes no space.
        let file = std::fs::File::create(&large).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        for (path, what) in [
            (missing, "cannot read"),
            (nested, "not a regular file"),
            (large, "the limit is 1073741824"),
            (folder.path().join("a.parquet"), ".jsonl are known"),
        ] {
            let error = Corpus::open(&path).unwrap_err();
            assert_eq!(error.class, ExitCode::InvalidArguments, "{error}");
            assert!(error.message.contains(what), "{error}");
        }
    }

    #[test]
    fn damaged_content_is_no_wrong_argument() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        std::fs::write(&path, "{").unwrap();
        let error = Corpus::open(&path).unwrap_err();
        assert_eq!(error.class, ExitCode::Validation);
        assert!(error.message.contains("a.jsonl line 1"), "{error}");
    }
}
