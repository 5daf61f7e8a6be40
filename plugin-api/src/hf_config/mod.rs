//! Typed access to a `config.json`, with errors that name the key, and what several formats
//! and the host read out of it in the same way.

mod rope;

use serde_json::Value;

use crate::{Error, Result};

pub use rope::{Llama3Scaling, Rope, RopeScaling, YarnScaling, rotary_part};

/// The key that makes a model a mixture of experts, if one does.
///
/// # Errors
/// If one is no whole number.
pub fn experts_key(config: &Config<'_>) -> Result<Option<&'static str>> {
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        if config.integer(key)?.is_some_and(|experts| experts > 0) {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// A JSON object of a model's configuration; `null` counts as absent everywhere, as
/// transformers writes it for "not set".
#[derive(Debug, Clone, Copy)]
pub struct Config<'a> {
    object: &'a Value,
    /// What the object is, for messages: `config.json`.
    what: &'static str,
}

impl<'a> Config<'a> {
    /// A view of `object`, called `what` in messages.
    #[must_use]
    pub fn new(object: &'a Value, what: &'static str) -> Self {
        Self { object, what }
    }

    /// The value of a key, unless it is `null`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there and says `null`, for the few where that means something.
    #[must_use]
    pub fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number", |value| {
            value.as_u64().or_else(|| {
                let number = value.as_f64()?;
                let whole = number.fract() == 0.0 && (0.0..1e15).contains(&number);
                whole.then_some(number as u64)
            })
        })
    }

    /// A whole number from 1 up to the largest that fits into 32 bits, which formats use for
    /// counts.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn count(&self, key: &str) -> Result<Option<u64>> {
        let Some(count) = self.integer(key)? else {
            return Ok(None);
        };
        if count == 0 || count > u64::from(u32::MAX) {
            return Err(Error::corrupt(format!(
                "{}: \"{key}\" is {count}, which is no possible size",
                self.what
            )));
        }
        Ok(Some(count))
    }

    /// Like [`count`](Self::count), of a key that must be there.
    ///
    /// # Errors
    /// If the key is missing or holds anything else.
    pub fn require_count(&self, key: &str) -> Result<u64> {
        self.count(key)?.ok_or_else(|| {
            Error::corrupt(format!("{} has no \"{key}\"", self.what))
                .suggest("check that the model's folder is complete")
        })
    }

    /// A number that is finite in single precision, in which formats store it and models
    /// compute.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| {
            value.as_f64().filter(|number| is_single(*number))
        })
    }

    /// A number that is above zero and finite in single precision.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above zero", |value| {
            value
                .as_f64()
                .filter(|number| is_single(*number) && *number as f32 > 0.0)
        })
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An object in this one, called `what` in messages; an empty one counts as absent.
    ///
    /// # Errors
    /// If the key holds anything else.
    pub fn object(&self, key: &str, what: &'static str) -> Result<Option<Config<'a>>> {
        let object = self.typed(key, "an object", |value: &'a Value| {
            value.as_object().map(|fields| (value, fields.is_empty()))
        })?;
        Ok(object
            .filter(|(_, empty)| !empty)
            .map(|(value, _)| Config::new(value, what)))
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| {
            let found: String = value.to_string().chars().take(60).collect();
            Error::corrupt(format!(
                "{}: \"{key}\" is {found}, expected {expected}",
                self.what
            ))
        })
    }
}

/// Whether single precision makes no infinity of a number.
fn is_single(number: f64) -> bool {
    (number as f32).is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_typed_and_null_is_absent() {
        let object = json!({"a": 3, "b": 4.0, "c": null, "d": "x", "e": -1, "f": 1.5, "g": {}});
        let config = Config::new(&object, "config.json");
        assert_eq!(config.integer("a"), Ok(Some(3)));
        assert_eq!(config.integer("b"), Ok(Some(4)));
        assert_eq!(config.integer("c"), Ok(None));
        assert_eq!(config.text("d"), Ok(Some("x")));
        assert!(config.integer("e").is_err());
        assert!(config.integer("f").is_err());
        assert!(config.object("g", "g").is_ok_and(|object| object.is_none()));
        let error = config.flag("d").unwrap_err();
        assert_eq!(
            error.message,
            "config.json: \"d\" is \"x\", expected true or false"
        );
    }

    #[test]
    fn numbers_must_survive_in_single_precision() {
        let object = json!({"fine": 1e-5, "huge": 1e300, "tiny": 1e-60, "negative": -2});
        let config = Config::new(&object, "config.json");
        assert_eq!(config.positive("fine"), Ok(Some(1e-5)));
        assert_eq!(config.number("tiny"), Ok(Some(1e-60)));
        assert_eq!(config.number("negative"), Ok(Some(-2.0)));
        assert!(config.number("huge").is_err());
        for key in ["huge", "tiny", "negative"] {
            assert!(config.positive(key).is_err(), "{key}");
        }
    }

    #[test]
    fn counts_have_a_range() {
        let object = json!({"zero": 0, "huge": 5_000_000_000u64, "fine": 7});
        let config = Config::new(&object, "config.json");
        assert_eq!(config.require_count("fine"), Ok(7));
        assert!(config.count("zero").is_err());
        assert!(config.count("huge").is_err());
        assert!(config.require_count("none").is_err());
    }
}
