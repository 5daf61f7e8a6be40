//! Checks of tokenizer.json's components before the `tokenizers` crate gets them: what it takes
//! for granted and panics without, and what would make it work for nothing.

use serde_json::Value;

use crate::tokenizer::TokenizerError;
use crate::tokenizer::tokenizer_json::{MergeJson, ModelJson, TokenizerJson, flatten, kind_of};

/// Pieces of a template; real ones have up to five.
const MAX_PIECES: usize = 64;

/// Checks all components.
///
/// # Errors
/// With the component and what is wrong with it.
pub(super) fn check(json: &TokenizerJson) -> Result<(), TokenizerError> {
    for step in steps(json.normalizer.as_ref(), "normalizer", "normalizers")? {
        // SentencePiece's compiled rules belong to Unigram models; no BPE has them.
        if kind_of(step) == "Precompiled" {
            return Err(TokenizerError::UnsupportedKind {
                kind: "BPE with a Precompiled normalizer".to_owned(),
            });
        }
    }
    for step in steps(
        json.pre_tokenizer.as_ref(),
        "pre_tokenizer",
        "pretokenizers",
    )? {
        if kind_of(step) == "FixedLength" && step.get("length").and_then(Value::as_u64) == Some(0) {
            return Err(wrong("pre_tokenizer", "cuts text into pieces of length 0"));
        }
    }
    for step in steps(json.post_processor.as_ref(), "post_processor", "processors")? {
        if kind_of(step) == "TemplateProcessing" {
            check_template(step)?;
        }
    }
    steps(json.decoder.as_ref(), "decoder", "decoders")?;
    check_merges(&json.model)
}

/// A merge must not make a longer token than there is any. (Whether it makes one that there is, is
/// checked by the crate.)
fn check_merges(model: &ModelJson) -> Result<(), TokenizerError> {
    let prefix = model.continuing_subword_prefix.as_ref();
    let prefix = prefix.map_or(0, String::len);
    for (left, right) in model.merges.iter().filter_map(MergeJson::parts) {
        let len = right
            .len()
            .checked_sub(prefix)
            .map(|rest| left.len() + rest);
        if len.is_none_or(|len| len > model.longest_token) {
            let what = format!("has a merge {left:?} {right:?} that makes no token");
            return Err(wrong("model", &what));
        }
    }
    Ok(())
}

/// The steps of a component; each must say what it is. (The crate guesses at steps that do not.)
fn steps<'a>(
    component: Option<&'a Value>,
    name: &str,
    list: &str,
) -> Result<Vec<&'a Value>, TokenizerError> {
    let steps = component.map_or_else(Vec::new, |component| flatten(component, list));
    match steps.iter().all(|step| !kind_of(step).is_empty()) {
        true => Ok(steps),
        false => Err(wrong(name, "has a step without a \"type\"")),
    }
}

/// A template may use only tokens that it defines, and for one text only that text.
fn check_template(template: &Value) -> Result<(), TokenizerError> {
    let refuse = |what: String| Err(wrong("post_processor", &what));
    let defined = template.get("special_tokens");
    for (form, texts) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
        let pieces = template.get(form).and_then(Value::as_array);
        let pieces = pieces.map_or(&[][..], Vec::as_slice);
        if pieces.len() > MAX_PIECES {
            return refuse(format!("has a template of {} pieces", pieces.len()));
        }
        for piece in pieces {
            let id = |kind: &str| piece.get(kind)?.get("id")?.as_str();
            if let Some(text) = id("Sequence").filter(|text| !texts.contains(text)) {
                return refuse(format!("uses a text {text:?} in the template \"{form}\""));
            }
            let token = id("SpecialToken");
            if let Some(token) = token.filter(|id| defined.and_then(|all| all.get(*id)).is_none()) {
                return refuse(format!("uses the token {token:?} without defining it"));
            }
        }
    }
    Ok(())
}

fn wrong(component: &str, what: &str) -> TokenizerError {
    TokenizerError::malformed("tokenizer.json", format!("the {component} {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_part(name: &str, part: Value) -> Result<(), String> {
        let mut text = json!({"model": {"type": "BPE"}});
        text[name] = part;
        let json: TokenizerJson = serde_json::from_value(text).unwrap();
        check(&json).map_err(|error| error.to_string())
    }

    #[test]
    fn usual_components_pass() {
        for (name, part) in [
            ("normalizer", Value::Null),
            (
                "normalizer",
                json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]}),
            ),
            ("pre_tokenizer", json!({"type": "ByteLevel"})),
            (
                "post_processor",
                json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
                }]}),
            ),
        ] {
            assert_eq!(check_part(name, part), Ok(()), "{name}");
        }
    }

    #[test]
    fn what_the_crate_would_panic_at_is_refused() {
        let template = |single: Value| json!({"type": "TemplateProcessing", "single": single});
        for (name, part, what) in [
            ("normalizer", json!({"type": "Precompiled"}), "Precompiled"),
            (
                "normalizer",
                json!({"precompiled_charsmap": "AA"}),
                "without a \"type\"",
            ),
            (
                "pre_tokenizer",
                json!({"type": "FixedLength", "length": 0}),
                "length 0",
            ),
            ("decoder", json!([]), "without a \"type\""),
            (
                "post_processor",
                template(json!([{"Sequence": {"id": "B"}}])),
                "\"B\"",
            ),
            (
                "post_processor",
                template(json!([{"SpecialToken": {"id": "x"}}])),
                "\"x\"",
            ),
            ("post_processor", template(json!(vec![0; 65])), "65 pieces"),
        ] {
            let error = check_part(name, part).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
