//! Access to the files of a Hugging Face model folder.

use std::collections::BTreeMap;

use llm_quantize_plugin_api::json;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::TokenizerError;

/// The most bytes of a file. What is parsed takes many times the memory of its text, so the
/// limits are not far above what models have: tokenizer.json of large vocabularies some 40 MB,
/// tokenizer.model 5 MB, configuration files below 1 MB.
fn limit(name: &str) -> usize {
    match name {
        "tokenizer.json" | "vocab.json" | "merges.txt" => 128 << 20,
        "tokenizer.model" => 32 << 20,
        _ => 8 << 20,
    }
}

/// The files of a model folder, by name.
///
/// Names are relative to the folder and use `/`, as in
/// `additional_chat_templates/tool_use.jinja`. Files that were asked for and do not exist are
/// simply absent.
pub trait FileSet {
    /// The content of a file.
    fn get(&self, name: &str) -> Option<&[u8]>;

    /// The names of all files.
    fn names(&self) -> Vec<String>;
}

impl<V: AsRef<[u8]>> FileSet for BTreeMap<String, V> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        BTreeMap::get(self, name).map(AsRef::as_ref)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

/// The files that shape a tokenizer, in the order of their importance. A host reads these (those
/// that exist) and everything under [`CHAT_TEMPLATE_FOLDER`].
pub const TOKENIZER_FILES: [&str; 11] = [
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
];

/// Folder of named chat templates (`*.jinja`).
pub const CHAT_TEMPLATE_FOLDER: &str = "additional_chat_templates/";

/// The raw bytes of a file, refused when it is absurdly large.
pub(super) fn bytes<'a>(
    files: &'a dyn FileSet,
    name: &str,
) -> Result<Option<&'a [u8]>, TokenizerError> {
    let Some(content) = files.get(name) else {
        return Ok(None);
    };
    let limit = limit(name);
    if content.len() > limit {
        let (file, size) = (name.to_owned(), content.len());
        return Err(TokenizerError::FileTooLarge { file, size, limit });
    }
    // Editors on Windows put a byte order mark in front of UTF-8.
    Ok(Some(
        content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content),
    ))
}

/// A file as text, line ends unified.
pub(super) fn text(files: &dyn FileSet, name: &str) -> Result<Option<String>, TokenizerError> {
    let Some(content) = bytes(files, name)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(content)
        .map_err(|e| TokenizerError::malformed(name, format!("not UTF-8: {e}")))?;
    Ok(Some(text.replace("\r\n", "\n")))
}

/// A JSON file in a known shape.
pub(super) fn json<T: DeserializeOwned>(
    files: &dyn FileSet,
    name: &str,
) -> Result<Option<T>, TokenizerError> {
    let Some(content) = bytes(files, name)? else {
        return Ok(None);
    };
    let parsed = json::from_slice(content);
    parsed.map(Some).map_err(|source| TokenizerError::Json {
        file: name.to_owned(),
        source,
    })
}

/// A JSON file that holds an object.
pub(super) fn object(
    files: &dyn FileSet,
    name: &str,
) -> Result<Option<Map<String, Value>>, TokenizerError> {
    json(files, name)
}
