//! config.json and the tokenizer's files.

use std::fs;
use std::path::Path;

use llm_quantize_fuzz::tiny::{self, WIDTH};
use llm_quantize_tests::edit_json;
use serde_json::{Value, json};

use super::{CORRUPT, Case, UNSUPPORTED, check, fifo, link_out, swap};

fn set_config(folder: &Path, key: &str, value: Value) {
    edit_json(&folder.join("config.json"), |config| config[key] = value);
}

#[test]
fn configs() {
    let folder = || tiny::folder(WIDTH);
    const NAME: &str = "config.json";
    let cases: &[Case] = &[
        (
            "with a byte order mark",
            |folder| {
                let text = fs::read_to_string(folder.join(NAME)).unwrap();
                fs::write(folder.join(NAME), format!("\u{feff}{text}")).unwrap();
            },
            0,
            "success",
        ),
        (
            "layers -1",
            |folder| set_config(folder, "num_hidden_layers", json!(-1)),
            CORRUPT,
            "is -1, expected",
        ),
        (
            "layers 1e30",
            |folder| set_config(folder, "num_hidden_layers", json!(1e30)),
            CORRUPT,
            "expected a whole number",
        ),
        (
            "layers x",
            |folder| set_config(folder, "num_hidden_layers", json!("x")),
            CORRUPT,
            "expected a whole number",
        ),
        (
            "layers null",
            |folder| set_config(folder, "num_hidden_layers", json!(null)),
            CORRUPT,
            "has no",
        ),
        (
            "layers 10^9",
            |folder| set_config(folder, "num_hidden_layers", json!(1_000_000_000)),
            CORRUPT,
            "more than llama.cpp loads",
        ),
        (
            "layers 2",
            |folder| set_config(folder, "num_hidden_layers", json!(2)),
            CORRUPT,
            "lacks 9 of its tensors",
        ),
        (
            "vocabulary of 10^9",
            |folder| set_config(folder, "vocab_size", json!(1_000_000_000)),
            CORRUPT,
            "config.json says [1000000000",
        ),
        (
            "heads of 4 * 10^9",
            |folder| {
                set_config(folder, "head_dim", json!(4_000_000_000u64));
                set_config(folder, "rope_scaling", json!({"rope_type": "llama3"}));
            },
            CORRUPT,
            "too many",
        ),
        (
            "a key twice",
            |folder| {
                let text = fs::read_to_string(folder.join(NAME)).unwrap();
                fs::write(folder.join(NAME), swap(&text, "{", "{\"vocab_size\":9,")).unwrap();
            },
            CORRUPT,
            "\\\"vocab_size\\\" occurs twice",
        ),
        (
            "a list",
            |folder| fs::write(folder.join(NAME), "[]").unwrap(),
            CORRUPT,
            "not a JSON object",
        ),
        (
            "empty",
            |folder| fs::write(folder.join(NAME), "").unwrap(),
            CORRUPT,
            "EOF",
        ),
        (
            "with a tail",
            |folder| {
                let text = fs::read_to_string(folder.join(NAME)).unwrap();
                fs::write(folder.join(NAME), text + "}").unwrap();
            },
            CORRUPT,
            "trailing characters",
        ),
        (
            "nested deeply",
            |folder| set_config_text(folder, &"[".repeat(1_000_000)),
            CORRUPT,
            "recursion limit",
        ),
        (
            "5 MB",
            |folder| set_config_text(folder, &" ".repeat(5 << 20)),
            CORRUPT,
            "longer than",
        ),
        (
            "a pipe",
            |folder| fifo(&folder.join(NAME)),
            CORRUPT,
            "not a regular file",
        ),
        (
            "a folder",
            |folder| {
                fs::remove_file(folder.join(NAME)).unwrap();
                fs::create_dir(folder.join(NAME)).unwrap();
            },
            CORRUPT,
            "not a regular file",
        ),
        (
            "a link out of the folder",
            |folder| link_out(folder, NAME),
            CORRUPT,
            "leaves the model's folder",
        ),
        (
            "another file that is a link out of the folder",
            |folder| link_out(folder, "notes.txt"),
            CORRUPT,
            "leaves the model's folder",
        ),
        (
            "an unknown architecture",
            |folder| {
                set_config(folder, "architectures", json!(["../../x\u{1b}[31m"]));
            },
            UNSUPPORTED,
            "not support",
        ),
    ];
    check(folder, "", &[], cases);
}

fn set_config_text(folder: &Path, value: &str) {
    let text = format!("{{\"x\": {value}0}}");
    fs::write(folder.join("config.json"), text).unwrap();
}

#[test]
fn tokenizers() {
    let folder = || tiny::folder(WIDTH);
    let cases: &[Case] = &[
        (
            "an id of 2^32 - 1",
            |folder| tokenizer(folder, "\"ab\":6", "\"ab\":4294967295"),
            CORRUPT,
            "at most",
        ),
        (
            "a negative id",
            |folder| tokenizer(folder, "\"ab\":6", "\"ab\":-6"),
            CORRUPT,
            "tokenizer.json",
        ),
        (
            "an id twice",
            |folder| tokenizer(folder, "\"ab\":6", "\"ab\":3"),
            CORRUPT,
            "both have the id 3",
        ),
        (
            "a token twice",
            |folder| tokenizer(folder, "\"ab\":6", "\"a\":6"),
            CORRUPT,
            "occurs twice",
        ),
        (
            "a merge of what is no token",
            |folder| tokenizer(folder, "\"a b\"", "\"a z\""),
            CORRUPT,
            "tokenizer.json",
        ),
        (
            "an added token beyond the vocabulary",
            |folder| {
                tokenizer(folder, "\"content\":\"</s>\"", "\"content\":\"</z>\"");
            },
            CORRUPT,
            "vocab_size 8",
        ),
        (
            "a precompiled normalizer",
            |folder| {
                tokenizer(
                    folder,
                    "\"normalizer\":null",
                    "\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"AA\"}",
                );
            },
            UNSUPPORTED,
            "Precompiled",
        ),
        (
            "nested deeply",
            |folder| {
                tokenizer(
                    folder,
                    "\"normalizer\":null",
                    &format!("\"normalizer\":{}", "[".repeat(9999)),
                )
            },
            CORRUPT,
            "recursion limit",
        ),
        (
            "a list as settings",
            |folder| fs::write(folder.join("tokenizer_config.json"), "[1]").unwrap(),
            CORRUPT,
            "tokenizer_config.json",
        ),
        (
            "a model that is no model",
            |folder| {
                fs::remove_file(folder.join("tokenizer.json")).unwrap();
                fs::write(folder.join("tokenizer.model"), b"\x0a\xff\xff\xff\xff\x0f").unwrap();
            },
            CORRUPT,
            "not a SentencePiece model",
        ),
        (
            "none",
            |folder| fs::remove_file(folder.join("tokenizer.json")).unwrap(),
            UNSUPPORTED,
            "no tokenizer",
        ),
        (
            "a link out of the folder",
            |folder| link_out(folder, "tokenizer.json"),
            CORRUPT,
            "leaves the model's folder",
        ),
    ];
    check(folder, "", &[], cases);
}

fn tokenizer(folder: &Path, from: &str, to: &str) {
    let path = folder.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, swap(&text, from, to)).unwrap();
}
