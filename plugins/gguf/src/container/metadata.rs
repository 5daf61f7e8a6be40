//! Metadata: keys in file order, with getters that say what is wrong.

use super::value::{Array, StringArray, Text, Value};
use indexmap::IndexMap;

/// Why a metadata value could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The key is not in the file.
    #[error(
        "key \"{key}\" is missing (expected {expected}); the file is incomplete or of another kind"
    )]
    Missing {
        /// The key looked for.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// The key is there with another type.
    #[error("key \"{key}\" has type {found}, expected {expected}")]
    WrongType {
        /// The key looked for.
        key: String,
        /// The type it has.
        found: String,
        /// The type it should have.
        expected: &'static str,
    },
}

/// A Rust type that a metadata value may be read as.
pub trait FromValue<'a>: Sized {
    /// The type in words, for messages.
    const EXPECTED: &'static str;
    /// The value as this type; `None` if it has another one.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! scalar_from_value {
    ($($rust:ty, $variant:ident, $name:literal, $array_name:literal);* $(;)?) => { $(
        impl FromValue<'_> for $rust {
            const EXPECTED: &'static str = $name;
            fn from_value(value: &Value) -> Option<Self> {
                match value { Value::$variant(v) => Some(*v), _ => None }
            }
        }
        impl<'a> FromValue<'a> for &'a [$rust] {
            const EXPECTED: &'static str = $array_name;
            fn from_value(value: &'a Value) -> Option<Self> {
                match value { Value::Array(Array::$variant(v)) => Some(v), _ => None }
            }
        }
    )* };
}

scalar_from_value! {
    u8, U8, "u8", "array of u8";
    i8, I8, "i8", "array of i8";
    u16, U16, "u16", "array of u16";
    i16, I16, "i16", "array of i16";
    u32, U32, "u32", "array of u32";
    i32, I32, "i32", "array of i32";
    f32, F32, "f32", "array of f32";
    bool, Bool, "bool", "array of bool";
    u64, U64, "u64", "array of u64";
    i64, I64, "i64", "array of i64";
    f64, F64, "f64", "array of f64";
}

impl<'a> FromValue<'a> for &'a str {
    const EXPECTED: &'static str = "string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(text) => text.as_str(),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a Text {
    const EXPECTED: &'static str = "string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl<'a> FromValue<'a> for &'a StringArray {
    const EXPECTED: &'static str = "array of string";
    fn from_value(value: &'a Value) -> Option<Self> {
        match value {
            Value::Array(Array::String(strings)) => Some(strings),
            _ => None,
        }
    }
}

/// Keys and values in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    entries: IndexMap<String, Value>,
}

impl Metadata {
    /// No keys yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key and puts it last, even if it was there before.
    ///
    /// ggml's setters remove and append, so llama.cpp's tools leave the keys they touch at the
    /// end; the same order is needed for the same bytes.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.shift_remove(key);
        self.entries.insert(key.to_owned(), value.into());
    }

    /// Sets a key where it is, or puts it last if it is new.
    pub fn set_in_place(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.insert(key.to_owned(), value.into());
    }

    /// Removes a key; the others keep their order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.entries.shift_remove(key)
    }

    /// The raw value of a key.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Whether the key is there.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The value of a key as exactly type `T`; `None` if the key is missing.
    ///
    /// # Errors
    /// [`MetadataError::WrongType`] if the key has another type.
    pub fn get<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        T::from_value(value)
            .map(Some)
            .ok_or_else(|| wrong_type(key, value, T::EXPECTED))
    }

    /// The value of a key as exactly type `T`.
    ///
    /// # Errors
    /// [`MetadataError`] if the key is missing or has another type.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, MetadataError> {
        self.get(key)?.ok_or_else(|| missing(key, T::EXPECTED))
    }

    /// The value of a key of any integer type; `None` if the key is missing.
    ///
    /// Writers disagree about the width of counts, so readers had better not care.
    ///
    /// # Errors
    /// [`MetadataError::WrongType`] if it is no integer, or negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, MetadataError> {
        let Some(value) = self.entries.get(key) else {
            return Ok(None);
        };
        value
            .as_unsigned()
            .map(Some)
            .ok_or_else(|| wrong_type(key, value, UNSIGNED))
    }

    /// The value of a key of any integer type.
    ///
    /// # Errors
    /// [`MetadataError`] if the key is missing, no integer, or negative.
    pub fn require_unsigned(&self, key: &str) -> Result<u64, MetadataError> {
        self.unsigned(key)?.ok_or_else(|| missing(key, UNSIGNED))
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let entries = pairs
            .into_iter()
            .map(|(k, v)| (k.into(), v.into()))
            .collect();
        Self { entries }
    }
}

const UNSIGNED: &str = "an unsigned integer";

fn missing(key: &str, expected: &'static str) -> MetadataError {
    MetadataError::Missing {
        key: key.to_owned(),
        expected,
    }
}

fn wrong_type(key: &str, value: &Value, expected: &'static str) -> MetadataError {
    let signed = matches!(
        value,
        Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_)
    );
    let mut found = value.describe_type();
    if signed && expected == UNSIGNED {
        found.push_str(" and is negative");
    }
    MetadataError::WrongType {
        key: key.to_owned(),
        found,
        expected,
    }
}
