//! Tokenizers with and without special tokens around texts, and damaged ones.

use llm_quantize_plugin_api::ModelView;
use serde_json::json;

use super::*;
use crate::ExitCode;
use crate::source::fixtures::write_llama;
use crate::text::testing::{template, words};

fn tokenizer(file: &Value, settings: Option<Value>) -> Result<Tokenizer> {
    let settings = settings.map(|settings| settings.to_string());
    Tokenizer::from_files(
        file.to_string().as_bytes(),
        settings.as_ref().map(|text| text.as_bytes()),
    )
}

#[test]
fn a_plain_tokenizer_has_no_start_and_no_end() {
    let found = tokenizer(&words(), None).unwrap();
    assert!(found.start().is_empty());
    assert_eq!(found.end_of_text(), None);
    assert_eq!(found.encode("a b\nc a").unwrap(), [3, 4, 5, 3]);
}

#[test]
fn the_start_is_what_the_tokenizer_puts_before_every_text() {
    for (pieces, start) in [
        (&["<s>", "A"][..], &[0][..]),
        (&["<s>", "A", "</s>"], &[0]),
        (&["<s>", "</s>", "A"], &[0, 1]),
        (&["A", "</s>"], &[]),
    ] {
        let mut file = words();
        file["post_processor"] = template(pieces);
        let found = tokenizer(&file, None).unwrap();
        assert_eq!(found.start(), start, "{pieces:?}");
        assert_eq!(found.encode("a").unwrap(), [3], "{pieces:?}");
    }
}

#[test]
fn the_settings_name_a_start_where_the_tokenizer_has_none() {
    let settings = |add| json!({"add_bos_token": add, "bos_token": "<s>"});
    let start = |file: &Value, settings| tokenizer(file, Some(settings)).unwrap().start().to_vec();
    assert_eq!(start(&words(), settings(true)), [0]);
    assert!(start(&words(), settings(false)).is_empty());
    assert!(start(&words(), json!({"add_bos_token": true})).is_empty());
    let mut file = words();
    file["post_processor"] = template(&["<s>", "A"]);
    assert_eq!(start(&file, settings(true)), [0], "not twice");
}

#[test]
fn the_end_of_text_is_the_one_that_the_settings_name() {
    for (settings, end) in [
        (json!({"eos_token": "</s>"}), Some(1)),
        (
            json!({"eos_token": {"content": "</s>", "lstrip": false}}),
            Some(1),
        ),
        (json!({"eos_token": "<unknown>"}), None),
        (json!({"eos_token": null}), None),
        (json!({}), None),
    ] {
        let found = tokenizer(&words(), Some(settings.clone())).unwrap();
        assert_eq!(found.end_of_text(), end, "{settings}");
    }
}

#[test]
fn texts_are_neither_shortened_nor_filled_up() {
    let mut file = words();
    file["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst",
        "stride": 0});
    file["padding"] = json!({"strategy": {"Fixed": 4}, "direction": "Right",
        "pad_to_multiple_of": null, "pad_id": 1, "pad_type_id": 0, "pad_token": "</s>"});
    let found = tokenizer(&file, None).unwrap();
    assert_eq!(found.encode("a a a b").unwrap(), [3, 3, 3, 4]);
    assert_eq!(found.encode("a").unwrap(), [3]);
}

#[test]
fn special_tokens_in_a_text_are_special() {
    let found = tokenizer(&words(), None).unwrap();
    assert_eq!(found.encode("a</s>b").unwrap(), [3, 1, 4]);
}

#[test]
fn what_cannot_be_used_is_an_error() {
    // The library panics at this one when it encodes.
    let mut template = template(&["<s>", "A"]);
    template["special_tokens"] = json!({});
    let mut panics = words();
    panics["post_processor"] = template;
    for file in [
        json!({}),
        json!([]),
        json!({"model": {"type": "?"}}),
        panics,
    ] {
        let error = tokenizer(&file, None).unwrap_err();
        assert_eq!(error.class, ExitCode::Validation);
        assert!(
            error.message.starts_with("tokenizer.json cannot be used"),
            "{error}"
        );
        assert!(error.suggestion.is_some());
    }
    let error = Tokenizer::from_files(words().to_string().as_bytes(), Some(b"{")).unwrap_err();
    assert!(
        error.message.starts_with("tokenizer_config.json"),
        "{error}"
    );
}

#[test]
fn a_models_files_are_used() {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path());
    let put = |name: &str, json: Value| {
        std::fs::write(folder.path().join(name), json.to_string()).unwrap();
    };
    put("tokenizer.json", words());
    put("tokenizer_config.json", json!({"eos_token": "</s>"}));
    let open = || {
        let path = folder.path().to_str().unwrap();
        SourceModel::open(path, &[], ModelView::HuggingFace).unwrap()
    };
    let found = Tokenizer::of(&open()).unwrap();
    assert_eq!(found.end_of_text(), Some(1));
    assert_eq!(found.encode("b").unwrap(), [4]);

    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    let error = Tokenizer::of(&open()).unwrap_err();
    assert!(error.message.contains("no tokenizer.json"), "{error}");
    assert!(error.advice().contains("save_pretrained"), "{error:?}");
}
