//! What a model's name says: base name, size, fine-tune, version.
//!
//! The heuristic of gguf-py's `Metadata.get_model_id_components`, which names models as
//! `base-1.0-7B-finetune-v2`.

use std::sync::LazyLock;

use regex::Regex;

/// The parts of a model's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelName {
    /// The name without the organization.
    pub full: String,
    /// What stands before a slash.
    pub organization: Option<String>,
    /// `Llama-3.1`.
    pub base: Option<String>,
    /// `Instruct`.
    pub finetune: Option<String>,
    /// `v0.2`.
    pub version: Option<String>,
    /// `8B`.
    pub size_label: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Base,
    Size,
    Finetune,
    Version,
    Type,
}

struct Part {
    text: String,
    kinds: Vec<Kind>,
}

impl Part {
    fn is(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }
}

/// A pattern that must fit a whole part, in any case.
#[allow(clippy::expect_used)] // constants; every one is compiled by the tests
fn pattern(text: &str) -> Regex {
    Regex::new(&format!("^(?i:{text})$")).expect("a valid pattern")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(v|iter)?[0-9]+([.][0-9]+)*"));
static TYPE: LazyLock<Regex> = LazyLock::new(|| pattern(r"i?q[0-9](_\w)*|b?fp?(16|32)"));
static SIZE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(A|[0-9]+x)?[0-9]+([._][0-9]+)?[KMBT][0-9]?|small|mini|medium|large|x?xl")
});
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| pattern("chat|instruct|vision|lora"));
static VERSION_OR_NUMBER: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"v[0-9]+(\.[0-9]+)*|[0-9].*"));

/// Takes a name apart. `parameters` tells a size from a context length; 0 if unknown.
#[must_use]
pub fn parse(id: &str, parameters: u64) -> ModelName {
    if id.contains(' ') {
        // A sentence, no name of the usual kind.
        return ModelName {
            full: id.to_owned(),
            ..ModelName::default()
        };
    }
    let (organization, full) = match id.split_once('/') {
        // "./model" is no organization.
        Some((before, name)) if before.starts_with('.') => (None, name),
        Some((before, name)) => (Some(before.to_owned()), name),
        None => (None, id),
    };
    let mut parts = annotate(full, parameters);
    drop_word_sizes(&mut parts);
    mark_base(&mut parts);
    let join = |wanted: &dyn Fn(&Part) -> bool| {
        let texts: Vec<&str> = parts
            .iter()
            .filter(|part| wanted(part))
            .map(|part| part.text.as_str())
            .collect();
        Some(texts.join("-")).filter(|joined| !joined.is_empty())
    };
    let finetune = join(&|part| part.is(Kind::Finetune));
    let version = join(&|part| part.is(Kind::Version) && !part.is(Kind::Base));
    let size_label = size_label(&parts);
    // A base alone says too little.
    let certain = finetune.is_some() || version.is_some() || size_label.is_some();
    ModelName {
        base: join(&|part| part.is(Kind::Base)).filter(|_| certain),
        full: full.to_owned(),
        organization,
        finetune,
        version,
        size_label,
    }
}

fn annotate(full: &str, parameters: u64) -> Vec<Part> {
    let parts = full.split('-').filter(|part| !part.is_empty());
    let annotated = parts.enumerate().map(|(place, text)| {
        if VERSION.is_match(text) {
            part(text, Kind::Version)
        } else if TYPE.is_match(text) {
            part(&text.to_uppercase(), Kind::Type)
        } else if place > 0 && SIZE.is_match(text) {
            size(text, parameters)
        } else if place > 0 && FINETUNE.is_match(text) {
            part(text, Kind::Finetune)
        } else {
            Part {
                text: text.to_owned(),
                kinds: Vec::new(),
            }
        }
    });
    annotated.collect()
}

fn part(text: &str, kind: Kind) -> Part {
    Part {
        text: text.to_owned(),
        kinds: vec![kind],
    }
}

/// A part that looks like a size; one that is far from the model's is a context length.
fn size(text: &str, parameters: u64) -> Part {
    let mut text = text.replace('_', ".");
    // "7b1" means 7.1b.
    if text.ends_with(|last: char| last.is_ascii_digit()) {
        let digit = text.pop();
        let unit = text.pop();
        text.push('.');
        text.extend(digit);
        text.extend(unit);
    }
    let unit = text.pop().unwrap_or_default();
    let after_digit = text.ends_with(|last: char| last.is_ascii_digit());
    let unit = match after_digit && matches!(unit, 'k' | 'm' | 'b' | 't') {
        true => unit.to_ascii_uppercase(),
        false => unit,
    };
    let scale = match unit {
        'K' => 1e3,
        'M' => 1e6,
        'B' => 1e9,
        'T' => 1e12,
        _ => 1.0,
    };
    // Words and "8x7" are no numbers, and are believed.
    let far = text.parse::<f64>().is_ok_and(|number| {
        let distance = (number * scale - parameters as f64).abs();
        parameters > 0 && distance > (parameters.saturating_mul(7) / 8) as f64
    });
    if far {
        text.push(unit.to_ascii_lowercase());
        return part(&text, Kind::Finetune);
    }
    text.push(unit);
    part(&text, Kind::Size)
}

