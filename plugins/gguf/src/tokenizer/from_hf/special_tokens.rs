//! Which token has which role, and which are put around a text.
//!
//! Follows `gguf.SpecialVocab`: roles by text from tokenizer_config.json, then by id from
//! config.json; flags from the post-processor, then from tokenizer_config.json.

use serde_json::Value;

use super::post_processor::{self, Flags};
use super::source::{Source, token_text};
use crate::tokenizer::TokenizerError;
use crate::tokenizer::files;
use crate::tokenizer::metadata::{GgufTokenizer, Setting};
use crate::tokenizer::tokenizer_json::{TokenizerJson, flatten, kind_of};
use crate::tokenizer::value::{AddedAround, SpecialToken};

/// Texts of the tokens with a role; what a post-processor reveals is filled in.
#[derive(Debug, Default)]
pub(super) struct Roles {
    /// Begins a text.
    pub bos: Option<String>,
    /// Ends a text.
    pub eos: Option<String>,
    /// Separates texts.
    pub sep: Option<String>,
    /// BERT's name for what begins a text.
    pub cls: Option<String>,
    /// Ends a turn: the former EOS, where the post-processor ends texts with another token.
    pub eot: Option<String>,
}

/// Adds roles, flags and normalizer settings to a converted vocabulary.
pub(super) fn apply(
    source: &mut Source<'_>,
    json: Option<&TokenizerJson>,
    out: &mut GgufTokenizer,
) -> Result<(), TokenizerError> {
    let mut roles = Roles::read(source);
    let mut flags = Flags::default();
    if let Some(post_processor) = json.and_then(|json| json.post_processor.as_ref()) {
        post_processor::read(post_processor, &mut roles, &mut flags);
    }
    for what in AddedAround::ALL {
        if let Some(yes) = source
            .tokenizer_config
            .get(what.hf_key())
            .and_then(Value::as_bool)
        {
            flags.set_default(what, yes);
        }
    }
    set_ids_by_text(source, &roles, json, out);
    set_ids_from_config(source, out);
    set_missing_ids(source, out)?;
    for (what, yes) in flags.list {
        out.set(Setting::Add(what, yes));
    }
    Ok(())
}

impl Roles {
    fn read(source: &Source<'_>) -> Self {
        let text = |key| token_text(source.tokenizer_config.get(key)).map(str::to_owned);
        let (cls, sep) = (text("cls_token"), text("sep_token"));
        Self {
            bos: text("bos_token").or_else(|| cls.clone()),
            eos: text("eos_token").or_else(|| sep.clone()),
            sep,
            cls,
            eot: None,
        }
    }
}

/// Roles whose text is an added token of tokenizer.json.
fn set_ids_by_text(
    source: &mut Source<'_>,
    roles: &Roles,
    json: Option<&TokenizerJson>,
    out: &mut GgufTokenizer,
) {
    let added = json.map_or(&[][..], |json| json.added_tokens.as_slice());
    for role in SpecialToken::ALL {
        let text = match role {
            SpecialToken::Bos => roles.bos.as_deref(),
            SpecialToken::Eos => roles.eos.as_deref(),
            SpecialToken::Sep => roles.sep.as_deref(),
            SpecialToken::Eot => roles.eot.as_deref(),
            SpecialToken::Eom => None,
            _ => token_text(
                source
                    .tokenizer_config
                    .get(&format!("{}_token", role.hf_name())),
            ),
        };
        let id = text
            .and_then(|text| added.iter().find(|t| t.content == text))
            .map(|t| t.id);
        if let Some(id) = id {
            set_id(&mut source.warnings, out, role, i64::from(id));
        }
    }
}

/// `bos_token_id` and its like in config.json, for roles that are still open.
fn set_ids_from_config(source: &mut Source<'_>, out: &mut GgufTokenizer) {
    for role in SpecialToken::ALL {
        let has_eot = out.special_id(SpecialToken::Eot).is_some();
        // The reference looks at end-of-turn tokens only when it has found one.
        if matches!(role, SpecialToken::Eot | SpecialToken::Eom) && !has_eot {
            continue;
        }
        let key = format!("{}_token_id", role.hf_name());
        let id = source.config.get(&key).filter(|id| !id.is_null());
        let id = id.or_else(|| {
            source
                .config
                .get("text_config")
                .and_then(|text| text.get(&key))
        });
        if let Some(id) = id.and_then(Value::as_i64) {
            set_id(&mut source.warnings, out, role, id);
        }
    }
}

/// BOS and EOS where the reference finds none, although the model has them: llama.cpp would take
/// ids of other models instead.
fn set_missing_ids(source: &mut Source<'_>, out: &mut GgufTokenizer) -> Result<(), TokenizerError> {
    let generation = files::object(source.files, "generation_config.json")?.unwrap_or_default();
    for role in [SpecialToken::Bos, SpecialToken::Eos] {
        if out.special_id(role).is_some() {
            continue;
        }
        let key = format!("{}_token", role.hf_name());
        let text = token_text(source.tokenizer_config.get(&key))
            .or_else(|| token_text(source.special_tokens_map.get(&key)));
        let by_text = text.and_then(|text| out.tokens.iter().position(|token| token == text));
        let ids = generation.get(&format!("{key}_id"));
        let first = ids.and_then(|ids| ids.as_i64().or_else(|| ids.get(0)?.as_i64()));
        if let Some(id) = by_text.and_then(|id| i64::try_from(id).ok()).or(first) {
            set_id(&mut source.warnings, out, role, id);
        }
    }
    Ok(())
}

/// Sets a role that is still open.
fn set_id(warnings: &mut Vec<String>, out: &mut GgufTokenizer, role: SpecialToken, id: i64) {
    if out.special_id(role).is_some() {
        return;
    }
    match u32::try_from(id) {
        Ok(id) if (id as usize) < out.tokens.len() => out.set(Setting::SpecialId(role, id)),
        _ => warnings.push(format!(
            "the {} token has id {id}, outside the vocabulary: left out",
            role.hf_name()
        )),
    }
}

/// Lowercasing and accent stripping, which llama.cpp does itself when told.
pub(super) fn apply_normalizer(json: &TokenizerJson, out: &mut GgufTokenizer) {
    let mut lowercase = None;
    let mut strip_accents = None;
    for step in json
        .normalizer
        .iter()
        .flat_map(|n| flatten(n, "normalizers"))
    {
        let flag = |name: &str| step.get(name).and_then(Value::as_bool);
        match kind_of(step) {
            "Lowercase" => lowercase = Some(true),
            "StripAccents" => strip_accents = Some(true),
            "BertNormalizer" => {
                lowercase = flag("lowercase").or(lowercase);
                strip_accents = flag("strip_accents").or(strip_accents);
            }
            _ => {}
        }
    }
    if let Some(yes) = lowercase {
        out.set(Setting::Lowercase(yes));
    }
    if let Some(yes) = strip_accents {
        out.set(Setting::StripAccents(yes));
    }
}
