//! Tokenizer files that contradict themselves or claim what they do not hold.

use super::*;
use crate::tokenizer::testing::{Files, tiny_llama};

/// A byte-level tokenizer of eight tokens.
const JSON: &str = r#"{"added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true},
    "model": {"type": "BPE", "merges": ["a b"],
              "vocab": {"!": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "Ġ": 5, "ab": 6, "c": 7}}}"#;

fn small(json: &str, more: &[(&str, &str)]) -> Files {
    let files = [
        ("tokenizer.json", json),
        ("config.json", r#"{"vocab_size": 8}"#),
    ];
    let all = files.iter().chain(more);
    all.map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

#[track_caller]
fn refused(files: &Files, what: &str) {
    let error = from_hf(files).unwrap_err();
    assert!(error.is_damage(), "{error}");
    assert!(error.to_string().contains(what), "{error}");
}

#[test]
fn the_small_tokenizer_itself_is_fine() {
    let found = from_hf(&small(JSON, &[])).unwrap();
    assert_eq!(found.tokenizer.tokens.len(), 8);
}

#[test]
fn impossible_vocabularies_are_refused() {
    for (from, to, what) in [
        ("\"c\": 7", "\"c\": 4", "both have the id 4"),
        ("\"c\": 7", "\"c\": 4294967295", "at most"),
        ("\"c\": 7", "\"c\": 4294967296", "tokenizer.json"),
        ("\"c\": 7", "\"c\": -1", "tokenizer.json"),
        ("\"c\": 7", "\"c\": 8", "vocab_size 8"),
        ("\"c\": 7", "\"b\": 7", "\"b\" occurs twice"),
        ("\"a b\"", "\"a x\"", "tokenizer.json"),
        ("\"a b\"", "\"</s> a\"", "makes no token"),
        (
            "\"merges\"",
            "\"continuing_subword_prefix\": \"##\", \"merges\"",
            "makes no token",
        ),
        ("\"id\": 1,", "\"id\": -1,", "tokenizer.json"),
        ("\"id\": 1,", "\"id\": 1, \"id\": 2,", "\"id\" occurs twice"),
        (
            "{\"type\": \"ByteLevel\", \"add_prefix_space\": false",
            "{\"add_prefix_space\": false",
            "without a \"type\"",
        ),
    ] {
        assert!(JSON.contains(from), "{from}");
        refused(&small(&JSON.replacen(from, to, 1), &[]), what);
    }
}

#[test]
fn impossible_configurations_are_refused() {
    for (name, text, what) in [
        (
            "config.json",
            r#"{"vocab_size": 1000000000}"#,
            "1000000000 tokens",
        ),
        (
            "config.json",
            r#"{"vocab_size": -1}"#,
            "not a positive integer",
        ),
        (
            "config.json",
            r#"{"vocab_size": 8, "vocab_size": 9}"#,
            "occurs twice",
        ),
        ("config.json", "[]", "config.json"),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"1": {}, "01": {}}}"#,
            "id 1 twice",
        ),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"4294967296": {}}}"#,
            "no id",
        ),
        ("tokenizer_config.json", "\u{feff}{\"a\":", "EOF"),
        ("special_tokens_map.json", "{} {}", "trailing"),
    ] {
        refused(&small(JSON, &[(name, text)]), what);
    }
}

#[test]
fn files_beyond_all_measure_are_not_parsed() {
    let mut files = tiny_llama();
    files.insert("tokenizer_config.json".into(), vec![b' '; (8 << 20) + 1]);
    refused(&files, "8388609 bytes");
}
