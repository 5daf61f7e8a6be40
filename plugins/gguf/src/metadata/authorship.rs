//! Who made a model and from what: `general.*` from the model card, the configuration
//! and the folder's name, as gguf-py's `Metadata` finds them.

use serde_json::{Map, Value};

use super::card::Card;
use super::name::{self, ModelName};
use crate::container::{Metadata, StringArray};

/// Card keys for each GGUF key, the first one that is there wins. The last block of names
/// is what some model makers use.
const FROM_CARD: [(&str, &[&str]); 12] = [
    (NAME, &["name", "model_name"]),
    (
        "general.author",
        &["author", "model_author", "model_creator"],
    ),
    (VERSION, &["version", "model_version"]),
    (ORGANIZATION, &["organization", "model_organization"]),
    ("general.description", &["description", "model_description"]),
    (FINETUNE, &["finetune", "model_finetune"]),
    (BASENAME, &["basename", "model_basename", "model_type"]),
    (SIZE_LABEL, &["size_label", "model_size_label"]),
    ("general.source.url", &["url", "model_url"]),
    ("general.source.doi", &["doi", "model_doi"]),
    ("general.source.uuid", &["uuid", "model_uuid"]),
    ("general.source.repo_url", &["repo_url", "model_repo_url"]),
];

const LICENSES: [(&str, &[&str]); 3] = [
    ("general.license", &["license"]),
    ("general.license.name", &["license_name"]),
    ("general.license.link", &["license_link"]),
];

const NAME: &str = "general.name";
const VERSION: &str = "general.version";
const ORGANIZATION: &str = "general.organization";
const FINETUNE: &str = "general.finetune";
const BASENAME: &str = "general.basename";
const SIZE_LABEL: &str = "general.size_label";

/// The order in which the converter writes what it found.
const ORDER: [&str; 15] = [
    NAME,
    "general.author",
    VERSION,
    ORGANIZATION,
    FINETUNE,
    BASENAME,
    "general.description",
    SIZE_LABEL,
    "general.license",
    "general.license.name",
    "general.license.link",
    "general.source.url",
    "general.source.doi",
    "general.source.uuid",
    "general.source.repo_url",
];

/// The keys of a base model or data set, in the order that the converter writes them.
const RELATED_KEYS: [&str; 9] = [
    "name",
    "author",
    "version",
    "organization",
    "description",
    "url",
    "doi",
    "uuid",
    "repo_url",
];

/// Where authorship is found.
pub(super) struct Sources<'a> {
    /// The model card.
    pub card: &'a Card,
    /// `config.json`.
    pub config: &'a Value,
    /// The folder's name or the Hub's.
    pub name: &'a str,
    /// Number of parameters, to tell a size in a name from a context length.
    pub parameters: u64,
}

/// Writes `general.name` and what else is known.
pub(super) fn write(sources: &Sources<'_>, metadata: &mut Metadata) {
    let mut found = Found::default();
    for (key, names) in FROM_CARD.iter().chain(&LICENSES) {
        for name in *names {
            found.offer(key, sources.card.get(*name).and_then(text));
        }
    }
    let saved_as = sources.config.get("_name_or_path").and_then(Value::as_str);
    // A path of some computer is no name.
    if let Some(id) = saved_as.filter(|id| !id.is_empty() && id.matches('/').count() <= 1) {
        found.offer_name(&name::parse(id, sources.parameters));
    }
    found.offer_name(&name::parse(sources.name, sources.parameters));
    found.offer(NAME, Some(sources.name.to_owned()));
    if sources.parameters > 0 {
        found.offer(SIZE_LABEL, Some(name::size_of(sources.parameters)));
    }
    for key in ORDER {
        if let Some(value) = found.0.remove(key) {
            metadata.set(key, value);
        }
    }
    let related = [
        (
            "base_model",
            &["base_model", "base_models", "base_model_sources"],
        ),
        ("dataset", &["datasets", "dataset", "dataset_sources"]),
    ];
    for (prefix, keys) in related {
        write_related(prefix, keys, sources, metadata);
    }
    write_list(
        "general.tags",
        &["tags", "pipeline_tag"],
        sources.card,
        metadata,
    );
    write_list(
        "general.languages",
        &["languages", "language"],
        sources.card,
        metadata,
    );
}

