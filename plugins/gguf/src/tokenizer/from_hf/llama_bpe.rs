//! SentencePiece vocabularies that come as the BPE of a tokenizer.json (Llama 2, Mistral, Gemma).

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::bpe::{Loaded, Vocabulary, filler, merges};
use super::sentencepiece::{ADDED_SCORE, FILLER_SCORE, PRE};
use super::source::Source;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::metadata::{GgufTokenizer, Setting, VocabKind};
use crate::tokenizer::tokenizer_json::{MergeJson, TokenizerJson, flatten, kind_of};
use crate::tokenizer::value::{AddedAround, TokenType};

/// Tokens of Gemma 4 that a chat program must see although they are control tokens.
const GEMMA4_VISIBLE: [&str; 7] = [
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
];

/// Whether a tokenizer.json is a SentencePiece vocabulary in BPE's clothes.
pub(super) fn is_llama_bpe(json: &TokenizerJson) -> bool {
    let sequence = json
        .decoder
        .as_ref()
        .is_some_and(|decoder| kind_of(decoder) == "Sequence");
    json.model.byte_fallback == Some(true) && sequence
}

/// Converts to a "llama" vocabulary.
///
/// llama.cpp merges by score where tokenizer.json has ranked merges. The reference writes the same
/// score for all, which loses the ranks; here scores are made from them, so that the order of
/// merges is kept (for Llama 2 they come out as in its tokenizer.model).
pub(super) fn convert(
    source: &Source<'_>,
    loaded: &Loaded,
) -> Result<GgufTokenizer, TokenizerError> {
    let vocabulary = Vocabulary::read(&loaded.tokenizer)?;
    let size = vocabulary.size(source.vocab_size()?)?;
    let pieces = scores(&vocabulary.texts, &loaded.json.model.merges);
    let mut tokens = Vec::with_capacity(size);
    let mut values = Vec::with_capacity(size);
    let mut types = Vec::with_capacity(size);
    for id in 0..size as u32 {
        let (text, score, kind) = match vocabulary.texts.get(&id) {
            None => (filler(id as usize), FILLER_SCORE, TokenType::Unused),
            Some(text) => {
                let kind = token_type(id, text, &vocabulary);
                (spelling(text, kind), score_of(kind, pieces.get(text)), kind)
            }
        };
        tokens.push(text);
        values.push(score);
        types.push(kind);
    }
    let mut out = GgufTokenizer::new(VocabKind::Spm, tokens, types);
    out.pre = Some(PRE.to_owned());
    out.scores = Some(values);
    Ok(out)
}

/// Gemma 4 has a kind of its own in llama.cpp, which keeps the ranked merges.
pub(super) fn convert_gemma4(
    source: &Source<'_>,
    loaded: &Loaded,
) -> Result<GgufTokenizer, TokenizerError> {
    let mut out = convert(source, loaded)?;
    out.kind = VocabKind::SpmBpe;
    out.pre = None;
    out.merges = merges(source, &loaded.json)?;
    out.scores = Some(vec![ADDED_SCORE; out.tokens.len()]);
    for (text, kind) in out.tokens.iter().zip(&mut out.token_types) {
        if GEMMA4_VISIBLE.contains(&text.as_str()) {
            *kind = TokenType::UserDefined;
        }
    }
    Ok(out)
}

/// What llama.cpp's reference sets for Gemma 4 after everything else.
pub(super) fn finish_gemma4(out: &mut GgufTokenizer) {
    out.set(Setting::AddSpacePrefix(false));
    out.set(Setting::Add(AddedAround::Bos, true));
}

fn token_type(id: u32, text: &str, vocabulary: &Vocabulary) -> TokenType {
    if is_byte(text) {
        return TokenType::Byte;
    }
    match vocabulary.added.get(&id) {
        Some(added) if added.special => TokenType::Control,
        Some(_) => TokenType::UserDefined,
        None => TokenType::Normal,
    }
}

/// llama.cpp looks for user-defined tokens in the text as it is, before spaces are escaped.
fn spelling(text: &str, kind: TokenType) -> String {
    match kind {
        TokenType::UserDefined => text.replace('▁', " "),
        _ => text.to_owned(),
    }
}

fn score_of(kind: TokenType, piece: Option<&f32>) -> f32 {
    match kind {
        TokenType::Byte => 0.0,
        TokenType::Control | TokenType::UserDefined => ADDED_SCORE,
        _ => piece.copied().unwrap_or(0.0),
    }
}

/// `<0x00>` to `<0xFF>`.
fn is_byte(text: &str) -> bool {
    let hex = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Scores for the pieces: 0, -1, -2... in the order in which merges first make them, then on in
/// the order of ids for what no merge makes.
fn scores(texts: &HashMap<u32, String>, merges: &[MergeJson]) -> HashMap<String, f32> {
    let known: HashSet<&str> = texts.values().map(String::as_str).collect();
    let mut scores: HashMap<String, f32> = HashMap::with_capacity(texts.len());
    let mut next = 0u32;
    let mut put = |text: String| {
        scores.entry(text).or_insert_with(|| {
            let score = -(next as f32);
            next += 1;
            score
        });
    };
    for (left, right) in merges.iter().filter_map(MergeJson::parts) {
        let merged = format!("{left}{right}");
        if known.contains(merged.as_str()) {
            put(merged);
        }
    }
    let mut rest: Vec<(&u32, &String)> = texts.iter().filter(|(_, text)| !is_byte(text)).collect();
    rest.sort_unstable();
    for (_, text) in rest {
        put(text.clone());
    }
    scores
}

/// Whether the tokenizer puts a space in front of text.
pub(super) fn adds_space_prefix(json: &TokenizerJson) -> bool {
    let normalizers = json
        .normalizer
        .iter()
        .flat_map(|n| flatten(n, "normalizers"));
    let prepends = normalizers
        .into_iter()
        .any(|step| kind_of(step) == "Prepend");
    let mut pre_tokenizers = json
        .pre_tokenizer
        .iter()
        .flat_map(|p| flatten(p, "pretokenizers"));
    prepends || pre_tokenizers.any(metaspace_prepends)
}

fn metaspace_prepends(step: &Value) -> bool {
    if kind_of(step) != "Metaspace" {
        return false;
    }
    match step.get("prepend_scheme").and_then(Value::as_str) {
        Some(scheme) => scheme != "never",
        None => step
            .get("add_prefix_space")
            .and_then(Value::as_bool)
            .unwrap_or(true),
    }
}
