//! Tokenizers without tokenizer.json: vocab.json and merges.txt.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::source::Source;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::files;
use crate::tokenizer::pretokenizer::{json::byte_level_decoder, json::pre_tokenizer, known};

/// What splits text in the Python classes that read these files. The classes keep their rules in
/// code, so the class name is all there is to go by.
const CLASSES: [(&str, &str); 7] = [
    ("GPT2Tokenizer", "gpt-2"),
    ("GPT2TokenizerFast", "gpt-2"),
    ("CodeGenTokenizer", "gpt-2"),
    ("CodeGenTokenizerFast", "gpt-2"),
    ("GPTNeoXTokenizerFast", "olmo"),
    ("Qwen2Tokenizer", "qwen2"),
    ("Qwen2TokenizerFast", "qwen2"),
];

/// A tokenizer.json equivalent to vocab.json and merges.txt.
pub(super) fn tokenizer_json(source: &Source<'_>) -> Result<Vec<u8>, TokenizerError> {
    let vocab: HashMap<String, u32> =
        files::json(source.files, "vocab.json")?.ok_or(TokenizerError::Missing)?;
    if !source.has("merges.txt") {
        return Err(TokenizerError::Missing);
    }
    let known = known_rules(source)?;
    let normalizer = if known.nfc {
        json!({"type": "NFC"})
    } else {
        Value::Null
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer(known),
        "post_processor": null,
        "decoder": byte_level_decoder(),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges(source)?},
    });
    serde_json::to_vec(&tokenizer).map_err(|error| TokenizerError::Json {
        file: "vocab.json".to_owned(),
        source: error,
    })
}

fn known_rules(source: &Source<'_>) -> Result<&'static known::KnownPre, TokenizerError> {
    let class = source
        .tokenizer_config
        .get("tokenizer_class")
        .and_then(Value::as_str);
    let name = match (class, source.config("model_type").and_then(Value::as_str)) {
        (Some(class), _) => CLASSES
            .iter()
            .find(|(known, _)| *known == class)
            .map(|(_, pre)| *pre),
        (None, Some("gpt2" | "codegen")) => Some("gpt-2"),
        (None, Some("qwen2")) => Some("qwen2"),
        (None, _) => None,
    };
    name.and_then(known::by_name).ok_or_else(|| {
        let what = format!(
            "the tokenizer class {} keeps its rules in Python code; save the tokenizer with \
             transformers once, which writes tokenizer.json",
            class.unwrap_or("(not named)")
        );
        TokenizerError::malformed("tokenizer_config.json", what)
    })
}

/// The merges of merges.txt, malformed lines left out.
pub(super) fn merges(source: &Source<'_>) -> Result<Vec<String>, TokenizerError> {
    let text = files::text(source.files, "merges.txt")?.unwrap_or_default();
    // The first line may be a comment (`#version: 0.2`); later ones are merges of `#`.
    let skip = usize::from(text.starts_with('#'));
    let pairs = text.lines().skip(skip).filter_map(|line| {
        let mut parts = line.split_whitespace();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(left), Some(right), None) => Some(format!("{left} {right}")),
            _ => None,
        }
    });
    Ok(pairs.collect())
}
