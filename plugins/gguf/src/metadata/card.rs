//! The front matter of a model card (`README.md`), as far as GGUF has keys for it.

use llm_quantize_plugin_api::{Error, Result};
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Front matter longer than this is no model card's.
const MAX_BYTES: usize = 256 * 1024;

/// Deeper nesting than any model card has.
const MAX_DEPTH: usize = 16;

/// The keys of a model card: strings, lists and mappings of them, and `null`.
///
/// All scalars are kept as text, so `no` is a language and `1.0` a version.
pub type Card = Map<String, Value>;

/// Reads the YAML between the leading `---` lines; empty if there is none.
///
/// # Errors
/// If it is not YAML, not a mapping, or uses aliases, which could expand without bound.
pub fn parse(text: &str) -> Result<Card> {
    let Some(yaml) = front_matter(text) else {
        return Ok(Card::new());
    };
    if yaml.len() > MAX_BYTES {
        return Err(wrong("its front matter is too long"));
    }
    let mut tree = Tree::default();
    for event in Parser::new_from_str(&yaml) {
        let (event, _) = event.map_err(|error| wrong(&error.to_string()))?;
        if matches!(event, Event::DocumentEnd) {
            break;
        }
        tree.take(event)?;
    }
    match tree.root {
        Some(Value::Object(card)) => Ok(card),
        Some(Value::Null) | None => Ok(Card::new()),
        Some(_) => Err(wrong("its front matter is no list of keys")),
    }
}

fn wrong(reason: &str) -> Error {
    Error::corrupt(format!(
        "the model card (README.md) cannot be read: {reason}"
    ))
}

/// The lines between the first two `---`, with tabs that YAML does not allow replaced.
fn front_matter(text: &str) -> Option<String> {
    let mut lines = text.lines();
    if lines.next()? != "---" {
        return None;
    }
    let mut yaml = String::new();
    for line in lines.take_while(|line| *line != "---") {
        yaml.push_str(&line.replace('\t', "  "));
        yaml.push('\n');
    }
    Some(yaml)
}

/// A list or mapping that is not closed yet.
enum Open {
    List(Vec<Value>),
    Mapping { entries: Card, key: Option<Value> },
}

#[derive(Default)]
struct Tree {
    root: Option<Value>,
    open: Vec<Open>,
}

impl Tree {
    fn take(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Scalar(text, style, ..) => self.close(scalar(&text, style)),
            Event::SequenceStart(..) => return self.start(Open::List(Vec::new())),
            Event::MappingStart(..) => {
                return self.start(Open::Mapping {
                    entries: Card::new(),
                    key: None,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let value = match self.open.pop() {
                    Some(Open::List(items)) => Value::Array(items),
                    Some(Open::Mapping { entries, .. }) => Value::Object(entries),
                    None => return Err(wrong("its front matter is not balanced")),
                };
                self.close(value);
            }
            Event::Alias(_) => return Err(wrong("it uses aliases")),
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, open: Open) -> Result<()> {
        if self.open.len() >= MAX_DEPTH {
            return Err(wrong("its front matter is nested too deeply"));
        }
        self.open.push(open);
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn close(&mut self, value: Value) {
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Mapping { entries, key }) => match key.take() {
                None => *key = Some(value),
                // Keys that are no text have no meaning here.
                Some(Value::String(name)) => {
                    entries.insert(name, value);
                }
                Some(_) => {}
            },
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let plain = matches!(style, ScalarStyle::Plain);
    match plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        true => Value::Null,
        false => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(yaml: &str) -> Value {
        Value::Object(parse(&format!("---\n{yaml}---\n# Card\n")).unwrap())
    }

    #[test]
    fn scalars_stay_text() {
        let card = read("license: mit\nversion: 1.0\nlanguage:\n- en\n- no\ntags: [a, 'b c']\n");
        let expected = json!({"license": "mit", "version": "1.0", "language": ["en", "no"],
            "tags": ["a", "b c"]});
        assert_eq!(card, expected);
    }

    #[test]
    fn nothing_and_nested_values() {
        let card = read("a:\nb: ~\nc: 'null'\nd:\n- name: x\n  url: y\ne: >-\n  two\n  lines\n");
        let expected = json!({"a": null, "b": null, "c": "null", "d": [{"name": "x", "url": "y"}],
            "e": "two lines"});
        assert_eq!(card, expected);
    }

    #[test]
    fn text_without_front_matter_is_an_empty_card() {
        for text in [
            "",
            "# Model\n",
            "--- \na: b\n---\n",
            "\n---\na: b\n---\n",
            "---\n---\n",
        ] {
            assert!(parse(text).unwrap().is_empty(), "{text:?}");
        }
    }

    #[test]
    fn tabs_are_forgiven() {
        assert_eq!(read("a:\n\t- b\n"), json!({"a": ["b"]}));
    }

    #[test]
    fn what_is_no_card_is_refused() {
        for yaml in [
            "a: [b\n",
            "- a\n",
            "a: &x [1]\nb: *x\n",
            "a: 'b\n",
            "a: b: c\n",
        ] {
            assert!(parse(&format!("---\n{yaml}---\n")).is_err(), "{yaml}");
        }
        let deep = format!("---\na: {}\n---\n", "[".repeat(1000));
        assert!(parse(&deep).is_err());
        let long = format!("---\na: {}\n---\n", "x".repeat(MAX_BYTES));
        assert!(parse(&long).is_err());
    }
}
