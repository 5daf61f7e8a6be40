//! From GGUF metadata to the files of a Hugging Face model.

mod added;
mod config;
mod merges;
mod model;
mod post_processor;
mod sentencepiece;
mod view;

use serde_json::{Value, json};

use self::view::View;
use super::TokenizerError;
use super::metadata::GgufTokenizer;

/// What the rest of the model says about its tokenizer.
#[derive(Debug, Clone, Copy, Default)]
pub struct ToHfOptions<'a> {
    /// `general.architecture`, which decides how some settings are spelled.
    pub architecture: Option<&'a str>,
    /// The longest text the model takes, in tokens.
    pub context_length: Option<u64>,
}

/// The files of a Hugging Face tokenizer.
#[derive(Debug)]
pub struct HfTokenizer {
    /// `(file name, content)`: tokenizer.json, tokenizer_config.json, special_tokens_map.json and,
    /// for SentencePiece vocabularies, tokenizer.model.
    pub files: Vec<(String, Vec<u8>)>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Writes a tokenizer as Hugging Face files.
///
/// transformers (4 and 5), vLLM and the `tokenizers` library read tokenizer.json; llama.cpp's
/// converter prefers the tokenizer.model that comes with SentencePiece vocabularies. config.json's
/// `vocab_size` must be the number of tokens: ids without a token are left out.
///
/// # Errors
/// When the rules behind `tokenizer.ggml.pre` are not known, or the vocabulary is inconsistent.
pub fn to_hf(
    tokenizer: &GgufTokenizer,
    options: ToHfOptions<'_>,
) -> Result<HfTokenizer, TokenizerError> {
    let view = View::new(tokenizer, options)?;
    let mut warnings = Vec::new();
    let model = model::model(&view, &mut warnings)?;
    let around = post_processor::build(&view);
    let tokenizer_json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added::added_tokens(&view),
        "normalizer": model.normalizer,
        "pre_tokenizer": model.pre_tokenizer,
        "post_processor": around.post_processor,
        "decoder": model.decoder,
        "model": model.model,
    });
    let mut files = vec![
        file("tokenizer.json", &tokenizer_json)?,
        file(
            "tokenizer_config.json",
            &config::tokenizer_config(&view, &around.flags),
        )?,
        file(
            "special_tokens_map.json",
            &Value::Object(config::special_tokens(&view)),
        )?,
    ];
    if let Some(bytes) = sentencepiece::model_file(&view) {
        files.push(("tokenizer.model".to_owned(), bytes));
    }
    Ok(HfTokenizer { files, warnings })
}

fn file(name: &str, content: &Value) -> Result<(String, Vec<u8>), TokenizerError> {
    let bytes = serde_json::to_vec_pretty(content).map_err(|source| TokenizerError::Json {
        file: name.to_owned(),
        source,
    })?;
    Ok((name.to_owned(), bytes))
}

#[cfg(test)]
mod tests;
