//! From the files of a Hugging Face model to GGUF metadata.

mod added_tokens;
pub(super) mod bpe;
mod chat_template;
mod components;
mod llama_bpe;
mod looks;
mod post_processor;
pub(super) mod proto;
mod sentencepiece;
mod slow;
mod source;
mod special_tokens;

use serde_json::Value;

use self::source::Source;
use super::TokenizerError;
use super::files::{self, FileSet};
use super::metadata::{GgufTokenizer, Setting, VocabKind};
use super::tokenizer_json::TokenizerJson;
use super::value::{AddedAround, SpecialToken};

/// A converted tokenizer.
#[derive(Debug)]
pub struct FromHf {
    /// The tokenizer in GGUF's terms.
    pub tokenizer: GgufTokenizer,
    /// What the user should know: things left out, oddities.
    pub warnings: Vec<String>,
}

/// Converts the tokenizer of a Hugging Face model folder.
///
/// The result is what llama.cpp's `convert_hf_to_gguf.py` writes, with three deliberate
/// differences: tokenizers whose fingerprint is unknown are recognised by their rules, Llama
/// vocabularies without tokenizer.model get real scores, and BOS and EOS are also looked for in
/// special_tokens_map.json and generation_config.json.
///
/// # Errors
/// When no tokenizer is found, a file is malformed, the tokenizer is neither byte-level BPE nor
/// SentencePiece, or llama.cpp has no rules that split text as it does.
pub fn from_hf(files: &dyn FileSet) -> Result<FromHf, TokenizerError> {
    let mut source = Source::load(files)?;
    let (mut out, json) = vocabulary(&mut source)?;
    leading_space_prefix(&source, &mut out);
    special_tokens::apply(&mut source, json.as_ref(), &mut out)?;
    if let Some(templates) = chat_template::read(&mut source)? {
        out.set(Setting::ChatTemplates(templates));
    }
    if let Some(json) = &json {
        special_tokens::apply_normalizer(json, &mut out);
    }
    finish(&source, json.as_ref(), &mut out)?;
    Ok(FromHf {
        tokenizer: out,
        warnings: source.warnings,
    })
}

/// The vocabulary, and tokenizer.json if there is one.
fn vocabulary(
    source: &mut Source<'_>,
) -> Result<(GgufTokenizer, Option<TokenizerJson>), TokenizerError> {
    let has_json = source.has("tokenizer.json");
    if prefers_sentencepiece(source) {
        match sentencepiece::read_model(source) {
            Ok(Some(model)) => {
                let json = files::json(source.files, "tokenizer.json")?;
                return Ok((sentencepiece::convert(source, &model)?, json));
            }
            Ok(None) => {}
            // Some models ship another format (tiktoken) under this name.
            Err(error) if has_json => source.warn(format!("{error}; using tokenizer.json")),
            Err(error) => return Err(error),
        }
    }
    let loaded = bpe::load(source)?;
    let out = if !llama_bpe::is_llama_bpe(&loaded.json) {
        bpe::convert(source, &loaded)?
    } else if is_gemma4(source) {
        llama_bpe::convert_gemma4(source, &loaded)?
    } else {
        llama_bpe::convert(source, &loaded)?
    };
    Ok((out, has_json.then_some(loaded.json)))
}

/// Phi 4 ships a SentencePiece file of an older model beside its byte-level tokenizer.
fn prefers_sentencepiece(source: &Source<'_>) -> bool {
    let class = source
        .tokenizer_config
        .get("tokenizer_class")
        .and_then(Value::as_str);
    let is_phi = source.architecture().starts_with("Phi");
    !(is_gemma4(source) || is_phi && class == Some("GPT2Tokenizer"))
}

fn is_gemma4(source: &Source<'_>) -> bool {
    source.architecture().starts_with("Gemma4")
}

/// Llama models may say whether text begins with a space; llama.cpp's converter writes that first.
fn leading_space_prefix(source: &Source<'_>, out: &mut GgufTokenizer) {
    let said = source
        .tokenizer_config
        .get("add_prefix_space")
        .and_then(Value::as_bool);
    if let Some(yes) = said.filter(|_| source.is_llama()) {
        out.leading.push(Setting::AddSpacePrefix(yes));
    }
}

/// Settings that belong to one family of models.
fn finish(
    source: &Source<'_>,
    json: Option<&TokenizerJson>,
    out: &mut GgufTokenizer,
) -> Result<(), TokenizerError> {
    let vocab_size = source.vocab_size()?;
    if out.kind == VocabKind::SpmBpe {
        llama_bpe::finish_gemma4(out);
    }
    // Code Llama's end of infilling.
    let is_llama = source.is_llama();
    if is_llama && vocab_size == Some(32016) && out.special_id(SpecialToken::Eot).is_none() {
        out.set(Setting::SpecialId(SpecialToken::Eot, 32010));
    }
    // Granite's small models, and whatever else has that many tokens.
    if is_llama && vocab_size == Some(49152) {
        out.set(Setting::Add(AddedAround::Bos, false));
    }
    if source.architecture() == "GemmaForCausalLM" && out.tokens.len() > 107 {
        out.set(Setting::SpecialId(SpecialToken::Eot, 107));
    }
    if out.kind == VocabKind::Spm && begins_without_space(source, json)? {
        sentencepiece::deny_space_prefix(out);
    }
    Ok(())
}

/// Whether a SentencePiece tokenizer has text begin without an extra space.
fn begins_without_space(
    source: &Source<'_>,
    json: Option<&TokenizerJson>,
) -> Result<bool, TokenizerError> {
    if source.architecture().starts_with("Gemma") {
        return Ok(true);
    }
    match sentencepiece::read_model(source) {
        Ok(Some(model)) => Ok(sentencepiece::lacks_space_prefix(&model)),
        _ => Ok(json.is_some_and(|json| !llama_bpe::adds_space_prefix(json))),
    }
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
