//! The small files beside the weights: tokenizer, templates, generation defaults.

use std::path::Path;
use std::sync::Arc;

use super::MappedFile;
use super::links::Inside;
use super::weights::INDEX;
use crate::error::{Error, Result};

/// Extensions of files that belong to a model and are no weights. A list of what is
/// known, so that a stray weight file of any kind is never taken for one.
const EXTENSIONS: [&str; 12] = [
    "json", "jsonl", "txt", "model", "jinja", "tiktoken", "bpe", "vocab", "spm", "md", "py", "yaml",
];
/// Names without an extension that distributions ask to keep.
const PLAIN: [&str; 5] = ["license", "notice", "use_policy", "copying", "readme"];
/// No tokenizer is larger; weights under a misleading name are.
const MAX_BYTES: u64 = 256 << 20;
/// More files than this are no model folder (a home folder, say).
const MAX_FILES: usize = 4096;

/// Maps the small files of a folder and of its direct subfolders, sorted by name.
/// Those of subfolders are named `folder/file`.
///
/// # Errors
/// If the folder cannot be read, or one of the files is a link that leaves it.
pub fn side_files(folder: &Path) -> Result<Vec<Arc<MappedFile>>> {
    let mut found = Vec::new();
    collect(folder, "", &Inside::of(folder)?, &mut found)?;
    found.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(found)
}

/// Maps every visible regular file of a folder, sorted by name, whatever it is.
///
/// # Errors
/// If the folder or one of the files cannot be read, or one is a link that leaves the
/// folder.
pub fn all_files(folder: &Path) -> Result<Vec<Arc<MappedFile>>> {
    let mut found = Vec::new();
    let inside = Inside::of(folder)?;
    for (name, path) in entries(folder)? {
        if path.is_file() {
            inside.check(&path)?;
            found.push(Arc::new(MappedFile::open_as(&path, name)?));
        }
    }
    Ok(found)
}

fn collect(
    folder: &Path,
    prefix: &str,
    inside: &Inside,
    found: &mut Vec<Arc<MappedFile>>,
) -> Result<()> {
    for (name, path) in entries(folder)? {
        if path.is_dir() {
            if prefix.is_empty() {
                collect(&path, &format!("{name}/"), inside, found)?;
            }
        } else if is_side_file(&name) && path.metadata().is_ok_and(|m| fits(&m)) {
            inside.check(&path)?;
            if found.len() == MAX_FILES {
                return Err(too_many(folder));
            }
            let name = format!("{prefix}{name}");
            found.push(Arc::new(MappedFile::open_as(&path, name)?));
        }
    }
    Ok(())
}

/// Visible entries with names in UTF-8, sorted. Links are followed: the Hub's cache
/// consists of them.
fn entries(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let read = |error| Error::io("read", folder, error);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        if entries.len() == MAX_FILES {
            return Err(too_many(folder));
        }
        entries.push((name, entry.path()));
    }
    entries.sort();
    Ok(entries)
}

fn too_many(folder: &Path) -> Error {
    Error::validation(format!(
        "{} holds more than {MAX_FILES} files; that is no model folder",
        folder.display()
    ))
    .suggest("give the folder that holds config.json and the weights")
}

fn fits(metadata: &std::fs::Metadata) -> bool {
    metadata.is_file() && metadata.len() <= MAX_BYTES
}

/// Whether a file of this name, without folders, belongs to a model and is no weights.
pub fn is_side_file(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    if lower == INDEX || lower.ends_with(".index.json") {
        return false;
    }
    match lower.rsplit_once('.') {
        Some((_, extension)) => EXTENSIONS.contains(&extension),
        None => PLAIN.contains(&lower.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_hidden_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let sub = folder.path().join("additional_chat_templates");
        std::fs::create_dir_all(sub.join("deeper")).unwrap();
        std::fs::write(sub.join("tool.jinja"), "t").unwrap();
        std::fs::write(sub.join("deeper/no.txt"), "t").unwrap();
        for name in [
            "tokenizer.json",
            "LICENSE",
            ".gitattributes",
            "model.safetensors",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            INDEX,
            "tokenizer.model",
        ] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let files = side_files(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name()).collect();
        assert_eq!(
            names,
            [
                "LICENSE",
                "additional_chat_templates/tool.jinja",
                "tokenizer.json",
                "tokenizer.model"
            ]
        );
        assert_eq!(all_files(folder.path()).unwrap().len(), 7);
    }
}
