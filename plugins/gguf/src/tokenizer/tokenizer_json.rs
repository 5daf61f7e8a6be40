//! The parts of tokenizer.json that the conversion looks at itself.
//!
//! Encoding and decoding are left to the `tokenizers` crate; this is the same file once more, for
//! what the crate does not show.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A tokenizer.json without its vocabulary.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    /// Tokens added by hand.
    #[serde(default)]
    pub added_tokens: Vec<AddedTokenJson>,
    /// What happens to text first.
    #[serde(default)]
    pub normalizer: Option<Value>,
    /// How text is split before the model runs.
    #[serde(default)]
    pub pre_tokenizer: Option<Value>,
    /// What is put around the result.
    #[serde(default)]
    pub post_processor: Option<Value>,
    /// How tokens become text again.
    #[serde(default)]
    pub decoder: Option<Value>,
    /// The algorithm.
    pub model: ModelJson,
}

/// An entry of `added_tokens`.
#[derive(Debug, Deserialize)]
pub(super) struct AddedTokenJson {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether it is hidden from plain text.
    #[serde(default)]
    pub special: bool,
}

/// `model` of tokenizer.json.
#[derive(Debug, Deserialize)]
pub(super) struct ModelJson {
    /// "BPE", "Unigram", "WordPiece"... Very old files leave it out.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Whether unknown characters become byte tokens.
    #[serde(default)]
    pub byte_fallback: Option<bool>,
    /// Whether pieces that are tokens skip merging.
    #[serde(default)]
    pub ignore_merges: Option<bool>,
    /// Merges of BPE models, best first.
    #[serde(default)]
    pub merges: Vec<MergeJson>,
    /// What tokens that continue a word begin with; merging leaves it out.
    #[serde(default)]
    pub continuing_subword_prefix: Option<String>,
    /// Bytes of the longest token.
    #[serde(default, rename = "vocab", deserialize_with = "longest_key")]
    pub longest_token: usize,
}

/// The length of a map's longest key; 0 for the lists that other algorithms have.
fn longest_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct Longest;

    impl<'de> Visitor<'de> for Longest {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a vocabulary")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
            let mut longest = 0;
            while let Some((key, IgnoredAny)) = map.next_entry::<String, _>()? {
                longest = longest.max(key.len());
            }
            Ok(longest)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<usize, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(0)
        }
    }

    deserializer.deserialize_any(Longest)
}

/// A merge in either spelling.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum MergeJson {
    /// `"left right"`.
    Joined(String),
    /// `["left", "right"]`, which allows spaces in the parts.
    Pair(String, String),
}

impl MergeJson {
    /// llama.cpp's spelling: `left right`, a space inside a part written as the byte-level `Ġ`.
    pub(super) fn to_gguf(&self) -> String {
        match self {
            Self::Joined(merge) => merge.clone(),
            Self::Pair(left, right) => {
                format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))
            }
        }
    }

    /// The two parts, unless the merge is malformed.
    pub(super) fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Self::Joined(merge) => split_merge(merge),
            Self::Pair(left, right) => Some((left, right)),
        }
    }
}

/// Splits `"left right"` as llama.cpp does: at the first space that is not the first character.
pub(super) fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let at = first + merge.get(first..)?.find(' ')?;
    Some((merge.get(..at)?, merge.get(at + 1..)?))
}

impl TokenizerJson {
    /// Whether the model is BPE. Files without a type have been BPE in practice.
    pub(super) fn is_bpe(&self) -> bool {
        matches!(self.model.kind.as_deref(), None | Some("BPE"))
    }
}

/// The steps of a component that may be a `Sequence` of steps, in order.
///
/// `list` is the field in which the sequence keeps them: "pretokenizers", "normalizers"...
pub(super) fn flatten<'a>(component: &'a Value, list: &str) -> Vec<&'a Value> {
    match component.get(list).and_then(Value::as_array) {
        Some(steps) if kind_of(component) == "Sequence" => {
            steps.iter().flat_map(|step| flatten(step, list)).collect()
        }
        _ if component.is_null() => Vec::new(),
        _ => vec![component],
    }
}

/// The `type` of a component.
pub(super) fn kind_of(component: &Value) -> &str {
    component.get("type").and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges_come_in_both_spellings() {
        let merges: Vec<MergeJson> =
            serde_json::from_value(json!(["a b", ["c", "d"], [" e", "f g"]])).unwrap();
        let spelled: Vec<_> = merges.iter().map(MergeJson::to_gguf).collect();
        assert_eq!(spelled, ["a b", "c d", "Ġe fĠg"]);
        assert_eq!(merges[0].parts(), Some(("a", "b")));
        assert_eq!(merges[2].parts(), Some((" e", "f g")));
    }

    #[test]
    fn a_merge_may_begin_with_a_space() {
        assert_eq!(split_merge("  b"), Some((" ", "b")));
        assert_eq!(split_merge("é f"), Some(("é", "f")));
        assert_eq!(split_merge("ab"), None);
        assert_eq!(split_merge(""), None);
    }

    #[test]
    fn sequences_are_flattened() {
        let nested = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits"},
            {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
        ]});
        let kinds: Vec<_> = flatten(&nested, "pretokenizers")
            .into_iter()
            .map(kind_of)
            .collect();
        assert_eq!(kinds, ["Digits", "ByteLevel"]);
        assert!(flatten(&Value::Null, "pretokenizers").is_empty());
    }
}
