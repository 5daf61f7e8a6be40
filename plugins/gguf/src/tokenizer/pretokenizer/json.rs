//! Writing the splitting rules of a name as tokenizer.json has them.

use serde_json::{Value, json};

use super::known::{DIGIT, DIGITS, GPT2, KnownPre, Spelling};

/// The `pre_tokenizer` of tokenizer.json for a group of names.
pub(in crate::tokenizer) fn pre_tokenizer(known: &KnownPre) -> Value {
    if known.spelling == Spelling::SentencePiece {
        return json!({
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": false,
        });
    }
    // GPT-2's expression is part of ByteLevel, but only as the last step.
    let (splits, use_regex) = match known.splits {
        [splits @ .., last] if *last == GPT2 => (splits, true),
        splits => (splits, false),
    };
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": use_regex,
    });
    if splits.is_empty() {
        return byte_level;
    }
    let mut steps: Vec<Value> = splits.iter().map(|regex| step(regex)).collect();
    steps.push(byte_level);
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// The `decoder` of tokenizer.json for byte-level pieces.
pub(in crate::tokenizer) fn byte_level_decoder() -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
    })
}

fn step(regex: &str) -> Value {
    match regex {
        DIGIT => json!({"type": "Digits", "individual_digits": true}),
        DIGITS => json!({"type": "Digits", "individual_digits": false}),
        _ => json!({
            "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::known::KNOWN;
    use super::super::rules::Rules;
    use super::*;
    use crate::tokenizer::tokenizer_json::TokenizerJson;

    #[test]
    fn what_is_written_is_read_back() {
        for known in KNOWN.iter().filter(|k| k.spelling == Spelling::ByteLevel) {
            let json = json!({
                "pre_tokenizer": pre_tokenizer(known),
                "model": {"type": "BPE", "ignore_merges": known.ignore_merges},
            });
            let parsed: TokenizerJson = serde_json::from_value(json).unwrap();
            let rules = Rules::read(&parsed).unwrap();
            let expected: Vec<_> = known
                .splits
                .iter()
                .map(|r| super::super::canonical::canonical(r))
                .collect();
            assert_eq!(rules.splits, expected, "{:?}", known.names);
        }
    }
}
