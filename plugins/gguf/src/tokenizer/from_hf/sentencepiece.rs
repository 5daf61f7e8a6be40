//! SentencePiece: tokenizer.model to a "llama" vocabulary.

use prost::Message;
use serde_json::Value;

use super::added_tokens::{added_tokens_file, decoder_entries};
use super::bpe::filler;
use super::looks::looks_special;
use super::proto::{ModelProto, PieceType};
use super::source::{Source, token_text};
use crate::tokenizer::TokenizerError;
use crate::tokenizer::files;
use crate::tokenizer::metadata::{GgufTokenizer, Setting, VocabKind, check_count};
use crate::tokenizer::tokenizer_json::TokenizerJson;
use crate::tokenizer::value::TokenType;

/// Score of tokens added by hand: they never win a merge.
pub(super) const ADDED_SCORE: f32 = -1000.0;
/// Score of ids that no token has.
pub(super) const FILLER_SCORE: f32 = -10000.0;
/// The only name llama.cpp has for SentencePiece vocabularies.
pub(super) const PRE: &str = "default";

/// Reads tokenizer.model, if there is one.
pub(super) fn read_model(source: &Source<'_>) -> Result<Option<ModelProto>, TokenizerError> {
    let Some(bytes) = files::bytes(source.files, "tokenizer.model")? else {
        return Ok(None);
    };
    let model = ModelProto::decode(bytes)?;
    check_count("tokenizer.model", model.pieces.len() as u64)?;
    if model.pieces.is_empty() {
        return Err(TokenizerError::malformed(
            "tokenizer.model",
            "it has no pieces",
        ));
    }
    Ok(Some(model))
}

/// Converts a SentencePiece model with the tokens that the configuration adds.
pub(super) fn convert(
    source: &mut Source<'_>,
    model: &ModelProto,
) -> Result<GgufTokenizer, TokenizerError> {
    // Gemma 3n's table of embeddings per layer is the smaller one; the vocabulary is the whole.
    let size = source.vocab_size()?.unwrap_or(model.pieces.len());
    let mut table = Table::new(size);
    for (id, piece) in model.pieces.iter().enumerate() {
        let kind = token_type(piece.kind);
        table.put(
            id as u64,
            piece.piece.clone().unwrap_or_default(),
            piece.score.unwrap_or(0.0),
            kind,
        );
    }
    table.add_from_files(source)?;
    if table.ignored > 0 {
        let count = table.ignored;
        source.warn(format!(
            "{count} tokens beyond the model's {size} embeddings are left out"
        ));
    }
    let mut out = GgufTokenizer::new(VocabKind::Spm, table.tokens, table.types);
    out.pre = Some(PRE.to_owned());
    out.scores = Some(table.scores);
    Ok(out)
}

/// Whether the model has text begin without an extra space, which llama.cpp must be told.
pub(super) fn lacks_space_prefix(model: &ModelProto) -> bool {
    model
        .normalizer_spec
        .as_ref()
        .and_then(|spec| spec.add_dummy_prefix)
        == Some(false)
}

fn token_type(kind: Option<i32>) -> TokenType {
    match kind.and_then(|kind| PieceType::try_from(kind).ok()) {
        Some(PieceType::Unknown) => TokenType::Unknown,
        Some(PieceType::Control) => TokenType::Control,
        Some(PieceType::Unused) => TokenType::Unused,
        Some(PieceType::Byte) => TokenType::Byte,
        // What is user-defined is decided by the added tokens, as in the reference.
        Some(PieceType::Normal | PieceType::UserDefined) | None => TokenType::Normal,
    }
}

/// Tokens by id, all of them fillers at first.
struct Table {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<TokenType>,
    ignored: usize,
}

impl Table {
    fn new(size: usize) -> Self {
        Self {
            tokens: (0..size).map(filler).collect(),
            scores: vec![FILLER_SCORE; size],
            types: vec![TokenType::Unused; size],
            ignored: 0,
        }
    }

    fn put(&mut self, id: u64, text: String, score: f32, kind: TokenType) {
        let Some(id) = usize::try_from(id)
            .ok()
            .filter(|id| *id < self.tokens.len())
        else {
            self.ignored += 1;
            return;
        };
        self.tokens[id] = text;
        self.scores[id] = score;
        self.types[id] = kind;
    }

    fn add_from_files(&mut self, source: &Source<'_>) -> Result<(), TokenizerError> {
        for (id, text) in added_tokens_file(source)? {
            self.put(id, text, ADDED_SCORE, TokenType::UserDefined);
        }
        let is_phi3 = matches!(
            source.architecture(),
            "Phi3ForCausalLM" | "Phi4ForCausalLMV"
        );
        for (id, entry) in decoder_entries(source)? {
            let text = token_text(Some(entry)).unwrap_or_default();
            let special = entry
                .get("special")
                .and_then(Value::as_bool)
                .unwrap_or(false);
            self.put_added(u64::from(id), text, special, is_phi3);
        }
        if is_phi3 && let Some(json) = files::json::<TokenizerJson>(source.files, "tokenizer.json")?
        {
            for token in json.added_tokens {
                self.put_added(u64::from(token.id), &token.content, token.special, true);
            }
        }
        Ok(())
    }

    /// `verbatim` takes text and kind as the file has them, as the reference does for Phi 3.
    fn put_added(&mut self, id: u64, text: &str, special: bool, verbatim: bool) {
        let (text, kind) = match (special, verbatim) {
            (true, _) => (text.to_owned(), TokenType::Control),
            (false, true) => (text.to_owned(), TokenType::UserDefined),
            (false, false) if looks_special(text) => (text.to_owned(), TokenType::Control),
            (false, false) => (text.replace('▁', " "), TokenType::UserDefined),
        };
        self.put(id, text, ADDED_SCORE, kind);
    }
}

/// Tells llama.cpp that text begins without an extra space, where nothing has been said yet.
pub(super) fn deny_space_prefix(out: &mut GgufTokenizer) {
    if out.add_space_prefix().is_none() {
        out.set(Setting::AddSpacePrefix(false));
    }
}
