//! Byte-level BPE: tokenizer.json, or vocab.json and merges.txt, to a "gpt2" vocabulary.

use std::collections::HashMap;

use llm_quantize_plugin_api::json;
use tokenizers::{AddedToken, Tokenizer};

use super::added_tokens;
use super::components;
use super::looks::looks_special;
use super::slow;
use super::source::Source;
use crate::tokenizer::files;
use crate::tokenizer::metadata::{GgufTokenizer, Setting, VocabKind, check_count};
use crate::tokenizer::pretokenizer;
use crate::tokenizer::tokenizer_json::{MergeJson, TokenizerJson};
use crate::tokenizer::value::{AddedAround, TokenType};
use crate::tokenizer::{TokenizerError, check_unique};

/// A fast tokenizer, ready to encode, and its description.
pub(super) struct Loaded {
    /// The tokenizer with everything that the configuration adds.
    pub tokenizer: Tokenizer,
    /// Its tokenizer.json without the vocabulary.
    pub json: TokenizerJson,
}

/// Loads the tokenizer as transformers would.
pub(super) fn load(source: &Source<'_>) -> Result<Loaded, TokenizerError> {
    let name = "tokenizer.json";
    let built;
    let bytes = match files::bytes(source.files, name)? {
        Some(bytes) => bytes,
        None => {
            built = slow::tokenizer_json(source)?;
            &built
        }
    };
    let json: TokenizerJson = json::from_slice(bytes).map_err(|error| TokenizerError::Json {
        file: name.to_owned(),
        source: error,
    })?;
    if !json.is_bpe() {
        let kind = json.model.kind.unwrap_or_default();
        return Err(TokenizerError::UnsupportedKind { kind });
    }
    components::check(&json)?;
    let mut tokenizer =
        Tokenizer::from_bytes(bytes).map_err(|e| TokenizerError::malformed(name, e.to_string()))?;
    check_count(name, tokenizer.get_vocab_size(true) as u64)?;
    tokenizer.with_padding(None);
    tokenizer
        .with_truncation(None)
        .map_err(|e| TokenizerError::malformed(name, e.to_string()))?;
    added_tokens::complete(&mut tokenizer, source)?;
    Ok(Loaded { tokenizer, json })
}

/// Converts a byte-level BPE tokenizer.
///
/// # Errors
/// When a token lies beyond `vocab_size`, and when the pre-tokenizer has no name in llama.cpp.
pub(super) fn convert(
    source: &mut Source<'_>,
    loaded: &Loaded,
) -> Result<GgufTokenizer, TokenizerError> {
    let vocabulary = Vocabulary::read(&loaded.tokenizer)?;
    let size = vocabulary.size(source.vocab_size()?)?;
    let found = pretokenizer::recognise(&loaded.tokenizer, &loaded.json)?;
    let (tokens, types) = vocabulary.tokens(size, &loaded.tokenizer)?;
    if let Err(error) = check_unique(&tokens) {
        source.warn(format!("llama.cpp will refuse this vocabulary: {error}"));
    }
    let mut out = GgufTokenizer::new(VocabKind::Bpe, tokens, types);
    out.pre = Some(found.name.to_owned());
    out.merges = merges(source, &loaded.json)?;
    if found.implies_bos {
        // Replaced when the post-processor or the configuration says otherwise.
        out.set(Setting::Add(AddedAround::Bos, false));
    }
    Ok(out)
}

/// Merges from tokenizer.json, else from merges.txt.
pub(super) fn merges(
    source: &Source<'_>,
    json: &TokenizerJson,
) -> Result<Vec<String>, TokenizerError> {
    if json.model.merges.is_empty() {
        return slow::merges(source);
    }
    Ok(json.model.merges.iter().map(MergeJson::to_gguf).collect())
}

/// Texts by id, and which of them were added by hand.
pub(super) struct Vocabulary {
    pub texts: HashMap<u32, String>,
    pub added: HashMap<u32, AddedToken>,
}

impl Vocabulary {
    /// # Errors
    /// If two tokens of the vocabulary have one id; that an added token has the id of one of the
    /// vocabulary's is usual, and it wins.
    pub(super) fn read(tokenizer: &Tokenizer) -> Result<Self, TokenizerError> {
        let mut texts: HashMap<u32, String> = HashMap::new();
        for (text, id) in tokenizer.get_vocab(false) {
            if let Some(other) = texts.insert(id, text.clone()) {
                // The vocabulary comes in no order, the message must.
                let (first, second) = if other < text {
                    (other, text)
                } else {
                    (text, other)
                };
                return Err(TokenizerError::SharedId {
                    file: "tokenizer.json".to_owned(),
                    id,
                    first,
                    second,
                });
            }
        }
        let added: HashMap<u32, AddedToken> =
            tokenizer.get_added_tokens_decoder().into_iter().collect();
        texts.extend(added.iter().map(|(id, token)| (*id, token.content.clone())));
        Ok(Self { texts, added })
    }

    /// The number of tokens to write: `vocab_size` of the model, into which all ids must fit.
    pub(super) fn size(&self, vocab_size: Option<usize>) -> Result<usize, TokenizerError> {
        let Some((id, token)) = self.texts.iter().max_by_key(|(id, _)| **id) else {
            return Ok(vocab_size.unwrap_or(0));
        };
        let needed = *id as u64 + 1;
        check_count("tokenizer.json", needed)?;
        match vocab_size {
            Some(vocab_size) if needed > vocab_size as u64 => Err(TokenizerError::IdOutOfRange {
                token: token.clone(),
                id: *id,
                vocab_size,
            }),
            Some(vocab_size) => Ok(vocab_size),
            None => Ok(needed as usize),
        }
    }

    /// Texts and types by id; holes become `[PADn]`.
    fn tokens(
        &self,
        size: usize,
        tokenizer: &Tokenizer,
    ) -> Result<(Vec<String>, Vec<TokenType>), TokenizerError> {
        let mut tokens = Vec::with_capacity(size);
        let mut types = Vec::with_capacity(size);
        for id in 0..size as u32 {
            let (text, kind) = match (self.texts.get(&id), self.added.get(&id)) {
                (None, _) => (filler(id as usize), TokenType::Unused),
                (Some(text), None) => (text.clone(), TokenType::Normal),
                (Some(_), Some(added)) => added_token(added, tokenizer)?,
            };
            tokens.push(text);
            types.push(kind);
        }
        Ok((tokens, types))
    }
}

/// The text for an id that no token has.
pub(crate) fn filler(id: usize) -> String {
    format!("[PAD{id}]")
}

/// Text and type of a token that was added by hand.
fn added_token(
    added: &AddedToken,
    tokenizer: &Tokenizer,
) -> Result<(String, TokenType), TokenizerError> {
    let text = if added.normalized {
        added.content.clone()
    } else {
        round_trip(&added.content, tokenizer)?
    };
    if added.special || looks_special(&text) {
        return Ok((text, TokenType::Control));
    }
    Ok((text.replace('▁', " "), TokenType::UserDefined))
}

/// llama.cpp looks for added tokens in the text as it is, so their texts must be what decoding
/// gives.
fn round_trip(text: &str, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    let decoded = tokenizer
        .encode(text, false)
        .and_then(|encoding| tokenizer.decode(encoding.get_ids(), false))
        .map_err(|e| TokenizerError::malformed("tokenizer.json", e.to_string()))?;
    // A text of single bytes, such as `Á`, decodes to no text at all.
    let damaged = decoded.contains(char::REPLACEMENT_CHARACTER);
    Ok(if damaged { text.to_owned() } else { decoded })
}
