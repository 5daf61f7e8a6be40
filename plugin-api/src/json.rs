//! JSON from files that anyone may have written.
//!
//! `serde_json` alone takes the last of two equal keys without a word; other programs take the
//! first, so such a file means two different things. Here it is an error.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

/// Editors on Windows put a byte order mark in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Characters of a key that a message shows.
const SHOWN: usize = 80;

/// Reads a JSON document; a byte order mark in front of it is skipped.
///
/// # Errors
/// If it is no JSON or not what `T` needs, if it is nested deeper than 128 levels, and if an
/// object has a key twice. The message has line and column.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    check_unique_keys(bytes)?;
    serde_json::from_slice(bytes)
}

/// Checks that a text is JSON in which no object has a key twice.
///
/// # Errors
/// As [`from_slice`].
pub fn check_unique_keys(bytes: &[u8]) -> serde_json::Result<()> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Unique.deserialize(&mut json)?;
    json.end()
}

/// Walks through a value and keeps nothing but the keys of the objects that it is in.
#[derive(Clone, Copy)]
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = object.next_key_seed(Key)? {
            if let Some(key) = keys.replace(key) {
                let shown: String = key.chars().take(SHOWN).collect();
                return Err(A::Error::custom(format_args!(
                    "the key {shown:?} occurs twice in one object; remove one of the two"
                )));
            }
            object.next_value_seed(self)?;
        }
        Ok(())
    }
}

/// A key, borrowed from the text where it has no escapes.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn sound_documents_are_read_as_usual() {
        let text = "\u{feff}{\"a\": {\"a\": [1, -2, 2.5, null, true]}, \"b\": {\"a\": \"\\n\"}}";
        let value: Value = from_slice(text.as_bytes()).unwrap();
        assert_eq!(
            value,
            json!({"a": {"a": [1, -2, 2.5, null, true]}, "b": {"a": "\n"}})
        );
        assert_eq!(from_slice::<Vec<u8>>(b"[1]").unwrap(), [1]);
    }

    #[test]
    fn a_key_that_occurs_twice_is_named_with_its_place() {
        for (text, key, place) in [
            (r#"{"a": 1, "a": 1}"#, "\"a\"", "line 1"),
            (
                "{\"x\": [0,\n {\"b\": 1, \"\\u0062\": 2}]}",
                "\"b\"",
                "line 2",
            ),
            (r#"{"\n": 1, "\n": 1}"#, "\"\\n\"", "line 1"),
        ] {
            let error = from_slice::<Value>(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(key) && error.contains("twice"), "{error}");
            assert!(error.contains(place), "{error}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(100_000);
        for (text, what) in [
            ("", "EOF"),
            ("{} x", "trailing"),
            ("{\"a\": 1", "EOF"),
            ("[1e999]", "out of range"),
            (&*deep, "recursion limit"),
        ] {
            let error = from_slice::<Value>(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(what), "{text:.20}: {error}");
        }
        assert!(from_slice::<Value>(b"\"\xff\"").is_err());
    }
}
