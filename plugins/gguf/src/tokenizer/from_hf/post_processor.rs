//! What a post-processor says about tokens put around a text.
//!
//! A template can put anything anywhere; only the usual shapes are understood:
//! `[bos] A [eos]` and, for pairs, `[bos] A [sep] [eos] B [eos]`.

use serde_json::Value;

use super::special_tokens::Roles;
use crate::tokenizer::tokenizer_json::{flatten, kind_of};
use crate::tokenizer::value::AddedAround;

/// Flags in the order in which they were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    /// Flag and value.
    pub list: Vec<(AddedAround, bool)>,
}

impl Flags {
    /// Sets a flag, or changes it where it stands.
    fn set(&mut self, what: AddedAround, yes: bool) {
        match self.list.iter_mut().find(|(known, _)| *known == what) {
            Some((_, old)) => *old = yes,
            None => self.list.push((what, yes)),
        }
    }

    /// Sets a flag that is still open.
    pub(super) fn set_default(&mut self, what: AddedAround, yes: bool) {
        if !self.list.iter().any(|(known, _)| *known == what) {
            self.list.push((what, yes));
        }
    }
}

/// Reads the flags and fills in roles that the post-processor reveals.
pub(super) fn read(post_processor: &Value, roles: &mut Roles, flags: &mut Flags) {
    for step in flatten(post_processor, "processors") {
        match kind_of(step) {
            "ByteLevel" => {
                flags.set_default(AddedAround::Bos, false);
                flags.set_default(AddedAround::Eos, false);
            }
            "RobertaProcessing" => roberta(step, roles, flags),
            "TemplateProcessing" => template(step, roles, flags),
            _ => {}
        }
    }
}

fn roberta(step: &Value, roles: &mut Roles, flags: &mut Flags) {
    for what in AddedAround::ALL {
        flags.set(what, true);
    }
    let text = |key: &str| step.get(key)?.get(0)?.as_str().map(str::to_owned);
    roles.cls = roles
        .cls
        .take()
        .or_else(|| text("cls"))
        .or_else(|| roles.bos.clone());
    roles.sep = roles
        .sep
        .take()
        .or_else(|| text("sep"))
        .or_else(|| roles.eos.clone());
}

