//! Every form of a file, and what is wrong with others.

use proptest::prelude::*;

use super::*;
use crate::ExitCode;

fn read(name: &str, content: &[u8]) -> Result<Vec<String>> {
    let path = Path::new(name);
    documents(Kind::of(path).unwrap(), content.to_vec(), path)
}

fn refused(name: &str, content: &[u8]) -> (ExitCode, String) {
    let error = read(name, content).unwrap_err();
    assert!(error.suggestion.is_some(), "{error}");
    (error.class, error.message)
}

#[test]
fn extensions_are_told_apart_in_capitals_too() {
    for (name, kind) in [
        ("a.txt", Kind::Text),
        ("b.TXT", Kind::Text),
        ("x/c.Json", Kind::Json),
        ("a.txt.JSONL", Kind::JsonLines),
    ] {
        assert_eq!(Kind::of(Path::new(name)).unwrap(), kind, "{name}");
    }
    for name in ["a", "a.parquet", "txt", "a.txt.gz", ".json"] {
        let error = Kind::of(Path::new(name)).unwrap_err();
        assert_eq!(error.class, ExitCode::InvalidArguments);
        assert!(error.message.contains(".txt, .json and .jsonl"), "{error}");
        assert!(error.message.contains(name), "{error}");
    }
}

#[test]
fn plain_text_is_one_document_as_it_is() {
    let text = "  one\r\n\r\ntwo\u{2028} \n";
    assert_eq!(read("a.txt", text.as_bytes()).unwrap(), [text]);
}

#[test]
fn a_byte_order_mark_in_front_is_no_text() {
    for (name, content) in [("a.txt", "a"), ("a.json", "[\"a\"]"), ("a.jsonl", "\"a\"")] {
        let marked = format!("\u{feff}{content}");
        assert_eq!(read(name, marked.as_bytes()).unwrap(), ["a"], "{name}");
    }
    assert_eq!(
        read("a.txt", "x\u{feff}y".as_bytes()).unwrap(),
        ["x\u{feff}y"]
    );
}

#[test]
fn json_has_lists_of_both_kinds_and_single_objects() {
    for (content, expected) in [
        (r#"["a", "b"]"#, &["a", "b"][..]),
        (
            r#"[{"text": "a", "id": [1, {"text": 2}]}, "b"]"#,
            &["a", "b"],
        ),
        (r#"{"url": null, "text": "a"}"#, &["a"]),
        (r#"{"text": ["a", "b"]}"#, &["a", "b"]),
        (r#"["ä \"x\"\n😀"]"#, &["ä \"x\"\n😀"]),
        (r#"["a", "", " \n", "b"]"#, &["a", "b"]),
    ] {
        assert_eq!(read("a.json", content.as_bytes()).unwrap(), expected);
    }
}

#[test]
fn json_lines_have_an_object_or_a_string_each() {
    let content = "{\"text\": \"a\"}\r\n\n  \"b\"  \n{\"n\": 1, \"text\": \"\u{2028}c\"}";
    let found = read("a.jsonl", content.as_bytes()).unwrap();
    assert_eq!(found, ["a", "b", "\u{2028}c"]);
}

#[test]
fn what_is_malformed_is_named_with_its_line() {
    for (name, content, place, what) in [
        (
            "a.json",
            "[\"a\",\n 1]",
            "line 2 column 2",
            "a string or an object with \"text\"",
        ),
        ("a.json", "[\n\"a\"", "line 2 column 3", "EOF"),
        ("a.json", "[\"a\"] x", "line 1 column 7", "trailing"),
        (
            "a.json",
            "{\"texts\": \"a\"}",
            "line 1",
            "missing field `text`",
        ),
        (
            "a.json",
            "{\"text\": \"a\", \"text\": \"b\"}",
            "line 1",
            "duplicate field `text`",
        ),
        (
            "a.json",
            "{\"text\": [\"a\", 1]}",
            "line 1",
            "expected a string",
        ),
        (
            "a.json",
            "\"a\"",
            "line 1",
            "a list of documents or an object",
        ),
        (
            "a.json",
            "[[\"a\"]]",
            "line 1",
            "a string or an object with \"text\"",
        ),
        (
            "a.jsonl",
            "\"a\"\n\n{\"text\": 1}",
            "line 3 column 10",
            "expected a string",
        ),
        (
            "a.jsonl",
            "\"a\"\n{\"text\": null}",
            "line 2",
            "expected a string",
        ),
        (
            "a.jsonl",
            "\"a\"\n\"b\" \"c\"",
            "line 2 column 5",
            "trailing",
        ),
        ("a.jsonl", "[\"a\"]", "line 1", "a string or an object"),
        ("a.jsonl", "{\n\"text\": \"a\"}", "line 1", "EOF"),
        ("a.jsonl", "\"\\ud800\"", "line 1", "hex escape"),
    ] {
        let (class, message) = refused(name, content.as_bytes());
        assert_eq!(class, ExitCode::Validation, "{message}");
        let expected = format!("{name} {place}");
        assert!(message.starts_with(&expected), "{message}: {expected}");
        assert!(message.contains(what), "{message}: {what}");
        assert_eq!(message.matches(" line ").count(), 1, "{message}");
    }
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_line() {
    for name in ["a.txt", "a.json", "a.jsonl"] {
        let (class, message) = refused(name, b"\"a\"\n\n\"\xff\"");
        assert_eq!(class, ExitCode::Validation);
        assert_eq!(message, format!("{name} line 3: no valid UTF-8"));
    }
}

#[test]
fn no_text_at_all_is_an_error() {
    for (name, content) in [
        ("a.txt", ""),
        ("a.txt", "\u{feff} \n\t"),
        ("a.json", "[]"),
        ("a.json", "[\" \", {\"text\": \"\"}]"),
        ("a.json", "{\"text\": []}"),
        ("a.jsonl", "\n\n"),
    ] {
        let (class, message) = refused(name, content.as_bytes());
        assert_eq!(class, ExitCode::InvalidArguments);
        assert_eq!(message, format!("there is no text in {name}"));
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let nested = format!("{{\"a\": {}", "[".repeat(1 << 20));
    for name in ["a.json", "a.jsonl"] {
        assert_eq!(refused(name, nested.as_bytes()).0, ExitCode::Validation);
    }
}

proptest! {
    #[test]
    fn documents_come_back_from_every_form(texts in prop::collection::vec(".{0,20}", 1..6)) {
        let filled: Vec<&String> = texts.iter().filter(|t| !t.trim().is_empty()).collect();
        let strings = serde_json::json!(texts).to_string();
        let object = serde_json::json!({"text": texts}).to_string();
        let lines = texts.iter().map(|t| serde_json::json!({"text": t}).to_string() + "\n");
        let lines: String = lines.collect();
        for (name, content) in [("a.json", strings), ("a.json", object), ("a.jsonl", lines)] {
            match read(name, content.as_bytes()) {
                Ok(found) => prop_assert_eq!(found.iter().collect::<Vec<_>>(), filled.clone()),
                Err(_) => prop_assert!(filled.is_empty()),
            }
        }
    }
}
