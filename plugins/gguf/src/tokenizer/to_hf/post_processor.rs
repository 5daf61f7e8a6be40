//! `post_processor` of tokenizer.json: what is put around a text.

use serde_json::{Value, json};

use super::view::View;
use crate::tokenizer::pretokenizer::known::Spelling;
use crate::tokenizer::value::{AddedAround, SpecialToken};

/// The post-processor and what it cannot say.
pub(super) struct Around {
    /// `post_processor` of tokenizer.json.
    pub post_processor: Value,
    /// Flags for tokenizer_config.json.
    pub flags: Vec<(AddedAround, bool)>,
}

/// Builds the post-processor.
///
/// Reading it back must give the flags that the file has, so `ByteLevel` (which denies BOS and
/// EOS) is only there when the file has both, and the separator of pairs follows `add_sep_token`.
pub(super) fn build(view: &View<'_>) -> Around {
    let bos = view
        .role(SpecialToken::Bos)
        .filter(|_| view.begins_with_bos());
    let eos = view
        .role(SpecialToken::Eos)
        .filter(|_| view.adds(AddedAround::Eos) == Some(true));
    let says_both = [AddedAround::Bos, AddedAround::Eos]
        .iter()
        .all(|w| view.adds(*w).is_some());
    let byte_level = says_both && view.spelling() == Spelling::ByteLevel;
    let mut steps = Vec::new();
    if byte_level {
        steps.push(json!({
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true,
        }));
    }
    let mut separates = false;
    if bos.is_some() || eos.is_some() {
        let separator = separator(view, bos, eos);
        separates = separator.is_some();
        steps.push(template(
            view,
            bos,
            eos,
            separator.as_deref().unwrap_or_default(),
        ));
    }
    let said = |what: &AddedAround| match what {
        AddedAround::Bos => byte_level || bos.is_some(),
        AddedAround::Eos => byte_level || eos.is_some(),
        AddedAround::Sep => separates,
    };
    let open = AddedAround::ALL.into_iter().filter(|what| !said(what));
    let flags = open
        .filter_map(|what| Some((what, view.adds(what)?)))
        .collect();
    let post_processor = match steps.len() {
        0 => Value::Null,
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "processors": steps}),
    };
    Around {
        post_processor,
        flags,
    }
}

/// What stands between two texts, if a template can express the flag.
fn separator(view: &View<'_>, bos: Option<u32>, eos: Option<u32>) -> Option<Vec<u32>> {
    let end = view.role(SpecialToken::Eos);
    let sep = view.role(SpecialToken::Sep).or(end);
    match view.adds(AddedAround::Sep)? {
        true => match eos {
            Some(eos) => Some(vec![eos, sep.unwrap_or(eos)]),
            None => sep.map(|sep| vec![sep]),
        },
        // The end of the first text, or the beginning of the second.
        false => match (bos, eos) {
            (_, Some(eos)) => Some(vec![eos]),
            (Some(bos), None) if Some(bos) != sep && Some(bos) != end => Some(vec![bos]),
            _ => None,
        },
    }
}

fn template(view: &View<'_>, bos: Option<u32>, eos: Option<u32>, separator: &[u32]) -> Value {
    let token =
        |id: u32, text: usize| json!({"SpecialToken": {"id": view.text(id), "type_id": text}});
    let sequence = |name: &str, text: usize| json!({"Sequence": {"id": name, "type_id": text}});
    let mut single: Vec<Value> = bos.iter().map(|id| token(*id, 0)).collect();
    single.push(sequence("A", 0));
    let mut pair = single.clone();
    pair.extend(separator.iter().map(|id| token(*id, 0)));
    pair.push(sequence("B", 1));
    single.extend(eos.iter().map(|id| token(*id, 0)));
    pair.extend(eos.iter().map(|id| token(*id, 1)));
    let used = bos.iter().chain(&eos).chain(separator);
    let tokens: serde_json::Map<String, Value> = used
        .map(|id| {
            let text = view.text(*id);
            (
                text.to_owned(),
                json!({"id": text, "ids": [id], "tokens": [text]}),
            )
        })
        .collect();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}
