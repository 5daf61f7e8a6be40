//! Tokens that the configuration files add to a tokenizer.

use std::collections::HashSet;

use serde_json::Value;
use tokenizers::{AddedToken, Tokenizer};

use super::source::{Source, token_text};
use crate::tokenizer::TokenizerError;
use crate::tokenizer::files;

/// Roles that transformers knows, in the order in which it adds their tokens.
const ROLES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Adds what transformers adds when it loads the folder: `added_tokens_decoder`, tokens with a
/// role, additional special tokens and, for a tokenizer without tokenizer.json, added_tokens.json.
pub(super) fn complete(
    tokenizer: &mut Tokenizer,
    source: &Source<'_>,
) -> Result<(), TokenizerError> {
    let mut tokens = from_decoder(source)?;
    if !source.has("tokenizer.json") {
        tokens.extend(from_added_tokens_file(source)?);
    }
    add(tokenizer, tokens)?;
    let known: HashSet<String> = tokenizer
        .get_added_tokens_decoder()
        .into_values()
        .map(|token| token.content)
        .collect();
    let mut special = special_tokens(source);
    special.retain(|text| !known.contains(text));
    add(
        tokenizer,
        special
            .into_iter()
            .map(|text| AddedToken::from(text, true))
            .collect(),
    )
}

fn add(tokenizer: &mut Tokenizer, tokens: Vec<AddedToken>) -> Result<(), TokenizerError> {
    let added = tokenizer.add_tokens(tokens);
    added
        .map(|_| ())
        .map_err(|e| TokenizerError::malformed("tokenizer_config.json", e.to_string()))
}

/// `added_tokens_decoder` of tokenizer_config.json, sorted by id.
pub(super) fn decoder_entries<'a>(
    source: &'a Source<'_>,
) -> Result<Vec<(u32, &'a Value)>, TokenizerError> {
    let Some(decoder) = source.tokenizer_config.get("added_tokens_decoder") else {
        return Ok(Vec::new());
    };
    let wrong = |what: &str| TokenizerError::malformed("tokenizer_config.json", what);
    let decoder = decoder
        .as_object()
        .ok_or_else(|| wrong("added_tokens_decoder is not an object of tokens by id"))?;
    let mut entries = Vec::with_capacity(decoder.len());
    for (id, entry) in decoder {
        let id = id
            .parse()
            .map_err(|_| wrong("added_tokens_decoder has a key that is no id"))?;
        entries.push((id, entry));
    }
    entries.sort_by_key(|(id, _)| *id);
    // "1" and "01" are two keys of JSON, but one id.
    if let Some([(id, _), _]) = entries.array_windows().find(|[a, b]| a.0 == b.0) {
        return Err(wrong(&format!(
            "added_tokens_decoder has the id {id} twice"
        )));
    }
    Ok(entries)
}

fn from_decoder(source: &Source<'_>) -> Result<Vec<AddedToken>, TokenizerError> {
    let entries = decoder_entries(source)?;
    Ok(entries
        .into_iter()
        .filter_map(|(_, entry)| parse(entry))
        .collect())
}

/// One added token with its properties.
fn parse(entry: &Value) -> Option<AddedToken> {
    let text = token_text(Some(entry))?;
    let flag = |name: &str| entry.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    let token = AddedToken::from(text, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Some(token)
}

fn from_added_tokens_file(source: &Source<'_>) -> Result<Vec<AddedToken>, TokenizerError> {
    let mut tokens: Vec<(u64, String)> = added_tokens_file(source)?;
    tokens.sort();
    Ok(tokens
        .into_iter()
        .map(|(_, text)| AddedToken::from(text, false))
        .collect())
}

/// added_tokens.json as `(id, text)`, in the order of the file.
pub(super) fn added_tokens_file(source: &Source<'_>) -> Result<Vec<(u64, String)>, TokenizerError> {
    let name = "added_tokens.json";
    let entries = files::object(source.files, name)?.unwrap_or_default();
    let parse = |(text, id): (String, Value)| {
        let id = id.as_u64().ok_or_else(|| {
            TokenizerError::malformed(name, format!("the id of {text:?} is {id}"))
        })?;
        Ok((id, text))
    };
    entries.into_iter().map(parse).collect()
}

/// Texts of tokens with a role and of additional special tokens.
fn special_tokens<'a>(source: &'a Source<'_>) -> Vec<String> {
    let config = &source.tokenizer_config;
    let map = &source.special_tokens_map;
    let entry = |key: &str| config.get(key).or_else(|| map.get(key));
    let mut seen = HashSet::new();
    let mut out: Vec<String> = Vec::new();
    let mut push = |text: Option<&'a str>| {
        if let Some(text) = text.filter(|text| seen.insert(*text)) {
            out.push(text.to_owned());
        }
    };
    for role in ROLES {
        push(token_text(entry(role)));
    }
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        match entry(key) {
            Some(Value::Array(list)) => list.iter().for_each(|e| push(token_text(Some(e)))),
            Some(Value::Object(named)) => named.values().for_each(|e| push(token_text(Some(e)))),
            _ => {}
        }
    }
    out
}
