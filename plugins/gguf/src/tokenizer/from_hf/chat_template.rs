//! Prompt templates, from all the places where models keep them.

use serde_json::Value;

use super::source::Source;
use crate::tokenizer::TokenizerError;
use crate::tokenizer::files::{self, CHAT_TEMPLATE_FOLDER};
use crate::tokenizer::metadata::ChatTemplates;

/// Reads the templates. tokenizer_config.json wins over chat_template.jinja (with the named ones
/// in `additional_chat_templates/`), that over chat_template.json.
pub(super) fn read(source: &mut Source<'_>) -> Result<Option<ChatTemplates>, TokenizerError> {
    let templates = match source.tokenizer_config.get("chat_template") {
        Some(value) => from_json(value),
        None => from_files(source)?,
    };
    if let Templates::Wrong = templates {
        source.warn("chat_template is neither a text nor a list of named texts: left out");
    }
    Ok(match templates {
        Templates::Some(list) => Some(collect(list)),
        Templates::None | Templates::Wrong => None,
    })
}

/// Templates as found: `(name, text)`.
enum Templates {
    None,
    Wrong,
    Some(Vec<(String, String)>),
}

const DEFAULT: &str = "default";

fn from_json(value: &Value) -> Templates {
    match value {
        Value::Null => Templates::None,
        Value::String(text) => Templates::Some(vec![(DEFAULT.to_owned(), text.clone())]),
        Value::Array(list) => {
            let field = |entry: &Value, name: &str| {
                entry.get(name).and_then(Value::as_str).map(str::to_owned)
            };
            let named = list
                .iter()
                .filter_map(|e| Some((field(e, "name")?, field(e, "template")?)));
            Templates::Some(named.collect())
        }
        _ => Templates::Wrong,
    }
}

fn from_files(source: &Source<'_>) -> Result<Templates, TokenizerError> {
    if let Some(text) = files::text(source.files, "chat_template.jinja")? {
        let mut list = vec![(DEFAULT.to_owned(), text)];
        list.extend(additional(source)?);
        return Ok(Templates::Some(list));
    }
    let json = files::object(source.files, "chat_template.json")?;
    Ok(json
        .and_then(|json| json.get("chat_template").map(from_json))
        .unwrap_or(Templates::None))
}

/// `additional_chat_templates/<name>.jinja`, sorted by name.
fn additional(source: &Source<'_>) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut paths = source.files.names();
    paths.sort();
    let mut out = Vec::new();
    for path in paths {
        let name = path
            .strip_prefix(CHAT_TEMPLATE_FOLDER)
            .and_then(|n| n.strip_suffix(".jinja"));
        let Some(name) = name.filter(|name| !name.contains('/')) else {
            continue;
        };
        if let Some(text) = files::text(source.files, &path)? {
            out.push((name.to_owned(), text));
        }
    }
    Ok(out)
}

/// Sorts templates into the default and the named ones. Of several with one name the last counts.
fn collect(list: Vec<(String, String)>) -> ChatTemplates {
    let mut out = ChatTemplates::default();
    for (name, text) in list {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        match name.as_str() {
            "" => {}
            DEFAULT => out.default = Some(text),
            _ => match out.named.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = text,
                None => out.named.push((name, text)),
            },
        }
    }
    out
}
