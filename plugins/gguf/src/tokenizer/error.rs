//! What can go wrong while a tokenizer is converted.

use super::pretokenizer::Unrecognised;

/// A tokenizer that cannot be converted, and why.
///
/// Every message names the file or metadata key at fault and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The model folder holds no tokenizer in a known form.
    #[error(
        "no tokenizer found: the model folder needs tokenizer.json, tokenizer.model, or both vocab.json and merges.txt"
    )]
    Missing,

    /// A file is not the JSON it should be.
    #[error("{file} cannot be parsed: {source}")]
    Json {
        /// File name inside the model folder.
        file: String,
        /// What the parser says, with line and column.
        source: serde_json::Error,
    },

    /// A file is larger than any real tokenizer.
    #[error("{file} has {size} bytes, more than the {limit} that a tokenizer file may have")]
    FileTooLarge {
        /// File name inside the model folder.
        file: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },

    /// A file is well-formed but does not say what it should.
    #[error("{file}: {what}")]
    Malformed {
        /// File name inside the model folder.
        file: String,
        /// What is wrong with it.
        what: String,
    },

    /// tokenizer.model is not a SentencePiece model.
    #[error("tokenizer.model is not a SentencePiece model: {0}")]
    SentencePiece(#[from] prost::DecodeError),

    /// The vocabulary is larger than any real one.
    #[error("{what} says {count} tokens; at most {limit} are supported")]
    TooManyTokens {
        /// File or key that gives the count.
        what: String,
        /// The count.
        count: u64,
        /// The limit.
        limit: u64,
    },

    /// A token's id lies outside the embedding table.
    #[error(
        "token {token:?} has id {id}, but config.json gives vocab_size {vocab_size}: the tokenizer and the model do not belong together"
    )]
    IdOutOfRange {
        /// The token's text.
        token: String,
        /// Its id.
        id: u32,
        /// `vocab_size` from config.json.
        vocab_size: usize,
    },

    /// Two texts have one id, so that it means neither.
    #[error("{file}: {first:?} and {second:?} both have the id {id}; only one token can")]
    SharedId {
        /// File name inside the model folder.
        file: String,
        /// The id.
        id: u32,
        /// The one text.
        first: String,
        /// The other text.
        second: String,
    },

    /// The tokenizer's algorithm has no counterpart in llama.cpp's "gpt2" and "llama" vocabularies.
    #[error(
        "tokenizers of kind {kind:?} are not supported: byte-level BPE and SentencePiece BPE are"
    )]
    UnsupportedKind {
        /// `model.type` of tokenizer.json or `tokenizer.ggml.model`.
        kind: String,
    },

    /// llama.cpp has no pre-tokenizer that splits text as this tokenizer does.
    #[error("{0}")]
    UnknownPreTokenizer(Box<Unrecognised>),

    /// A GGUF file names a pre-tokenizer whose rules are not known here.
    #[error(
        "tokenizer.ggml.pre is {name:?}, which is not a known pre-tokenizer: copy the tokenizer files of the original model instead"
    )]
    UnknownPreName {
        /// Value of `tokenizer.ggml.pre`.
        name: String,
    },

    /// A metadata key is absent or holds the wrong thing.
    #[error("{key}: {what}")]
    Metadata {
        /// The GGUF key.
        key: String,
        /// What is wrong with it.
        what: String,
    },

    /// Two ids have the same text, which neither llama.cpp nor tokenizer.json can express.
    #[error("tokens {first} and {second} are both {text:?}")]
    DuplicateToken {
        /// The text.
        text: String,
        /// The lower id.
        first: usize,
        /// The higher id.
        second: usize,
    },
}

impl TokenizerError {
    /// Whether the files are damaged or contradict themselves; if not, they are of a kind that is
    /// not supported.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Json { .. }
            | Self::FileTooLarge { .. }
            | Self::Malformed { .. }
            | Self::SentencePiece(_)
            | Self::TooManyTokens { .. }
            | Self::IdOutOfRange { .. }
            | Self::SharedId { .. }
            | Self::Metadata { .. }
            | Self::DuplicateToken { .. } => true,
            Self::Missing
            | Self::UnsupportedKind { .. }
            | Self::UnknownPreTokenizer(_)
            | Self::UnknownPreName { .. } => false,
        }
    }

    /// A well-formed file with a wrong content.
    pub(super) fn malformed(file: &str, what: impl Into<String>) -> Self {
        Self::Malformed {
            file: file.to_owned(),
            what: what.into(),
        }
    }

    /// A metadata key with a wrong content.
    pub(super) fn metadata(key: &str, what: impl Into<String>) -> Self {
        Self::Metadata {
            key: key.to_owned(),
            what: what.into(),
        }
    }
}
