//! Tokens that are matched in the text before the tokenizer's algorithm runs.

use serde_json::{Map, Value, json};

use super::view::View;
use crate::tokenizer::metadata::VocabKind;
use crate::tokenizer::value::{SpecialToken, TokenType};

/// `added_tokens` of tokenizer.json: control tokens, tokens with a role, user-defined tokens.
pub(super) fn added_tokens(view: &View<'_>) -> Vec<Value> {
    let roles: Vec<u32> = SpecialToken::ALL
        .iter()
        .filter_map(|r| view.role(*r))
        .collect();
    let special = |id: u32| {
        roles.contains(&id) || matches!(view.kind(id), TokenType::Control | TokenType::Unknown)
    };
    view.vocabulary()
        .filter(|(id, _)| special(*id) || view.kind(*id) == TokenType::UserDefined)
        .map(|(id, text)| {
            let mut token = json!({"id": id});
            if let Some(object) = token.as_object_mut() {
                object.extend(properties(text, special(id)));
            }
            token
        })
        .collect()
}

/// `added_tokens_decoder` of tokenizer_config.json: what tokenizer.model cannot say. Empty for
/// other vocabularies, whose tokenizer.json says it all.
pub(super) fn decoder(view: &View<'_>) -> Map<String, Value> {
    if view.tokenizer.kind != VocabKind::Spm {
        return Map::new();
    }
    let unknown = view.unknown();
    view.vocabulary()
        .filter(|(id, _)| match view.kind(*id) {
            TokenType::UserDefined => true,
            // In tokenizer.model it is the unknown piece; the type is restored from here.
            TokenType::Control => unknown == Some(*id),
            _ => false,
        })
        .map(|(id, text)| {
            let special = view.kind(id) == TokenType::Control;
            (id.to_string(), Value::Object(properties(text, special)))
        })
        .collect()
}

fn properties(text: &str, special: bool) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("content".to_owned(), text.into());
    for flag in ["single_word", "lstrip", "rstrip"] {
        out.insert(flag.to_owned(), false.into());
    }
    out.insert("normalized".to_owned(), looks_byte_level(text).into());
    out.insert("special".to_owned(), special.into());
    out
}

/// Whether decoding could take characters of the text for bytes. Converters pass texts of tokens
/// that are not normalised through encoding and decoding, which would damage such a text.
fn looks_byte_level(text: &str) -> bool {
    // The characters that stand for bytes in GPT-2's alphabet, besides ASCII.
    text.chars().any(|c| ('\u{a1}'..='\u{143}').contains(&c))
}
