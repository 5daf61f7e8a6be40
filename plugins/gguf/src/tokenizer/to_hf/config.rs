//! tokenizer_config.json and special_tokens_map.json.

use serde_json::{Map, Value, json};

use super::added;
use super::view::View;
use crate::tokenizer::metadata::ChatTemplates;
use crate::tokenizer::value::{AddedAround, SpecialToken};

/// The roles that transformers has a name for.
const ROLES: [SpecialToken; 6] = [
    SpecialToken::Bos,
    SpecialToken::Eos,
    SpecialToken::Unk,
    SpecialToken::Sep,
    SpecialToken::Pad,
    SpecialToken::Mask,
];

/// Texts of the tokens with a role: `{"bos_token": "<s>", ...}`.
pub(super) fn special_tokens(view: &View<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    for role in ROLES {
        if let Some(id) = token_for(view, role) {
            out.insert(format!("{}_token", role.hf_name()), view.text(id).into());
        }
    }
    out
}

/// Where texts end with another token than turns do, transformers calls the turn's end EOS and
/// leaves the other to the post-processor.
fn token_for(view: &View<'_>, role: SpecialToken) -> Option<u32> {
    let ends_text = view.adds(AddedAround::Eos) == Some(true);
    let turn = view
        .role(SpecialToken::Eot)
        .filter(|_| role == SpecialToken::Eos && ends_text);
    turn.or_else(|| view.role(role))
}

/// tokenizer_config.json.
///
/// The class is the plain fast tokenizer, which takes tokenizer.json as it is; the classes of
/// model families rebuild parts of it in their own way, which differs between versions.
pub(super) fn tokenizer_config(view: &View<'_>, flags: &[(AddedAround, bool)]) -> Value {
    let mut out = Map::new();
    for (what, yes) in flags {
        out.insert(what.hf_key().to_owned(), (*yes).into());
    }
    if let Some(yes) = view
        .tokenizer
        .add_space_prefix()
        .filter(|_| view.is_llama())
    {
        out.insert("add_prefix_space".to_owned(), yes.into());
    }
    let decoder = added::decoder(view);
    if !decoder.is_empty() {
        out.insert("added_tokens_decoder".to_owned(), Value::Object(decoder));
    }
    out.extend(special_tokens(view));
    if let Some(templates) = view.tokenizer.chat_templates() {
        out.insert("chat_template".to_owned(), chat_template(templates));
    }
    out.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    if let Some(length) = view.options.context_length {
        out.insert("model_max_length".to_owned(), length.into());
    }
    out.insert(
        "tokenizer_class".to_owned(),
        "PreTrainedTokenizerFast".into(),
    );
    Value::Object(out)
}

/// A single template is a text, several are a list.
fn chat_template(templates: &ChatTemplates) -> Value {
    let entry = |name: &str, text: &str| json!({"name": name, "template": text});
    match (&templates.default, templates.named.as_slice()) {
        (Some(text), []) => Value::String(text.clone()),
        (default, named) => {
            let default = default.iter().map(|text| entry("default", text));
            default
                .chain(named.iter().map(|(name, text)| entry(name, text)))
                .collect()
        }
    }
}
