//! A model's own tokenizer, run by the `tokenizers` crate.

use std::panic::{AssertUnwindSafe, catch_unwind};

use llm_quantize_plugin_api::{Inputs, json};
use serde_json::Value;

use super::seams::{self, Sizes, Token};
use crate::error::{Error, Result};
use crate::source::SourceModel;

/// The file that the crate reads.
const FILE: &str = "tokenizer.json";
/// The file with the names of special tokens.
const SETTINGS: &str = "tokenizer_config.json";

/// Turns text into a model's tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: Vec<u32>,
    end_of_text: Option<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("start", &self.start)
            .field("end_of_text", &self.end_of_text)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of a model: its tokenizer.json, and the special tokens that
    /// tokenizer_config.json names. Models in other formats must be open in the
    /// [Hugging Face view](llm_quantize_plugin_api::ModelView::HuggingFace).
    ///
    /// # Errors
    /// [`Validation`](crate::ExitCode::Validation) if there is no tokenizer.json or the
    /// `tokenizers` crate cannot use it.
    pub fn of(model: &SourceModel) -> Result<Self> {
        let bytes = model.file(FILE)?.ok_or_else(|| missing(model))?;
        Self::from_files(bytes, model.file(SETTINGS)?)
    }

    /// A tokenizer from the content of tokenizer.json and, if there is one,
    /// tokenizer_config.json.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn from_files(tokenizer: &[u8], settings: Option<&[u8]>) -> Result<Self> {
        let settings = match settings {
            Some(bytes) => json::from_slice(bytes)
                .map_err(|error| Error::validation(format!("{SETTINGS}: {error}")))?,
            None => Value::Null,
        };
        let mut inner = guarded(|| tokenizers::Tokenizer::from_bytes(tokenizer))?;
        // They are for batches of short texts.
        inner.with_padding(None);
        guarded(|| inner.with_truncation(None).map(drop))?;
        let end_of_text = special(&inner, &settings, "eos_token");
        let mut found = Self {
            inner,
            start: Vec::new(),
            end_of_text,
        };
        found.start = found.find_start(&settings)?;
        Ok(found)
    }

    /// The tokens that the tokenizer itself puts before every text, such as the `<s>` of Llama
    /// and Mistral; many have none.
    pub fn start(&self) -> &[u32] {
        &self.start
    }

    /// The token that ends a document, if tokenizer_config.json names one (`eos_token`).
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// The tokens of a text, without those that the tokenizer adds around it. Names of special
    /// tokens in the text become these tokens.
    ///
    /// # Errors
    /// [`Validation`](crate::ExitCode::Validation) if the `tokenizers` crate fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_until(text, usize::MAX)
    }

    /// At least the first `needed` tokens of a text, or all if there are fewer.
    pub(super) fn encode_until(&self, text: &str, needed: usize) -> Result<Vec<u32>> {
        self.in_pieces(text, needed, Sizes::default())
    }

    pub(super) fn in_pieces(&self, text: &str, needed: usize, sizes: Sizes) -> Result<Vec<u32>> {
        seams::tokens(text, needed, sizes, |piece| {
            let encoding = guarded(|| self.inner.encode(piece, false))?;
            let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
            let tokens = tokens.map(|(&id, &(start, end))| Token { id, start, end });
            Ok(tokens.collect())
        })
    }

    fn short(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = guarded(|| self.inner.encode_fast(text, special))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// What comes before a text's own tokens. Where tokenizer.json has nothing of the kind,
    /// `add_bos_token` in tokenizer_config.json counts too: transformers does so for models
    /// of DeepSeek, among others.
    fn find_start(&self, settings: &Value) -> Result<Vec<u32>> {
        let (plain, all) = (self.short("text", false)?, self.short("text", true)?);
        let found = all.windows(plain.len().max(1)).position(|ids| ids == plain);
        let start = &all[..found.unwrap_or(0)];
        if start.is_empty() && settings.get("add_bos_token") == Some(&Value::Bool(true)) {
            let bos = special(&self.inner, settings, "bos_token");
            return Ok(bos.into_iter().collect());
        }
        Ok(start.to_vec())
    }
}

/// A special token of tokenizer_config.json, a string or an object with `content`; `None` if it
/// is not named or the tokenizer does not know it.
fn special(tokenizer: &tokenizers::Tokenizer, settings: &Value, name: &str) -> Option<u32> {
    let token = settings.get(name)?;
    let content = token.as_str().or_else(|| token.get("content")?.as_str())?;
    tokenizer.token_to_id(content)
}

/// The crate takes much of a tokenizer.json for granted and panics where it is not so.
fn guarded<T>(body: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let result = catch_unwind(AssertUnwindSafe(body));
    let result = result.unwrap_or_else(|_| Err("the library that reads it panicked".into()));
    result.map_err(|error| {
        Error::validation(format!("{FILE} cannot be used: {error}"))
            .suggest("get the tokenizer's files again from where the model came from")
    })
}

fn missing(model: &SourceModel) -> Error {
    Error::validation(format!(
        "{} has no {FILE}, which running the model on text needs",
        model.path().display()
    ))
    .suggest(
        "add the file, from the model's page or made with transformers: \
         `AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)`",
    )
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
