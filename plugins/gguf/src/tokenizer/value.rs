//! The small vocabulary of types that tokenizer metadata is made of.

/// A value of a `tokenizer.*` key, independent of any container implementation.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerValue {
    /// GGUF `UINT32`: token ids.
    U32(u32),
    /// GGUF `BOOL`: flags.
    Bool(bool),
    /// GGUF `STRING`.
    String(String),
    /// GGUF array of `STRING`: tokens, merges, names of chat templates.
    Strings(Vec<String>),
    /// GGUF array of `FLOAT32`: scores.
    F32s(Vec<f32>),
    /// GGUF array of `INT32`: token types.
    I32s(Vec<i32>),
}

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum TokenType {
    /// An ordinary piece of text.
    Normal = 1,
    /// Stands for text that no other token covers.
    Unknown = 2,
    /// Steers the model; never shown and never matched in plain text.
    Control = 3,
    /// Added by hand: matched in the text before the tokenizer's algorithm runs.
    UserDefined = 4,
    /// A hole in the numbering.
    Unused = 5,
    /// One byte, written `<0xNN>`.
    Byte = 6,
}

impl TokenType {
    /// Reads the number that GGUF stores. Numbers without a meaning count as ordinary text, as in
    /// llama.cpp.
    #[must_use]
    pub fn from_code(code: i32) -> Self {
        match code {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// The number that GGUF stores.
    #[must_use]
    pub fn code(self) -> i32 {
        self as i32
    }
}

/// A role that one token of the vocabulary can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SpecialToken {
    /// Begins a sequence.
    Bos,
    /// Ends a sequence.
    Eos,
    /// Stands for unknown text.
    Unk,
    /// Separates two sequences.
    Sep,
    /// Fills a batch.
    Pad,
    /// Hides a token in masked language modelling.
    Mask,
    /// Ends a turn of a conversation.
    Eot,
    /// Ends a message, the turn goes on.
    Eom,
}

impl SpecialToken {
    /// The roles in the order in which they are looked up, `Eot` and `Eom` last.
    pub const ALL: [Self; 8] = [
        Self::Bos,
        Self::Eos,
        Self::Unk,
        Self::Sep,
        Self::Pad,
        Self::Mask,
        Self::Eot,
        Self::Eom,
    ];

    /// Hugging Face's name for the role: `bos` of `bos_token` and `bos_token_id`.
    #[must_use]
    pub fn hf_name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Unk => "unk",
            Self::Sep => "sep",
            Self::Pad => "pad",
            Self::Mask => "mask",
            Self::Eot => "eot",
            Self::Eom => "eom",
        }
    }

    /// The GGUF key that holds the token's id. "seperator" is how the format spells it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Bos => "tokenizer.ggml.bos_token_id",
            Self::Eos => "tokenizer.ggml.eos_token_id",
            Self::Unk => "tokenizer.ggml.unknown_token_id",
            Self::Sep => "tokenizer.ggml.seperator_token_id",
            Self::Pad => "tokenizer.ggml.padding_token_id",
            Self::Mask => "tokenizer.ggml.mask_token_id",
            Self::Eot => "tokenizer.ggml.eot_token_id",
            Self::Eom => "tokenizer.ggml.eom_token_id",
        }
    }
}

/// A token that the tokenizer may put around every text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddedAround {
    /// `bos` in front.
    Bos,
    /// `eos` at the end.
    Eos,
    /// `sep` between two texts.
    Sep,
}

impl AddedAround {
    /// All of them, in the order in which they are looked up.
    pub const ALL: [Self; 3] = [Self::Bos, Self::Eos, Self::Sep];

    /// The GGUF key of the flag.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Bos => "tokenizer.ggml.add_bos_token",
            Self::Eos => "tokenizer.ggml.add_eos_token",
            Self::Sep => "tokenizer.ggml.add_sep_token",
        }
    }

    /// The key of the flag in tokenizer_config.json.
    #[must_use]
    pub fn hf_key(self) -> &'static str {
        match self {
            Self::Bos => "add_bos_token",
            Self::Eos => "add_eos_token",
            Self::Sep => "add_sep_token",
        }
    }
}
