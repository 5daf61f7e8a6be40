//! Reading the splitting rules out of a tokenizer.json.

use serde_json::Value;

use super::canonical::canonical;
use super::known::{self, Spelling};
use crate::tokenizer::tokenizer_json::{TokenizerJson, flatten, kind_of};

/// How a tokenizer splits text, in the terms of [`known`](super::known).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Expressions in canonical spelling, in the order of their use.
    pub splits: Vec<String>,
    /// How pieces are spelled.
    pub spelling: Spelling,
    /// Whether pieces that are tokens skip merging.
    pub ignore_merges: bool,
    /// Whether text is normalised to NFC first.
    pub nfc: bool,
}

impl Rules {
    /// Reads the rules, or says what about them llama.cpp has no counterpart for.
    pub(super) fn read(json: &TokenizerJson) -> Result<Self, String> {
        let normalizer = Normalizer::read(json.normalizer.as_ref())?;
        let mut steps = Steps {
            escapes_spaces: normalizer.escapes_spaces,
            ..Steps::default()
        };
        for step in json
            .pre_tokenizer
            .iter()
            .flat_map(|p| flatten(p, "pretokenizers"))
        {
            steps.add(step)?;
        }
        let spelling = match (steps.byte_level, normalizer.escapes_spaces) {
            (true, false) => Spelling::ByteLevel,
            (false, true) => Spelling::SentencePiece,
            (true, true) => return Err("it both escapes spaces as ▁ and works on bytes".to_owned()),
            (false, false) => {
                return Err("it does not work on bytes (no ByteLevel step)".to_owned());
            }
        };
        let ignore_merges = json.model.ignore_merges.unwrap_or(false);
        Ok(Self {
            splits: steps.splits,
            spelling,
            ignore_merges,
            nfc: normalizer.nfc,
        })
    }
}

/// What the normalizer does.
#[derive(Default)]
struct Normalizer {
    nfc: bool,
    escapes_spaces: bool,
}

impl Normalizer {
    fn read(normalizer: Option<&Value>) -> Result<Self, String> {
        let mut out = Self::default();
        for step in normalizer
            .into_iter()
            .flat_map(|n| flatten(n, "normalizers"))
        {
            match kind_of(step) {
                "NFC" => out.nfc = true,
                "Replace" if is_space_escape(step) => out.escapes_spaces = true,
                other => return Err(format!("its normalizer has the step {other}")),
            }
        }
        Ok(out)
    }
}

/// `Replace` of a space by `▁`.
fn is_space_escape(step: &Value) -> bool {
    step.pointer("/pattern/String").and_then(Value::as_str) == Some(" ")
        && step.get("content").and_then(Value::as_str) == Some("▁")
}

/// The pre-tokenizer steps seen so far.
#[derive(Default)]
struct Steps {
    splits: Vec<String>,
    byte_level: bool,
    escapes_spaces: bool,
}

impl Steps {
    fn add(&mut self, step: &Value) -> Result<(), String> {
        if self.byte_level {
            return Err(format!("the step {} follows ByteLevel", kind_of(step)));
        }
        match kind_of(step) {
            "ByteLevel" => self.byte_level(step),
            "Digits" => {
                let individual = flag(step, "individual_digits").unwrap_or(false);
                self.push(if individual {
                    known::DIGIT
                } else {
                    known::DIGITS
                });
                Ok(())
            }
            "Punctuation" if behavior(step) == "Contiguous" => {
                self.push(known::PUNCTUATION);
                Ok(())
            }
            "Split" => self.split(step),
            other => Err(format!("its pre-tokenizer has the step {other}")),
        }
    }

    fn push(&mut self, regex: &str) {
        self.splits.push(canonical(regex));
    }

    fn byte_level(&mut self, step: &Value) -> Result<(), String> {
        if flag(step, "add_prefix_space").unwrap_or(true) {
            return Err(
                "it puts a space in front of the text (ByteLevel add_prefix_space)".to_owned(),
            );
        }
        if flag(step, "use_regex").unwrap_or(true) {
            self.push(known::GPT2);
        }
        self.byte_level = true;
        Ok(())
    }

    fn split(&mut self, step: &Value) -> Result<(), String> {
        let Some(regex) = step.pointer("/pattern/Regex").and_then(Value::as_str) else {
            let literal = step.pointer("/pattern/String").and_then(Value::as_str);
            // After spaces have become ▁ there is none left to split at (Gemma has such a step).
            if self.escapes_spaces && literal == Some(" ") {
                return Ok(());
            }
            return Err(format!(
                "it splits at the text {:?}",
                literal.unwrap_or_default()
            ));
        };
        let invert = flag(step, "invert").unwrap_or(false);
        // Removing what does not match is the same as keeping all when everything matches.
        let keeps_all = regex.ends_with(r"|\s+");
        match (behavior(step), invert) {
            ("Isolated", _) => {}
            ("Removed", true) if keeps_all => {}
            (other, _) => return Err(format!("it has a Split with the behavior {other}")),
        }
        self.push(regex);
        Ok(())
    }
}

fn flag(step: &Value, name: &str) -> Option<bool> {
    step.get(name).and_then(Value::as_bool)
}

fn behavior(step: &Value) -> &str {
    step.get("behavior").and_then(Value::as_str).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(normalizer: Value, pre_tokenizer: Value) -> Result<Rules, String> {
        let json = json!({
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": {"type": "BPE"},
        });
        Rules::read(&serde_json::from_value(json).unwrap())
    }

    fn byte_level(prefix: bool, regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": regex})
    }

    #[test]
    fn byte_level_has_an_expression_of_its_own() {
        let rules = read(Value::Null, byte_level(false, true)).unwrap();
        assert_eq!(rules.splits, [canonical(known::GPT2)]);
        assert_eq!(rules.spelling, Spelling::ByteLevel);
        assert!(
            read(Value::Null, byte_level(false, false))
                .unwrap()
                .splits
                .is_empty()
        );
    }

    #[test]
    fn digits_and_splits_are_the_same_thing() {
        let digits = json!({"type": "Digits", "individual_digits": true});
        let split = json!({
            "type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": false,
        });
        let sequence =
            |first| json!({"type": "Sequence", "pretokenizers": [first, byte_level(false, true)]});
        let a = read(Value::Null, sequence(digits)).unwrap();
        let b = read(json!({"type": "NFC"}), sequence(split)).unwrap();
        assert_eq!(a.splits, b.splits);
        assert_eq!((a.nfc, b.nfc), (false, true));
    }

    #[test]
    fn what_llama_cpp_cannot_do_is_named() {
        let err = |n, p| read(n, p).unwrap_err();
        assert!(err(Value::Null, byte_level(true, true)).contains("add_prefix_space"));
        assert!(err(json!({"type": "Lowercase"}), byte_level(false, true)).contains("Lowercase"));
        assert!(err(Value::Null, json!({"type": "Whitespace"})).contains("Whitespace"));
        let removed = json!({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Removed"});
        assert!(err(Value::Null, removed).contains("Removed"));
    }

    #[test]
    fn gemma_escapes_spaces() {
        let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let split = json!({
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
        });
        let rules = read(escape, split).unwrap();
        assert_eq!(rules.spelling, Spelling::SentencePiece);
        assert!(rules.splits.is_empty());
    }
}