/// Words such as "medium" are sizes only where no number is.
fn drop_word_sizes(parts: &mut [Part]) {
    let has_digit = |part: &Part| part.text.contains(|c: char| c.is_ascii_digit());
    if !parts
        .iter()
        .any(|part| part.is(Kind::Size) && has_digit(part))
    {
        return;
    }
    for part in parts.iter_mut() {
        if part.text.chars().all(char::is_alphabetic) {
            part.kinds.retain(|kind| *kind != Kind::Size);
        }
    }
}

/// The base is what stands before the first size or fine-tune, without a version at its
/// end; what has no other meaning after it is a fine-tune.
fn mark_base(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let word = part.kinds.is_empty() && part.text.starts_with(char::is_alphabetic);
        at_start &= word || part.is(Kind::Version);
        if at_start {
            part.kinds.push(Kind::Base);
        } else if part.kinds.is_empty() {
            part.kinds.push(Kind::Finetune);
        }
    }
    for part in parts.iter_mut().rev() {
        if !(part.is(Kind::Base) && part.kinds.len() > 1) {
            break;
        }
        part.kinds.retain(|kind| *kind != Kind::Base);
    }
}

fn size_label(parts: &[Part]) -> Option<String> {
    let mut labels: Vec<&str> = Vec::new();
    for part in parts.iter().filter(|part| part.is(Kind::Size)) {
        if !labels.contains(&part.text.as_str()) {
            labels.push(&part.text);
        }
    }
    Some(labels.join("-")).filter(|joined| !joined.is_empty())
}

/// A name for people: dashes become spaces, lower-case words get a capital.
#[must_use]
pub fn title(id: &str) -> String {
    let spaced = id.replace('-', " ");
    let words = spaced.split_whitespace().map(|word| {
        let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        match lower && !VERSION_OR_NUMBER.is_match(word) {
            true => capitalized(word),
            false => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A capital at the start of every run of letters.
fn capitalized(word: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(word.len());
    for letter in word.chars() {
        match inside {
            true => out.push(letter),
            false => out.extend(letter.to_uppercase()),
        }
        inside = letter.is_alphabetic();
    }
    out
}

/// A number of parameters in short, such as `8.0B` or `135M`.
#[must_use]
pub fn size_of(parameters: u64) -> String {
    let count = parameters as f64;
    let (scaled, unit) = match count {
        _ if count > 1e12 => (count * 1e-12, "T"),
        _ if count > 1e9 => (count * 1e-9, "B"),
        _ if count > 1e6 => (count * 1e-6, "M"),
        _ => (count * 1e-3, "K"),
    };
    let rounded = scaled.round_ties_even();
    // Two significant digits; a rounded zero counts as none.
    let decimals = match rounded {
        _ if rounded < 1.0 => 2,
        _ if rounded < 10.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::testdata::golden;

    #[test]
    fn names_come_apart_as_in_gguf_py() {
        for entry in golden()["names"].as_array().unwrap() {
            let id = entry[0].as_str().unwrap();
            let found = parse(id, entry[1].as_u64().unwrap());
            let text = |at: usize| entry[2][at].as_str().map(str::to_owned);
            let expected = ModelName {
                full: text(0).unwrap(),
                organization: text(1),
                base: text(2),
                finetune: text(3),
                version: text(4),
                size_label: text(5),
            };
            assert_eq!(found, expected, "{id}");
            assert_eq!(title(id), entry[3].as_str().unwrap(), "{id}");
        }
    }

    #[test]
    fn sizes_are_written_as_in_gguf_py() {
        for entry in golden()["sizes"].as_array().unwrap() {
            let count = entry[0].as_u64().unwrap();
            assert_eq!(size_of(count), entry[1].as_str().unwrap(), "{count}");
        }
    }

    #[test]
    fn odd_names_do_no_harm() {
        for id in [
            "",
            "-",
            "---",
            "/",
            "7b",
            "a/",
            "/a",
            "x-É1b",
            "a-1k1",
            "💥-💥1b",
        ] {
            let _ = (parse(id, 0), parse(id, u64::MAX), title(id));
        }
    }
}
