//! The part of SentencePiece's model file that matters here.
//!
//! Field numbers are those of `sentencepiece_model.proto`; unknown fields are skipped.

/// A tokenizer.model file.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct ModelProto {
    /// Pieces, indexed by id.
    #[prost(message, repeated, tag = "1")]
    pub pieces: Vec<Piece>,
    /// How the model was trained.
    #[prost(message, optional, tag = "2")]
    pub trainer_spec: Option<TrainerSpec>,
    /// What happens to text first.
    #[prost(message, optional, tag = "3")]
    pub normalizer_spec: Option<NormalizerSpec>,
}

/// One entry of the vocabulary.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct Piece {
    /// Its text, `▁` for a space.
    #[prost(string, optional, tag = "1")]
    pub piece: Option<String>,
    /// Its priority.
    #[prost(float, optional, tag = "2")]
    pub score: Option<f32>,
    /// What it is for.
    #[prost(enumeration = "PieceType", optional, tag = "3")]
    pub kind: Option<i32>,
}

/// What a piece is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(in crate::tokenizer) enum PieceType {
    /// Ordinary text. Also what is meant when the field is absent.
    Normal = 1,
    /// Unknown text.
    Unknown = 2,
    /// A control token.
    Control = 3,
    /// Added by hand.
    UserDefined = 4,
    /// Not used.
    Unused = 5,
    /// One byte.
    Byte = 6,
}

/// How the model was trained.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct TrainerSpec {
    /// 1 unigram, 2 BPE, 3 words, 4 characters.
    #[prost(int32, optional, tag = "3")]
    pub model_type: Option<i32>,
    /// Number of pieces.
    #[prost(int32, optional, tag = "4")]
    pub vocab_size: Option<i32>,
    /// Whether unknown characters become byte pieces.
    #[prost(bool, optional, tag = "35")]
    pub byte_fallback: Option<bool>,
    /// Id of the unknown piece.
    #[prost(int32, optional, tag = "40")]
    pub unk_id: Option<i32>,
    /// Id of the piece that begins a text, or -1.
    #[prost(int32, optional, tag = "41")]
    pub bos_id: Option<i32>,
    /// Id of the piece that ends a text, or -1.
    #[prost(int32, optional, tag = "42")]
    pub eos_id: Option<i32>,
    /// Id of the padding piece, or -1.
    #[prost(int32, optional, tag = "43")]
    pub pad_id: Option<i32>,
    /// Text of the unknown piece.
    #[prost(string, optional, tag = "45")]
    pub unk_piece: Option<String>,
    /// Text of the piece that begins a text.
    #[prost(string, optional, tag = "46")]
    pub bos_piece: Option<String>,
    /// Text of the piece that ends a text.
    #[prost(string, optional, tag = "47")]
    pub eos_piece: Option<String>,
}

/// What happens to text first.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::tokenizer) struct NormalizerSpec {
    /// Name of the rule set.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// Whether text begins with an extra space.
    #[prost(bool, optional, tag = "3")]
    pub add_dummy_prefix: Option<bool>,
    /// Whether runs of spaces become one.
    #[prost(bool, optional, tag = "4")]
    pub remove_extra_whitespaces: Option<bool>,
    /// Whether spaces are written `▁`.
    #[prost(bool, optional, tag = "5")]
    pub escape_whitespaces: Option<bool>,
}
