//! The message for a tokenizer that no name stands for.

use std::collections::HashSet;
use std::fmt;

use super::canonical::canonical;
use super::describe;
use super::known::KNOWN;
use super::rules::Rules;
use crate::tokenizer::tokenizer_json::TokenizerJson;

/// How many similar names a message lists.
const CLOSEST: usize = 3;

/// A way of splitting text that llama.cpp has no name for.
#[derive(Debug)]
pub struct Unrecognised {
    /// Fingerprint of the tokenizer, as `convert_hf_to_gguf.py` prints it ("chkhsh").
    pub fingerprint: String,
    /// What kept the rules from being matched.
    pub reason: String,
    /// `normalizer` of tokenizer.json.
    pub normalizer: String,
    /// `pre_tokenizer` of tokenizer.json.
    pub pre_tokenizer: String,
    /// Names with similar rules and how similar they are (0 to 1), best first.
    pub closest: Vec<(&'static str, f32)>,
}

impl Unrecognised {
    pub(super) fn new(fingerprint: String, reason: String, json: &TokenizerJson) -> Self {
        let splits = Rules::read(json)
            .map(|rules| rules.splits)
            .unwrap_or_default();
        Self {
            fingerprint,
            reason,
            normalizer: describe(json.normalizer.as_ref()),
            pre_tokenizer: describe(json.pre_tokenizer.as_ref()),
            closest: closest(&splits),
        }
    }
}

impl fmt::Display for Unrecognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "llama.cpp has no pre-tokenizer that splits text as this tokenizer does: {}. \
             Its normalizer is {}, its pre-tokenizer {} (fingerprint {}).",
            self.reason, self.normalizer, self.pre_tokenizer, self.fingerprint
        )?;
        if !self.closest.is_empty() {
            let names: Vec<String> = self
                .closest
                .iter()
                .map(|(name, share)| format!("{name} ({:.0} % alike)", share * 100.0))
                .collect();
            write!(f, " Closest: {}.", names.join(", "))?;
        }
        Ok(())
    }
}

/// The names whose expressions share most alternatives with these.
fn closest(splits: &[String]) -> Vec<(&'static str, f32)> {
    let own: HashSet<String> = splits.iter().flat_map(|s| alternatives(s)).collect();
    if own.is_empty() {
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let mut ranked: Vec<(&'static str, f32)> = KNOWN
        .iter()
        .filter(|known| seen.insert(known.splits))
        .map(|known| {
            let theirs: HashSet<String> = known
                .splits
                .iter()
                .flat_map(|s| alternatives(&canonical(s)))
                .collect();
            let common = own.intersection(&theirs).count() as f32;
            let all = own.union(&theirs).count().max(1) as f32;
            (known.names[0], common / all)
        })
        .filter(|(_, share)| *share > 0.0)
        .collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    ranked.truncate(CLOSEST);
    ranked
}

/// The alternatives of an expression, split at every `|` outside of brackets.
fn alternatives(regex: &str) -> Vec<String> {
    let (mut depth, mut escaped) = (0i32, false);
    let mut out = vec![String::new()];
    for c in regex.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '|' if depth <= 0 => {
                out.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_respect_brackets() {
        assert_eq!(
            alternatives(r"a|(b|c)|[d|e]|\|f"),
            ["a", "(b|c)", "[d|e]", r"\|f"]
        );
    }

    #[test]
    fn the_closest_name_comes_first() {
        let almost = canonical(
            &super::super::known::by_name("qwen2").unwrap().splits[0]
                .replace(r"\p{N}", r"\p{N}{1,5}"),
        );
        let ranked = closest(&[almost]);
        assert_eq!(ranked.len(), CLOSEST);
        assert!(ranked[0].1 >= ranked[1].1);
        assert!(ranked[0].1 < 1.0);
    }
}
