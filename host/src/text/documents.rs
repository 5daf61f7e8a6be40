//! Documents out of a file's bytes.

use std::fmt;
use std::path::Path;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// The extensions that are known, for messages.
const KNOWN: &str = ".txt, .json and .jsonl";
/// The field of an object that has its text.
const FIELD: &str = "text";

/// How a file holds its documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All of it is one document.
    Text,
    /// One JSON value.
    Json,
    /// A JSON value in every line.
    JsonLines,
}

impl Kind {
    /// By the extension of a file's name.
    ///
    /// # Errors
    /// [`InvalidArguments`](crate::ExitCode::InvalidArguments) if it is none that is known.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        match extension.to_ascii_lowercase().as_str() {
            "txt" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::JsonLines),
            _ => Err(Error::invalid_arguments(format!(
                "{} is no kind of text that can be read: {KNOWN} are known",
                path.display()
            ))
            .suggest(
                "save it as plain text (.txt), or as JSON with one object a line whose \
                 \"text\" is a document (.jsonl)",
            )),
        }
    }
}

/// The documents of a file with this content; its name is only used in messages.
///
/// # Errors
/// [`Validation`](crate::ExitCode::Validation) with the line if the content is not what its kind
/// says; [`InvalidArguments`](crate::ExitCode::InvalidArguments) if there is no text in it.
pub fn documents(kind: Kind, content: Vec<u8>, name: &Path) -> Result<Vec<String>> {
    let text = utf8(content, name)?;
    let mut found = match kind {
        Kind::Text => vec![text],
        Kind::Json => {
            let read = serde_json::from_str::<Document>(&text);
            read.map_err(|error| malformed(name, error.line(), &error))?
                .0
        }
        Kind::JsonLines => lines(&text, name)?,
    };
    found.retain(|document| !document.trim().is_empty());
    if found.is_empty() {
        return Err(
            Error::invalid_arguments(format!("there is no text in {}", name.display()))
                .suggest("choose a file with text in it"),
        );
    }
    Ok(found)
}

/// The content as text, without a byte order mark.
fn utf8(content: Vec<u8>, name: &Path) -> Result<String> {
    let mut text = String::from_utf8(content).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|&&byte| byte == b'\n').count();
        Error::validation(format!("{} line {line}: no valid UTF-8", name.display()))
            .suggest("save the file as UTF-8")
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

fn lines(text: &str, name: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    // `split`, as a line may only end where it does for everybody: JSON allows no other line
    // end within a string.
    for (index, line) in text.split('\n').enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let read = serde_json::from_str::<Item>(line);
        let item = read.map_err(|error| malformed(name, index + 1, &error))?;
        found.push(item.0);
    }
    Ok(found)
}

/// `serde_json` ends its messages with the place, which for a line of many is the wrong one.
fn malformed(name: &Path, line: usize, error: &serde_json::Error) -> Error {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let what = message.strip_suffix(&place).unwrap_or(&message);
    Error::validation(format!(
        "{} line {line} column {}: {what}",
        name.display(),
        error.column()
    ))
    .suggest(
        "a document is a string, or an object whose \"text\" is a string; .json has a list of \
         them, .jsonl has one in every line",
    )
}

/// A document of several: a string, or an object with one.
struct Item(String);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ItemVisitor).map(Self)
    }
}

struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or an object with \"{FIELD}\"")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<String, A::Error> {
        text_of(object)
    }
}

/// A whole file: a list of documents, or one object with one or a list.
struct Document(Vec<String>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(DocumentVisitor).map(Self)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of documents or an object with \"{FIELD}\"")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
        let mut found = Vec::new();
        while let Some(Item(text)) = list.next_element()? {
            found.push(text);
        }
        Ok(found)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Vec<String>, A::Error> {
        text_of::<Texts, A>(object).map(|texts| texts.0)
    }
}

/// A string or a list of strings.
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(TextsVisitor).map(Self)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
        Ok(vec![text.to_owned()])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
        let mut found = Vec::new();
        while let Some(text) = list.next_element()? {
            found.push(text);
        }
        Ok(found)
    }
}

/// The text of an object; its other fields are skipped.
fn text_of<'de, T: Deserialize<'de>, A: MapAccess<'de>>(mut object: A) -> Result<T, A::Error> {
    let mut text = None;
    while let Some(key) = object.next_key::<String>()? {
        if key != FIELD {
            object.next_value::<IgnoredAny>()?;
        } else if text.is_none() {
            text = Some(object.next_value()?);
        } else {
            return Err(A::Error::duplicate_field(FIELD));
        }
    }
    text.ok_or_else(|| A::Error::missing_field(FIELD))
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
