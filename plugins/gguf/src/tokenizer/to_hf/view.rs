//! A GGUF tokenizer with llama.cpp's defaults filled in.

use std::collections::HashMap;

use super::ToHfOptions;
use crate::tokenizer::from_hf::bpe::filler;
use crate::tokenizer::metadata::{GgufTokenizer, VocabKind};
use crate::tokenizer::pretokenizer::known::{self, KnownPre, Spelling};
use crate::tokenizer::value::{AddedAround, SpecialToken, TokenType};
use crate::tokenizer::{TokenizerError, check_unique};

/// Everything that the single files are made from.
pub(super) struct View<'a> {
    /// The tokenizer itself.
    pub tokenizer: &'a GgufTokenizer,
    /// What the rest of the model says.
    pub options: ToHfOptions<'a>,
    /// The splitting rules; SentencePiece vocabularies have none.
    pub known: Option<&'static KnownPre>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        tokenizer: &'a GgufTokenizer,
        options: ToHfOptions<'a>,
    ) -> Result<Self, TokenizerError> {
        check_unique(&tokenizer.tokens)?;
        // llama.cpp falls back on "default" for files from before there were names.
        let name = match tokenizer.kind {
            VocabKind::Spm => None,
            VocabKind::SpmBpe => Some("gemma4"),
            VocabKind::Bpe => Some(tokenizer.pre.as_deref().unwrap_or("default")),
        };
        let known = match name {
            None => None,
            Some(name) => {
                Some(
                    known::by_name(name).ok_or_else(|| TokenizerError::UnknownPreName {
                        name: name.to_owned(),
                    })?,
                )
            }
        };
        Ok(Self {
            tokenizer,
            options,
            known,
        })
    }

    /// How pieces are spelled.
    pub(super) fn spelling(&self) -> Spelling {
        self.known
            .map_or(Spelling::SentencePiece, |known| known.spelling)
    }

    /// The text of a token.
    pub(super) fn text(&self, id: u32) -> &'a str {
        self.tokenizer
            .tokens
            .get(id as usize)
            .map_or("", String::as_str)
    }

    /// What a token is for.
    pub(super) fn kind(&self, id: u32) -> TokenType {
        self.tokenizer
            .token_types
            .get(id as usize)
            .copied()
            .unwrap_or(TokenType::Normal)
    }

    /// The token with a role. SentencePiece vocabularies have defaults in llama.cpp.
    pub(super) fn role(&self, role: SpecialToken) -> Option<u32> {
        let default = match (self.tokenizer.kind, role) {
            (VocabKind::Spm, SpecialToken::Unk) => Some(0),
            (VocabKind::Spm, SpecialToken::Bos) => Some(1),
            (VocabKind::Spm, SpecialToken::Eos) => Some(2),
            _ => None,
        };
        let is_special = |id: &u32| {
            (*id as usize) < self.tokenizer.tokens.len()
                && matches!(self.kind(*id), TokenType::Control | TokenType::Unknown)
        };
        self.tokenizer
            .special_id(role)
            .or(default.filter(is_special))
    }

    /// The unknown token: the one of that type, else the one with that role.
    pub(super) fn unknown(&self) -> Option<u32> {
        let typed = self
            .tokenizer
            .token_types
            .iter()
            .position(|t| *t == TokenType::Unknown);
        typed
            .and_then(|id| u32::try_from(id).ok())
            .or_else(|| self.role(SpecialToken::Unk))
    }

    /// A flag as the file has it, without what llama.cpp's converter sets on its own: it denies
    /// BOS to every Llama with 49152 tokens.
    pub(super) fn adds(&self, what: AddedAround) -> Option<bool> {
        let implied =
            what == AddedAround::Bos && self.is_llama() && self.tokenizer.tokens.len() == 49152;
        self.tokenizer.adds(what).filter(|yes| *yes || !implied)
    }

    /// Whether BOS is put in front of text, llama.cpp's default included.
    pub(super) fn begins_with_bos(&self) -> bool {
        let default = match self.known {
            None => true,
            Some(known) => known.adds_bos,
        };
        self.tokenizer.adds(AddedAround::Bos).unwrap_or(default)
    }

    /// Whether text begins with an extra space.
    pub(super) fn begins_with_space(&self) -> bool {
        self.tokenizer.kind == VocabKind::Spm && self.tokenizer.add_space_prefix().unwrap_or(true)
    }

    /// Whether the model is a plain Llama.
    pub(super) fn is_llama(&self) -> bool {
        self.options.architecture == Some("llama")
    }

    /// Ids and texts that belong into the vocabulary: all but fillers without a role.
    pub(super) fn vocabulary(&self) -> impl Iterator<Item = (u32, &'a str)> + '_ {
        let roles: Vec<u32> = SpecialToken::ALL
            .iter()
            .filter_map(|r| self.role(*r))
            .collect();
        let ids = 0..self.tokenizer.tokens.len() as u32;
        ids.map(|id| (id, self.text(id))).filter(move |(id, text)| {
            let is_filler = self.kind(*id) == TokenType::Unused && *text == filler(*id as usize);
            !text.is_empty() && (!is_filler || roles.contains(id))
        })
    }

    /// Ids by text of what [`vocabulary`](View::vocabulary) gives.
    pub(super) fn ids(&self) -> HashMap<&'a str, u32> {
        self.vocabulary().map(|(id, text)| (text, id)).collect()
    }
}
