//! Small tokenizers and corpora for the tests.

use serde_json::{Value, json};

use super::{Corpus, Tokenizer};

/// Words are tokens: `<s>` 0, `</s>` 1, `text` 2, `a` 3, `b` 4, anything else 5; `w<n>` is 6 + n
/// for n below 1000.
pub(crate) fn words() -> Value {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let mut vocab = json!({"<s>": 0, "</s>": 1, "text": 2, "a": 3, "b": 4, "?": 5});
    for n in 0..1000 {
        vocab[format!("w{n}")] = json!(6 + n);
    }
    json!({"version": "1.0",
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": vocab}})
}

/// A post-processor with these pieces, of which `A` is the text.
pub(crate) fn template(pieces: &[&str]) -> Value {
    let piece = |id: &&str| match *id {
        "A" => json!({"Sequence": {"id": "A", "type_id": 0}}),
        id => json!({"SpecialToken": {"id": id, "type_id": 0}}),
    };
    json!({"type": "TemplateProcessing",
        "single": pieces.iter().map(piece).collect::<Vec<_>>(),
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}})
}

/// [`words`] with `</s>` as end of text, and with `start` before every text.
pub(crate) fn tokenizer(start: &[&str]) -> Tokenizer {
    let mut file = words();
    if !start.is_empty() {
        file["post_processor"] = template(&[start, &["A"]].concat());
    }
    let settings = json!({"eos_token": "</s>"}).to_string();
    Tokenizer::from_files(file.to_string().as_bytes(), Some(settings.as_bytes())).unwrap()
}

/// A corpus of these documents.
pub(crate) fn corpus(documents: &[&str]) -> Corpus {
    Corpus {
        name: "test".to_owned(),
        documents: documents.iter().map(|&text| text.to_owned()).collect(),
        built_in: false,
    }
}

/// `w<from> w<from + 1> …`: tokens that tell where they come from.
pub(crate) fn numbered(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("w{n} ")).collect()
}
