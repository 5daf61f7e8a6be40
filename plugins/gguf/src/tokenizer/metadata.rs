//! A tokenizer as GGUF describes it, free of any container.

use super::TokenizerError;
use super::value::{AddedAround, SpecialToken, TokenType, TokenizerValue};

/// More tokens than any model has; bounds what a damaged or hostile file can make us allocate.
pub const MAX_TOKENS: usize = 2 << 20;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
const CHAT_TEMPLATES: &str = "tokenizer.chat_templates";
const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";

/// The algorithm family (`tokenizer.ggml.model`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VocabKind {
    /// "gpt2": byte-level BPE with ranked merges.
    Bpe,
    /// "llama": SentencePiece BPE, pieces with scores.
    Spm,
    /// "gemma4": ranked merges over SentencePiece's spelling (`▁`, byte tokens).
    SpmBpe,
}

impl VocabKind {
    /// The value of `tokenizer.ggml.model`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bpe => "gpt2",
            Self::Spm => "llama",
            Self::SpmBpe => "gemma4",
        }
    }
}

/// Prompt templates: one without a name, and any number of named ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChatTemplates {
    /// The template used when none is asked for.
    pub default: Option<String>,
    /// `(name, template)`; names consist of ASCII letters, digits and `_`.
    pub named: Vec<(String, String)>,
}

/// One metadata entry besides the vocabulary itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// The token that has a role.
    SpecialId(SpecialToken, u32),
    /// Whether a token is put around every text.
    Add(AddedAround, bool),
    /// Whether text begins with an extra space.
    AddSpacePrefix(bool),
    /// Prompt templates.
    ChatTemplates(ChatTemplates),
    /// Whether text is lowercased first.
    Lowercase(bool),
    /// Whether accents are stripped first.
    StripAccents(bool),
}

