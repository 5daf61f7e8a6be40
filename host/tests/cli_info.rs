//! `info`, and what every command says about models that cannot be opened.

mod common;

use common::{
    PARAMETERS, SHARDS, argument, assert_error, code, document, model, run, sharded_model, stderr,
    stdout, write_json,
};
use serde_json::{Value, json};

fn info_json(model: &str) -> std::process::Output {
    run(&["--format", "json", "info", model])
}

fn assert_described(document: &Value) {
    for (key, value) in [
        ("architecture", json!("LlamaForCausalLM")),
        ("parameter_count", json!(PARAMETERS)),
        ("hidden_size", json!(8)),
        ("num_layers", json!(2)),
        ("num_heads", json!(4)),
        ("num_kv_heads", json!(2)),
        ("vocab_size", json!(32)),
        ("context_length", json!(64)),
        ("torch_dtype", json!("bfloat16")),
        ("format", json!("hf")),
        ("quantization", Value::Null),
    ] {
        assert_eq!(document[key], value, "{key}");
    }
    assert_eq!(document["tokenizer"]["kind"], "BPE");
    assert!(document["model_name"].is_string());
}

#[test]
fn a_folder_in_both_layouts_and_spellings() {
    for folder in [model(), sharded_model()] {
        let output = info_json(&argument(&folder));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_described(&document(&output));
        let files = folder
            .path()
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap());
        let weights = files.filter(|file| file.file_name().to_str().unwrap().ends_with("tensors"));
        let size: u64 = weights.map(|file| file.metadata().unwrap().len()).sum();
        assert_eq!(document(&output)["file_size"], size);
    }
}

#[test]
fn for_people_and_with_all_tensors() {
    let folder = model();
    let plain = run(&["info", &argument(&folder)]);
    assert_eq!(code(&plain), 0);
    assert!(stdout(&plain).contains("LlamaForCausalLM"));
    assert!(!stdout(&plain).contains("model.norm.weight"));
    assert!(plain.stderr.is_empty(), "{}", stderr(&plain));
    let all = run(&["info", "--tensors", &argument(&folder)]);
    assert!(stdout(&all).contains("model.norm.weight"));
    assert!(stdout(&all).contains("32 x 8"));
    let json = run(&["info", "--tensors", "--format", "json", &argument(&folder)]);
    assert_eq!(document(&json)["tensors"].as_array().unwrap().len(), 4);
}

#[test]
fn no_model() {
    let output = info_json("no/such/folder");
    assert_error(&output, 3, "ModelNotFoundError", "no/such/folder");
    let output = info_json("some-org/some-model");
    assert_error(&output, 3, "ModelNotFoundError", "some-org/some-model");
    assert!(
        document(&output)["suggestion"]
            .as_str()
            .unwrap()
            .contains("HF_HUB_OFFLINE")
    );
}

#[test]
fn errors_are_plain_words_without_json() {
    let output = run(&["info", "no/such/folder"]);
    assert_eq!(code(&output), 3);
    assert!(output.stdout.is_empty());
    let text = stderr(&output);
    assert!(text.starts_with("[llm-quantize] Error: "), "{text}");
    assert!(text.contains("[llm-quantize] Hint: "), "{text}");
    let quiet = run(&["--verbosity", "quiet", "info", "no/such/folder"]);
    assert!(stderr(&quiet).contains("Error: "));
}

#[test]
fn damaged_weights() {
    let folder = model();
    let path = folder.path().join("model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let cases = [
        (Vec::new(), "shorter than the 8 bytes"),
        (good[..100].to_vec(), "header ends at byte"),
        (good[..good.len() - 1].to_vec(), "the file is cut short"),
        (
            [&good[..], b"tail"].concat(),
            "do not end where the file ends",
        ),
        ([&[0xff; 8], &good[8..]].concat(), "the limit is"),
        ([&good[..8], &vec![b'x'; good.len() - 8]].concat(), "JSON"),
    ];
    for (bytes, words) in cases {
        std::fs::write(&path, bytes).unwrap();
        assert_error(&info_json(&argument(&folder)), 6, "ValidationError", words);
    }
}

#[test]
fn damaged_configs() {
    let folder = model();
    let path = folder.path().join("config.json");
    std::fs::write(&path, "{").unwrap();
    let output = info_json(&argument(&folder));
    assert_eq!(code(&output), 6);
    std::fs::write(&path, "[]").unwrap();
    assert_eq!(code(&info_json(&argument(&folder))), 6);
}

#[test]
fn shards_that_do_not_fit_their_index() {
    let folder = sharded_model();
    let path = |name: &str| folder.path().join(name);
    let index = path("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let damaged = |tensor: &str, shard: &str| {
        let mut bad = good.clone();
        bad["weight_map"][tensor] = shard.into();
        write_json(&index, &bad);
        info_json(&argument(&folder))
    };
    let error = "ValidationError";
    assert_error(
        &damaged("model.extra", SHARDS[0]),
        6,
        error,
        "lack \"model.extra\"",
    );
    assert_error(
        &damaged("model.norm.weight", SHARDS[0]),
        6,
        error,
        "not in model-00001",
    );
    assert_error(
        &damaged("x", "../evil.safetensors"),
        6,
        error,
        "beside the index",
    );
    write_json(&index, &good);
    std::fs::remove_file(path(SHARDS[1])).unwrap();
    let output = info_json(&argument(&folder));
    assert_error(&output, 6, error, "1 of 2 shards are missing");
}

#[test]
fn folders_and_files_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let output = info_json(&argument(&folder));
    assert_error(&output, 6, "ValidationError", "it is empty");
    let file = folder.path().join("notes.txt");
    std::fs::write(&file, "hello").unwrap();
    let output = info_json(file.to_str().unwrap());
    assert_error(
        &output,
        6,
        "ValidationError",
        "no format that an installed plugin",
    );
    assert!(
        document(&output)["suggestion"]
            .as_str()
            .unwrap()
            .contains("hello")
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    if made.is_ok_and(|status| status.success()) {
        let output = info_json(pipe.to_str().unwrap());
        assert_eq!(code(&output), 6);
    }
}

#[test]
fn a_config_cannot_overflow_the_stack() {
    let folder = model();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    std::fs::write(folder.path().join("config.json"), deep).unwrap();
    assert_eq!(code(&info_json(&argument(&folder))), 6);
}
