//! tokenizer.model, for SentencePiece vocabularies.

use prost::Message;

use super::view::View;
use crate::tokenizer::from_hf::proto::{ModelProto, NormalizerSpec, Piece, PieceType, TrainerSpec};
use crate::tokenizer::metadata::VocabKind;
use crate::tokenizer::value::{SpecialToken, TokenType};

/// `model_type` of models that merge pairs.
const BPE: i32 = 2;

/// The file, if the vocabulary can be one: it needs scores, exactly one unknown piece and no empty
/// ones.
pub(super) fn model_file(view: &View<'_>) -> Option<Vec<u8>> {
    let tokenizer = view.tokenizer;
    let scores = tokenizer
        .scores
        .as_deref()
        .filter(|_| tokenizer.kind == VocabKind::Spm)?;
    let unknown = view.unknown()?;
    let several = tokenizer
        .token_types
        .iter()
        .filter(|t| **t == TokenType::Unknown)
        .count()
        > 1;
    if several || tokenizer.tokens.iter().any(String::is_empty) {
        return None;
    }
    let ids = 0..u32::try_from(tokenizer.tokens.len()).ok()?;
    let pieces = ids.zip(scores).map(|(id, score)| Piece {
        piece: Some(view.text(id).to_owned()),
        score: Some(*score),
        kind: Some(piece_type(view, id, unknown) as i32),
    });
    let model = ModelProto {
        pieces: pieces.collect(),
        trainer_spec: Some(trainer_spec(view, unknown)),
        normalizer_spec: Some(NormalizerSpec {
            name: Some("identity".to_owned()),
            add_dummy_prefix: Some(view.begins_with_space()),
            remove_extra_whitespaces: Some(false),
            escape_whitespaces: Some(true),
        }),
    };
    Some(model.encode_to_vec())
}

fn piece_type(view: &View<'_>, id: u32, unknown: u32) -> PieceType {
    match view.kind(id) {
        _ if id == unknown => PieceType::Unknown,
        TokenType::Unknown => PieceType::Unknown,
        TokenType::Normal => PieceType::Normal,
        TokenType::Control => PieceType::Control,
        TokenType::UserDefined => PieceType::UserDefined,
        TokenType::Unused => PieceType::Unused,
        TokenType::Byte => PieceType::Byte,
    }
}

fn trainer_spec(view: &View<'_>, unknown: u32) -> TrainerSpec {
    let id = |role| view.role(role).and_then(|id| i32::try_from(id).ok());
    let text = |role| view.role(role).map(|id| view.text(id).to_owned());
    TrainerSpec {
        model_type: Some(BPE),
        vocab_size: i32::try_from(view.tokenizer.tokens.len()).ok(),
        byte_fallback: Some(view.tokenizer.token_types.contains(&TokenType::Byte)),
        unk_id: i32::try_from(unknown).ok(),
        bos_id: Some(id(SpecialToken::Bos).unwrap_or(-1)),
        eos_id: Some(id(SpecialToken::Eos).unwrap_or(-1)),
        pad_id: Some(id(SpecialToken::Pad).unwrap_or(-1)),
        unk_piece: Some(view.text(unknown).to_owned()),
        bos_piece: text(SpecialToken::Bos),
        eos_piece: text(SpecialToken::Eos),
    }
}