fn template(step: &Value, roles: &mut Roles, flags: &mut Flags) {
    let items = |key: &str| {
        step.get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    let single = items("single");
    let (first, last) = match single {
        [first, .., last] => (special(first), special(last)),
        _ => (None, None),
    };
    if let Some(first) = first {
        leading(first, roles, flags);
    }
    if let Some(last) = last {
        trailing(last, roles, flags);
    }
    pair(items("pair"), first, last, roles, flags);
}

/// The text of a special token in a template.
fn special(item: &Value) -> Option<&str> {
    item.pointer("/SpecialToken/id").and_then(Value::as_str)
}

/// The name of a sequence in a template: "A" or "B".
fn sequence(item: &Value) -> Option<&str> {
    item.pointer("/Sequence/id").and_then(Value::as_str)
}

fn leading(first: &str, roles: &mut Roles, flags: &mut Flags) {
    let known = |role: &Option<String>| role.as_deref() == Some(first);
    if !known(&roles.bos) && !known(&roles.cls) {
        roles.bos.get_or_insert_with(|| first.to_owned());
        roles.cls.get_or_insert_with(|| first.to_owned());
    }
    let yes = roles.bos.as_deref() == Some(first) || roles.cls.as_deref() == Some(first);
    flags.set(AddedAround::Bos, yes);
}

fn trailing(last: &str, roles: &mut Roles, flags: &mut Flags) {
    if roles.eos.as_deref() != Some(last) {
        // What texts end with is EOS; what was called EOS ends a turn.
        let former = roles.eos.replace(last.to_owned());
        roles.eot = roles.eot.take().or(former);
    }
    flags.set(AddedAround::Eos, true);
}

fn pair(
    pair: &[Value],
    first: Option<&str>,
    last: Option<&str>,
    roles: &mut Roles,
    flags: &mut Flags,
) {
    let mut items = pair;
    if let (Some(first), [head, rest @ ..]) = (first, items)
        && special(head) == Some(first)
    {
        items = rest;
    }
    if let (Some(last), [rest @ .., tail]) = (last, items)
        && special(tail) == Some(last)
    {
        items = rest;
    }
    let [a, middle @ .., b] = items else { return };
    if sequence(a) != Some("A") || sequence(b) != Some("B") || middle.is_empty() {
        return;
    }
    let separates = |item: &Value| {
        special(item).is_some_and(|text| {
            roles.sep.as_deref() == Some(text) || roles.eos.as_deref() == Some(text)
        })
    };
    // `A eos B eos` only ends both texts; `A eos eos B eos` separates them.
    let one = separates(&middle[0]) && last.is_none();
    let two = middle.len() == 2 && separates(&middle[1]);
    flags.set(AddedAround::Sep, one || two);
    if (one || two) && roles.sep.is_none() {
        roles.sep.clone_from(&roles.eos);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(text: &str) -> Value {
        json!({"SpecialToken": {"id": text, "type_id": 0}})
    }

    fn text(name: &str) -> Value {
        json!({"Sequence": {"id": name, "type_id": 0}})
    }

    fn template(single: &[Value], pair: &[Value]) -> Value {
        json!({"type": "TemplateProcessing", "single": single, "pair": pair})
    }

    fn flags(post_processor: &Value, roles: &mut Roles) -> Vec<(AddedAround, bool)> {
        let mut flags = Flags::default();
        read(post_processor, roles, &mut flags);
        flags.list
    }

    fn roles(bos: &str, eos: &str) -> Roles {
        Roles {
            bos: Some(bos.into()),
            eos: Some(eos.into()),
            ..Roles::default()
        }
    }

    #[test]
    fn llama_2_adds_bos() {
        let (s, a, b) = (token("<s>"), text("A"), text("B"));
        let processor = template(&[s.clone(), a.clone()], &[s.clone(), a, s, b]);
        let found = flags(&processor, &mut roles("<s>", "</s>"));
        assert_eq!(found, [(AddedAround::Bos, true), (AddedAround::Sep, false)]);
    }

    #[test]
    fn llama_3_has_a_sequence() {
        let (s, a, b) = (token("<b>"), text("A"), text("B"));
        let processor = json!({"type": "Sequence", "processors": [
            {"type": "ByteLevel"}, template(&[s.clone(), a.clone()], &[s.clone(), a, s, b]),
        ]});
        let found = flags(&processor, &mut roles("<b>", "<e>"));
        let expected = [
            (AddedAround::Bos, true),
            (AddedAround::Eos, false),
            (AddedAround::Sep, false),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_trailing_token_is_the_real_eos() {
        let (e, a, b) = (token("<end>"), text("A"), text("B"));
        let processor = template(&[a.clone(), e.clone()], &[a, e.clone(), b, e]);
        let mut roles = roles("<s>", "<turn>");
        let found = flags(&processor, &mut roles);
        assert_eq!(found, [(AddedAround::Eos, true), (AddedAround::Sep, false)]);
        assert_eq!(roles.eos.as_deref(), Some("<end>"));
        assert_eq!(roles.eot.as_deref(), Some("<turn>"));
    }

    #[test]
    fn roberta_separates() {
        let processor = json!({"type": "RobertaProcessing", "cls": ["<c>", 0], "sep": ["</c>", 2]});
        let mut roles = roles("<c>", "</c>");
        assert_eq!(flags(&processor, &mut roles).len(), 3);
        assert_eq!(roles.sep.as_deref(), Some("</c>"));
        let (c, e, a, b) = (token("<c>"), token("</c>"), text("A"), text("B"));
        let same = template(
            &[c.clone(), a.clone(), e.clone()],
            &[c, a, e.clone(), e.clone(), b, e],
        );
        assert_eq!(
            flags(&same, &mut roles).last(),
            Some(&(AddedAround::Sep, true))
        );
    }

    #[test]
    fn an_unknown_leading_token_is_not_bos() {
        let processor = template(&[token("<x>"), text("A")], &[]);
        let mut known = roles("<s>", "</s>");
        known.cls = Some("<c>".into());
        assert_eq!(flags(&processor, &mut known), [(AddedAround::Bos, false)]);
        let mut unknown = Roles::default();
        assert_eq!(flags(&processor, &mut unknown), [(AddedAround::Bos, true)]);
        assert_eq!(unknown.bos.as_deref(), Some("<x>"));
    }

    #[test]
    fn nothing_around_says_nothing() {
        let processor = template(&[text("A")], &[text("A"), text("B")]);
        assert!(flags(&processor, &mut roles("<s>", "</s>")).is_empty());
    }
}
