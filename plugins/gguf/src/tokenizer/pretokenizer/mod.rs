//! Finding llama.cpp's name for the way a tokenizer splits text.
//!
//! GGUF files carry a name, and llama.cpp the rules behind it; tokenizer.json carries the rules.
//! Two ways lead from one to the other: a table of fingerprints of known models, as
//! `convert_hf_to_gguf.py` does it, and, for every other tokenizer, comparing its rules with the
//! rules behind the names.

mod canonical;
mod fingerprint;
mod fingerprint_table;
pub(super) mod json;
pub(super) mod known;
mod rules;
mod unrecognised;

use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{
    Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    Tokenizer,
};

use self::known::{KNOWN, KnownPre};
use self::rules::Rules;
pub use self::unrecognised::Unrecognised;
use super::TokenizerError;
use super::tokenizer_json::TokenizerJson;

/// The outcome of a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// llama.cpp's name.
    pub name: &'static str,
    /// Whether llama.cpp puts BOS in front unless told otherwise, although nothing is known about
    /// this very tokenizer (it was recognised by its rules).
    pub implies_bos: bool,
}

/// Finds the name for a tokenizer.
///
/// # Errors
/// [`TokenizerError::UnknownPreTokenizer`] when no name stands for the tokenizer's rules.
pub(super) fn recognise(
    tokenizer: &Tokenizer,
    json: &TokenizerJson,
) -> Result<Found, TokenizerError> {
    let hash = fingerprint::fingerprint(tokenizer)?;
    if let Some(name) = fingerprint::name_of(&hash) {
        return Ok(Found {
            name,
            implies_bos: false,
        });
    }
    let refuse = |reason: String| {
        let unrecognised = Unrecognised::new(hash.clone(), reason, json);
        TokenizerError::UnknownPreTokenizer(Box::new(unrecognised))
    };
    let rules = Rules::read(json).map_err(refuse)?;
    let known = match_rules(&rules, || merges_reach_every_token(tokenizer))
        .ok_or_else(|| refuse("llama.cpp knows no such combination of rules".to_owned()))?;
    if !splits_alike(tokenizer, known) {
        return Err(refuse("it splits the check text in another way".to_owned()));
    }
    Ok(Found {
        name: known.names[0],
        implies_bos: known.adds_bos,
    })
}

/// The group of names that stands for some rules.
///
/// `merges_suffice` tells, when asked, whether it makes no difference if tokens are taken whole.
fn match_rules(rules: &Rules, merges_suffice: impl Fn() -> bool) -> Option<&'static KnownPre> {
    let same: Vec<&KnownPre> = KNOWN
        .iter()
        .filter(|known| known.spelling == rules.spelling)
        .filter(|known| {
            known.splits.len() == rules.splits.len()
                && known
                    .splits
                    .iter()
                    .zip(&rules.splits)
                    .all(|(k, r)| canonical::canonical(k) == *r)
        })
        .collect();
    let exact: Vec<&KnownPre> = same
        .iter()
        .copied()
        .filter(|known| known.ignore_merges == rules.ignore_merges)
        .collect();
    let candidates = match (exact.is_empty(), same.is_empty()) {
        (false, _) => exact,
        (true, false) if merges_suffice() => same,
        _ => return None,
    };
    candidates
        .iter()
        .copied()
        .find(|known| known.nfc == rules.nfc)
        .or(candidates.first().copied())
}

/// Whether merging the bytes of every token gives that token. Then it makes no difference whether
/// a piece that is a token is taken whole.
fn merges_reach_every_token(tokenizer: &Tokenizer) -> bool {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        return false;
    };
    let mut model = model.clone();
    model.ignore_merges = false;
    let added = tokenizer.get_added_tokens_decoder();
    let vocab = tokenizer.get_vocab(false);
    vocab
        .iter()
        .filter(|(_, id)| !added.contains_key(id))
        .all(|(token, id)| {
            model
                .tokenize(token)
                .is_ok_and(|out| matches!(out.as_slice(), [one] if one.id == *id))
        })
}

/// Compares the pieces of the check text, as a guard against mistakes in comparing rules.
fn splits_alike(tokenizer: &Tokenizer, known: &KnownPre) -> bool {
    let written: Result<PreTokenizerWrapper, _> =
        serde_json::from_value(json::pre_tokenizer(known));
    let Ok(written) = written else { return false };
    if known.spelling == known::Spelling::SentencePiece {
        return true; // there is nothing to split
    }
    let own = tokenizer.get_pre_tokenizer().and_then(pieces);
    own.is_some() && own == pieces(&written)
}

fn pieces(pre_tokenizer: &PreTokenizerWrapper) -> Option<Vec<String>> {
    let mut text = PreTokenizedString::from(fingerprint::CHECK_TEXT);
    pre_tokenizer.pre_tokenize(&mut text).ok()?;
    let splits = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Some(
        splits
            .into_iter()
            .map(|(piece, _, _)| piece.to_owned())
            .collect(),
    )
}

/// The steps of a tokenizer's `pre_tokenizer` and `normalizer` as compact JSON, for messages.
fn describe(component: Option<&Value>) -> String {
    component.map_or_else(|| "none".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests;