/// What was found first for each key.
#[derive(Default)]
struct Found(std::collections::HashMap<&'static str, String>);

impl Found {
    fn offer(&mut self, key: &'static str, value: Option<String>) {
        if let Some(value) = value {
            self.0.entry(key).or_insert(value);
        }
    }

    fn offer_name(&mut self, name: &ModelName) {
        let full = Some(name::title(&name.full)).filter(|title| !title.is_empty());
        self.offer(NAME, full);
        let organization = name.organization.as_deref();
        self.offer(ORGANIZATION, organization.map(name::title));
        self.offer(BASENAME, name.base.clone());
        self.offer(FINETUNE, name.finetune.clone());
        self.offer(VERSION, name.version.clone());
        self.offer(SIZE_LABEL, name.size_label.clone());
    }
}

/// A card's value as text; the items of a list are joined.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            Some(items.join(","))
        }
        _ => None,
    }
}

/// A string or a list of values, as a list.
fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        Value::String(_) => std::slice::from_ref(value),
        _ => &[],
    }
}

fn write_list(key: &str, names: &[&str], card: &Card, metadata: &mut Metadata) {
    let values = names.iter().filter_map(|name| card.get(*name));
    let strings: StringArray = values.flat_map(items).filter_map(Value::as_str).collect();
    if !strings.is_empty() {
        metadata.set(key, strings);
    }
}

/// Base models or data sets: a count, then what is known of each.
fn write_related(prefix: &str, names: &[&str], sources: &Sources<'_>, metadata: &mut Metadata) {
    let Some(value) = names.iter().find_map(|name| sources.card.get(*name)) else {
        return;
    };
    let related = items(value);
    let count = u32::try_from(related.len()).unwrap_or(u32::MAX);
    metadata.set(&format!("general.{prefix}.count"), count);
    for (place, entry) in related.iter().enumerate() {
        let facts = match entry {
            Value::String(id) => facts(id, sources.parameters),
            Value::Object(facts) => facts.clone(),
            _ => Map::new(),
        };
        for key in RELATED_KEYS {
            if let Some(fact) = facts.get(key).and_then(text) {
                metadata.set(&format!("general.{prefix}.{place}.{key}"), fact);
            }
        }
    }
}

/// What a name on the Hub, or an address, says about a base model or data set.
fn facts(id: &str, parameters: u64) -> Map<String, Value> {
    let mut facts = Map::new();
    let address = ["http://", "https://", "ssh://"]
        .iter()
        .any(|start| id.starts_with(start));
    let on_hub = ["http://huggingface.co/", "https://huggingface.co/"]
        .iter()
        .find_map(|start| id.strip_prefix(start));
    let id_on_hub = on_hub.filter(|rest| {
        let parts: Vec<&str> = rest.split('/').collect();
        parts.len() == 2 && parts.iter().all(|part| !part.is_empty())
    });
    let hub_name = match (address, id_on_hub) {
        (true, None) => None,
        (true, Some(rest)) => Some(rest),
        (false, _) => Some(id),
    };
    if let Some(hub_name) = hub_name {
        let name = name::parse(hub_name, parameters);
        facts.insert("name".into(), name::title(&name.full).into());
        if let Some(organization) = &name.organization {
            facts.insert("organization".into(), name::title(organization).into());
            let url = format!("https://huggingface.co/{organization}/{}", name.full);
            facts.insert("repo_url".into(), url.into());
        }
        if let Some(version) = name.version {
            facts.insert("version".into(), version.into());
        }
    }
    if address {
        facts.insert("repo_url".into(), id.into());
    }
    facts
}
