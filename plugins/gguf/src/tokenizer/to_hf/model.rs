//! `model`, `normalizer`, `pre_tokenizer` and `decoder` of tokenizer.json.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::merges;
use super::view::View;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::metadata::VocabKind;
use crate::tokenizer::pretokenizer::json::{byte_level_decoder, pre_tokenizer};
use crate::tokenizer::pretokenizer::known::Spelling;
use crate::tokenizer::tokenizer_json::split_merge;
use crate::tokenizer::value::TokenType;

/// The components that make text into tokens and back.
pub(super) struct Model {
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    pub model: Value,
}

/// Builds the components.
pub(super) fn model(view: &View<'_>, warnings: &mut Vec<String>) -> Result<Model, TokenizerError> {
    let merges = match view.tokenizer.kind {
        VocabKind::Spm => scored_merges(view)?,
        VocabKind::Bpe | VocabKind::SpmBpe => ranked_merges(view, warnings),
    };
    let bpe = bpe(view, &merges);
    Ok(match view.spelling() {
        Spelling::ByteLevel => byte_level(view, bpe),
        Spelling::SentencePiece => sentencepiece(view, bpe),
    })
}

fn byte_level(view: &View<'_>, model: Value) -> Model {
    let nfc = view.known.is_some_and(|known| known.nfc);
    Model {
        normalizer: if nfc {
            json!({"type": "NFC"})
        } else {
            Value::Null
        },
        pre_tokenizer: view.known.map_or(Value::Null, pre_tokenizer),
        decoder: byte_level_decoder(),
        model,
    }
}

fn sentencepiece(view: &View<'_>, model: Value) -> Model {
    let escape = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let unescape = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut decoders = vec![
        unescape,
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    let normalizer = if view.begins_with_space() {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        let prepend = json!({"type": "Prepend", "prepend": "▁"});
        json!({"type": "Sequence", "normalizers": [prepend, escape]})
    } else {
        escape
    };
    Model {
        normalizer,
        pre_tokenizer: view.known.map_or(Value::Null, pre_tokenizer),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model,
    }
}

fn bpe(view: &View<'_>, merges: &[(&str, &str)]) -> Value {
    let sentencepiece = view.spelling() == Spelling::SentencePiece;
    let unknown = view
        .unknown()
        .filter(|_| sentencepiece)
        .map(|id| view.text(id));
    let has_bytes = view.tokenizer.token_types.contains(&TokenType::Byte);
    let vocab: Map<String, Value> = view
        .vocabulary()
        .map(|(id, text)| (text.to_owned(), id.into()))
        .collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": sentencepiece,
        "byte_fallback": sentencepiece && has_bytes,
        "ignore_merges": view.known.is_some_and(|known| known.ignore_merges),
        "vocab": vocab,
        "merges": spell(merges),
    })
}

/// Merges as `"left right"`, which every version of `tokenizers` reads; as pairs where a half
/// contains a space.
fn spell(merges: &[(&str, &str)]) -> Value {
    if merges
        .iter()
        .any(|(left, right)| left.contains(' ') || right.contains(' '))
    {
        return merges
            .iter()
            .map(|(left, right)| json!([left, right]))
            .collect();
    }
    merges
        .iter()
        .map(|(left, right)| Value::String(format!("{left} {right}")))
        .collect()
}

/// The merges of the file. Those that make no token are left out: `tokenizers` refuses them.
fn ranked_merges<'a>(view: &View<'a>, warnings: &mut Vec<String>) -> Vec<(&'a str, &'a str)> {
    let ids: HashMap<&str, u32> = view.ids();
    let all = view.tokenizer.merges.len();
    let mut joined = String::new();
    let merges: Vec<_> = view
        .tokenizer
        .merges
        .iter()
        .filter_map(|merge| split_merge(merge))
        .filter(|(left, right)| {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            [*left, *right, joined.as_str()]
                .iter()
                .all(|text| ids.contains_key(text))
        })
        .collect();
    if merges.len() < all {
        warnings.push(format!(
            "{} merges make no token and are left out",
            all - merges.len()
        ));
    }
    merges
}

/// Merges that follow from the scores.
fn scored_merges<'a>(view: &View<'a>) -> Result<Vec<(&'a str, &'a str)>, TokenizerError> {
    let scores = view.tokenizer.scores.as_deref().ok_or_else(|| {
        TokenizerError::metadata(
            "tokenizer.ggml.scores",
            "a \"llama\" vocabulary needs scores",
        )
    })?;
    let pieces: Vec<(u32, &str, f32)> = view
        .vocabulary()
        .filter(|(id, _)| view.kind(*id) == TokenType::Normal)
        .map(|(id, text)| (id, text, scores.get(id as usize).copied().unwrap_or(0.0)))
        .collect();
    let merges = merges::from_scores(&pieces);
    Ok(merges
        .into_iter()
        .map(|(left, right)| (view.text(left), view.text(right)))
        .collect())
}
