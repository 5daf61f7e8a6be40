//! Between the tokenizer's values and errors and those of the rest.

use llm_quantize_plugin_api::Error;

use crate::container::{Array, Metadata, StringArray, Value};
use crate::tokenizer::{TokenizerError, TokenizerValue};

/// A tokenizer's error as the host sees it: damaged, or not supported.
pub fn refused(error: &TokenizerError) -> Error {
    let message = format!("the tokenizer: {error}");
    match error.is_damage() {
        true => Error::corrupt(message),
        false => Error::unsupported(message),
    }
}

/// A tokenizer's value as GGUF stores it.
pub fn to_value(value: TokenizerValue) -> Value {
    match value {
        TokenizerValue::U32(number) => number.into(),
        TokenizerValue::Bool(flag) => flag.into(),
        TokenizerValue::String(text) => text.into(),
        TokenizerValue::Strings(texts) => texts.into_iter().collect::<StringArray>().into(),
        TokenizerValue::F32s(numbers) => numbers.into(),
        TokenizerValue::I32s(numbers) => numbers.into(),
    }
}

/// A tokenizer's value out of a file's metadata; `None` if the key is missing or has a
/// type that no tokenizer key has. Text that is not UTF-8 is read as far as it is.
pub fn from_metadata(metadata: &Metadata, key: &str) -> Option<TokenizerValue> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match metadata.value(key)? {
        Value::Bool(flag) => Some(TokenizerValue::Bool(*flag)),
        Value::String(string) => Some(TokenizerValue::String(text(string.as_bytes()))),
        Value::Array(Array::String(strings)) => {
            Some(TokenizerValue::Strings(strings.iter().map(text).collect()))
        }
        Value::Array(Array::F32(numbers)) => Some(TokenizerValue::F32s(numbers.clone())),
        Value::Array(Array::I32(numbers)) => Some(TokenizerValue::I32s(numbers.clone())),
        number => {
            let number = number.as_unsigned()?;
            u32::try_from(number).ok().map(TokenizerValue::U32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back() {
        for value in [
            TokenizerValue::U32(7),
            TokenizerValue::Bool(true),
            TokenizerValue::String("Ġa".into()),
            TokenizerValue::Strings(vec!["a".into(), String::new()]),
            TokenizerValue::F32s(vec![-1.5]),
            TokenizerValue::I32s(vec![3, 1]),
        ] {
            let mut metadata = Metadata::new();
            metadata.set("key", to_value(value.clone()));
            assert_eq!(from_metadata(&metadata, "key"), Some(value));
        }
        assert_eq!(from_metadata(&Metadata::new(), "key"), None);
    }

    #[test]
    fn integers_of_any_width_are_read() {
        let mut metadata = Metadata::new();
        metadata.set("wide", 9u64);
        metadata.set("negative", -9i32);
        assert_eq!(
            from_metadata(&metadata, "wide"),
            Some(TokenizerValue::U32(9))
        );
        assert_eq!(from_metadata(&metadata, "negative"), None);
    }
}