impl Setting {
    /// Whether two settings occupy the same key.
    fn same_key(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SpecialId(a, _), Self::SpecialId(b, _)) => a == b,
            (Self::Add(a, _), Self::Add(b, _)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// A tokenizer in GGUF's terms.
///
/// Built by [`from_hf`](super::from_hf) or [`GgufTokenizer::from_metadata`]; written by
/// [`entries`](GgufTokenizer::entries) or [`to_hf`](super::to_hf).
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizer {
    /// The algorithm family.
    pub kind: VocabKind,
    /// llama.cpp's name for the rules that split text before BPE runs.
    pub pre: Option<String>,
    /// Token texts, indexed by id. Byte-level vocabularies spell bytes as GPT-2 does (`Ġ` for a
    /// space), SentencePiece ones write `▁` for a space.
    pub tokens: Vec<String>,
    /// Priority of each piece, indexed by id; higher merges first. SentencePiece only.
    pub scores: Option<Vec<f32>>,
    /// What each token is for, indexed by id.
    pub token_types: Vec<TokenType>,
    /// Merges as `"left right"`, best first. BPE only.
    pub merges: Vec<String>,
    /// Settings written in front of the vocabulary.
    pub leading: Vec<Setting>,
    /// Settings written after the vocabulary, in order. Use [`set`](GgufTokenizer::set) to add.
    pub settings: Vec<Setting>,
}

impl GgufTokenizer {
    /// A tokenizer without settings.
    pub(super) fn new(kind: VocabKind, tokens: Vec<String>, token_types: Vec<TokenType>) -> Self {
        Self {
            kind,
            pre: None,
            tokens,
            scores: None,
            token_types,
            merges: Vec::new(),
            leading: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Adds a setting, or replaces its value where it stands.
    pub fn set(&mut self, setting: Setting) {
        let old = self.leading.iter_mut().chain(&mut self.settings);
        match old.into_iter().find(|s| s.same_key(&setting)) {
            Some(slot) => *slot = setting,
            None => self.settings.push(setting),
        }
    }

    /// All settings, the leading ones first.
    pub fn all_settings(&self) -> impl Iterator<Item = &Setting> {
        self.leading.iter().chain(&self.settings)
    }

    /// The id of the token with a role, if one is set.
    #[must_use]
    pub fn special_id(&self, role: SpecialToken) -> Option<u32> {
        self.all_settings().find_map(|s| match s {
            Setting::SpecialId(r, id) if *r == role => Some(*id),
            _ => None,
        })
    }

    /// Whether a token is put around every text, if the file says so.
    #[must_use]
    pub fn adds(&self, what: AddedAround) -> Option<bool> {
        self.all_settings().find_map(|s| match s {
            Setting::Add(w, yes) if *w == what => Some(*yes),
            _ => None,
        })
    }

    /// Whether text begins with an extra space, if the file says so.
    #[must_use]
    pub fn add_space_prefix(&self) -> Option<bool> {
        self.all_settings().find_map(|s| match s {
            Setting::AddSpacePrefix(yes) => Some(*yes),
            _ => None,
        })
    }

    /// The prompt templates, if there are any.
    #[must_use]
    pub fn chat_templates(&self) -> Option<&ChatTemplates> {
        self.all_settings().find_map(|s| match s {
            Setting::ChatTemplates(templates) => Some(templates),
            _ => None,
        })
    }

    /// The metadata entries in the order in which llama.cpp's converter writes them.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, TokenizerValue)> {
        let mut out = Vec::new();
        for setting in &self.leading {
            push_setting(&mut out, setting);
        }
        self.push_vocabulary(&mut out);
        for setting in &self.settings {
            push_setting(&mut out, setting);
        }
        out
    }

    fn push_vocabulary(&self, out: &mut Vec<(String, TokenizerValue)>) {
        let mut push = |key: &str, value| out.push((key.to_owned(), value));
        push(MODEL, TokenizerValue::String(self.kind.as_str().to_owned()));
        if let Some(pre) = &self.pre {
            push(PRE, TokenizerValue::String(pre.clone()));
        }
        push(TOKENS, TokenizerValue::Strings(self.tokens.clone()));
        if let Some(scores) = &self.scores {
            push(SCORES, TokenizerValue::F32s(scores.clone()));
        }
        let types = self.token_types.iter().map(|t| t.code()).collect();
        push(TOKEN_TYPE, TokenizerValue::I32s(types));
        if !self.merges.is_empty() {
            push(MERGES, TokenizerValue::Strings(self.merges.clone()));
        }
    }

    /// Reads a tokenizer from metadata.
    ///
    /// `lookup` gives the value of a key; integers of any width should come as `U32`.
    ///
    /// # Errors
    /// When a key is absent, has the wrong type or the wrong length, when the vocabulary kind is
    /// not one of "gpt2", "llama" and "gemma4", and when two tokens have the same text.
    pub fn from_metadata(
        lookup: &dyn Fn(&str) -> Option<TokenizerValue>,
    ) -> Result<Self, TokenizerError> {
        Reader { lookup }.read()
    }
}

fn push_setting(out: &mut Vec<(String, TokenizerValue)>, setting: &Setting) {
    let mut push = |key: &str, value| out.push((key.to_owned(), value));
    match setting {
        Setting::SpecialId(role, id) => push(role.key(), TokenizerValue::U32(*id)),
        Setting::Add(what, yes) => push(what.key(), TokenizerValue::Bool(*yes)),
        Setting::AddSpacePrefix(yes) => push(ADD_SPACE_PREFIX, TokenizerValue::Bool(*yes)),
        Setting::Lowercase(yes) => push(LOWERCASE, TokenizerValue::Bool(*yes)),
        Setting::StripAccents(yes) => push(STRIP_ACCENTS, TokenizerValue::Bool(*yes)),
        Setting::ChatTemplates(templates) => {
            for (name, text) in &templates.named {
                let key = format!("{CHAT_TEMPLATE}.{name}");
                push(&key, TokenizerValue::String(text.clone()));
            }
            if !templates.named.is_empty() {
                let names = templates
                    .named
                    .iter()
                    .map(|(name, _)| name.clone())
                    .collect();
                push(CHAT_TEMPLATES, TokenizerValue::Strings(names));
            }
            if let Some(text) = &templates.default {
                push(CHAT_TEMPLATE, TokenizerValue::String(text.clone()));
            }
        }
    }
}

/// Typed access to a lookup closure.
struct Reader<'a> {
    lookup: &'a dyn Fn(&str) -> Option<TokenizerValue>,
}

impl Reader<'_> {
    fn read(&self) -> Result<GgufTokenizer, TokenizerError> {
        let kind = self.kind()?;
        let tokens = self
            .strings(TOKENS)?
            .ok_or_else(|| TokenizerError::metadata(TOKENS, "the file has no vocabulary"))?;
        check_count(TOKENS, tokens.len() as u64)?;
        let token_types = self.token_types(tokens.len())?;
        let mut out = GgufTokenizer::new(kind, tokens, token_types);
        out.pre = self.string(PRE)?;
        out.scores = self.scores(out.tokens.len())?;
        out.merges = self.strings(MERGES)?.unwrap_or_default();
        self.settings(&mut out)?;
        super::check_unique(&out.tokens)?;
        Ok(out)
    }

    fn kind(&self) -> Result<VocabKind, TokenizerError> {
        match self.string(MODEL)?.as_deref() {
            Some("gpt2") => Ok(VocabKind::Bpe),
            Some("llama") => Ok(VocabKind::Spm),
            Some("gemma4") => Ok(VocabKind::SpmBpe),
            Some(other) => Err(TokenizerError::UnsupportedKind {
                kind: other.to_owned(),
            }),
            None => Err(TokenizerError::metadata(MODEL, "the file has no tokenizer")),
        }
    }

    fn token_types(&self, n_tokens: usize) -> Result<Vec<TokenType>, TokenizerError> {
        match (self.lookup)(TOKEN_TYPE) {
            None => Ok(vec![TokenType::Normal; n_tokens]),
            Some(TokenizerValue::I32s(codes)) => {
                check_length(TOKEN_TYPE, codes.len(), n_tokens)?;
                Ok(codes
                    .into_iter()
                    .take(n_tokens)
                    .map(TokenType::from_code)
                    .collect())
            }
            Some(_) => Err(TokenizerError::metadata(
                TOKEN_TYPE,
                "not an array of int32",
            )),
        }
    }

    fn scores(&self, n_tokens: usize) -> Result<Option<Vec<f32>>, TokenizerError> {
        match (self.lookup)(SCORES) {
            None => Ok(None),
            Some(TokenizerValue::F32s(mut scores)) => {
                check_length(SCORES, scores.len(), n_tokens)?;
                scores.truncate(n_tokens);
                Ok(Some(scores))
            }
            Some(_) => Err(TokenizerError::metadata(SCORES, "not an array of float32")),
        }
    }

    fn settings(&self, out: &mut GgufTokenizer) -> Result<(), TokenizerError> {
        if let Some(yes) = self.flag(ADD_SPACE_PREFIX)? {
            out.set(Setting::AddSpacePrefix(yes));
        }
        for role in SpecialToken::ALL {
            if let Some(id) = self.id(role.key(), out.tokens.len())? {
                out.set(Setting::SpecialId(role, id));
            }
        }
        for what in AddedAround::ALL {
            if let Some(yes) = self.flag(what.key())? {
                out.set(Setting::Add(what, yes));
            }
        }
        if let Some(templates) = self.chat_templates()? {
            out.set(Setting::ChatTemplates(templates));
        }
        if let Some(yes) = self.flag(LOWERCASE)? {
            out.set(Setting::Lowercase(yes));
        }
        if let Some(yes) = self.flag(STRIP_ACCENTS)? {
            out.set(Setting::StripAccents(yes));
        }
        Ok(())
    }

    fn chat_templates(&self) -> Result<Option<ChatTemplates>, TokenizerError> {
        let default = self.string(CHAT_TEMPLATE)?;
        let mut named = Vec::new();
        for name in self.strings(CHAT_TEMPLATES)?.unwrap_or_default() {
            if let Some(text) = self.string(&format!("{CHAT_TEMPLATE}.{name}"))? {
                named.push((name, text));
            }
        }
        let any = default.is_some() || !named.is_empty();
        Ok(any.then_some(ChatTemplates { default, named }))
    }

    /// A token id; one outside the vocabulary counts as absent, as in llama.cpp (writers use -1).
    fn id(&self, key: &str, n_tokens: usize) -> Result<Option<u32>, TokenizerError> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(TokenizerValue::U32(id)) => Ok(Some(id).filter(|id| (*id as usize) < n_tokens)),
            Some(_) => Err(TokenizerError::metadata(key, "not an unsigned integer")),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, TokenizerError> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(TokenizerValue::Bool(yes)) => Ok(Some(yes)),
            Some(_) => Err(TokenizerError::metadata(key, "not a bool")),
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>, TokenizerError> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(TokenizerValue::String(text)) => Ok(Some(text)),
            Some(_) => Err(TokenizerError::metadata(key, "not a string")),
        }
    }

    fn strings(&self, key: &str) -> Result<Option<Vec<String>>, TokenizerError> {
        match (self.lookup)(key) {
            None => Ok(None),
            Some(TokenizerValue::Strings(list)) => Ok(Some(list)),
            Some(_) => Err(TokenizerError::metadata(key, "not an array of strings")),
        }
    }
}

fn check_length(key: &str, length: usize, n_tokens: usize) -> Result<(), TokenizerError> {
    if length < n_tokens {
        let what = format!("has {length} entries for {n_tokens} tokens");
        return Err(TokenizerError::metadata(key, what));
    }
    Ok(())
}

/// Refuses vocabulary sizes that no model has.
pub(super) fn check_count(what: &str, count: u64) -> Result<(), TokenizerError> {
    let limit = MAX_TOKENS as u64;
    if count > limit {
        return Err(TokenizerError::TooManyTokens {
            what: what.to_owned(),
            count,
            limit,
        });
    }
    Ok(())
}
