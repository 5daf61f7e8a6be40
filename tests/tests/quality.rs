//! `quality`: figures that transformers gives, and what is refused.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::Path;

use llm_quantize_tests::safetensors::{Tensor, read_safetensors, write_safetensors};
use llm_quantize_tests::{
    copy_folder, edit_json, fixture, quantize, run, run_json, text, tiny_llama,
};
use serde_json::Value;

/// Tokens of a window, and the perplexity of `tiny-llama` by transformers (5.23, float32) on
/// the first 8 windows of `eval.txt`, with its standard error.
const REFERENCE: [(&str, f64, f64); 2] = [
    ("512", 47.283_222_492, 2.033_875),
    ("256", 54.917_970_745, 3.361_920),
];

/// Window, position and log-probability by transformers, in windows of 256 tokens.
const TOKENS: [(u64, u64, f64); 2] = [(0, 1, -5.903_212_1), (1, 10, -1.645_224_1)];

/// The rows about models on the held-out text.
#[track_caller]
fn quality(models: &[&str], context: &str, more: &[&str]) -> Vec<Value> {
    let data = text(&fixture("text/eval.txt"));
    let options = ["--data", &data, "--windows", "8", "--context", context];
    let arguments = [&["quality"], models, &options, more].concat();
    let document = run_json(&arguments).expect_code(0).json();
    document.as_array().unwrap().clone()
}

fn close(found: &Value, expected: f64, relative: f64) {
    let found = found.as_f64().unwrap();
    assert!(
        (found / expected - 1.0).abs() < relative,
        "{found}, expected {expected}"
    );
}

#[test]
fn perplexity_is_that_of_transformers() {
    let model = text(&tiny_llama());
    for (context, perplexity, error) in REFERENCE {
        let rows = quality(&[&model], context, &[]);
        assert_eq!(rows.len(), 1);
        close(&rows[0]["perplexity"], perplexity, 1e-5);
        close(&rows[0]["perplexity_error"], error, 1e-4);
    }
}

#[test]
fn quantized_models_are_compared_token_by_token() {
    let dir = tempfile::tempdir().unwrap();
    let [better, worse] = ["Q8_0", "Q4_K_M"].map(|level| {
        let path = quantize(&tiny_llama(), level, dir.path(), &[]);
        text(&path)
    });
    let original = text(&tiny_llama());
    let lines = text(&dir.path().join("tokens.jsonl"));
    let models = [original.as_str(), &better, &worse, &original];
    let rows = quality(&models, "256", &["--per-token", &lines]);
    let names: Vec<&str> = rows.iter().map(|r| r["model"].as_str().unwrap()).collect();
    assert_eq!(names, models);
    let roles = rows.iter().map(|row| row["role"].as_str().unwrap());
    let roles: Vec<&str> = roles.collect();
    assert_eq!(roles, ["original", "quantized", "quantized", "quantized"]);
    let figure = |row: usize, key: &str| rows[row][key].as_f64().unwrap();
    let divergence = |row| figure(row, "kl_divergence");
    assert!(0.0 < divergence(1) && divergence(1) < 2e-4);
    assert!(10.0 * divergence(1) < divergence(2) && divergence(2) < 0.02);
    assert!(figure(1, "top1_agreement") > figure(2, "top1_agreement"));
    assert!(figure(2, "top1_agreement") > 0.9 && figure(1, "top1_agreement") < 1.0);
    assert!(figure(2, "kl_divergence_error") > 0.0 && figure(2, "top1_agreement_error") > 0.0);
    // A model does not differ from itself.
    for row in [0, 3] {
        assert_eq!((divergence(row), figure(row, "top1_agreement")), (0.0, 1.0));
        assert_eq!(figure(row, "perplexity"), figure(0, "perplexity"));
    }
    let bits = |row| figure(row, "bits_per_weight");
    assert_eq!(bits(0), 16.0);
    assert!(bits(0) > bits(1) && bits(1) > 8.5 && bits(2) < 6.0);
    assert_eq!(rows[1]["file_size"], fs::metadata(&better).unwrap().len());
    for (key, expected) in [("windows", 8), ("context", 256), ("tokens_scored", 8 * 255)] {
        assert!(rows.iter().all(|row| row[key] == expected), "{key}");
    }
    assert!(rows.iter().all(|row| row["dataset"] == "eval.txt"));
    check_lines(Path::new(&lines), &rows);
}

/// The lines have a number of each model for each position, and the rows are made of them.
fn check_lines(path: &Path, rows: &[Value]) {
    let lines: Vec<Value> = fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 8 * 255);
    for (place, line) in lines.iter().enumerate() {
        assert_eq!(line["window"], place / 255);
        assert_eq!(line["position"], place % 255 + 1);
        assert_eq!(line["quantized"].as_array().unwrap().len(), 3);
        assert_eq!(line["quantized"][2], line["original"]);
    }
    for (row, of) in rows.iter().zip([None, Some(0), Some(1)]) {
        let numbers = lines.iter().map(|line| match of {
            None => &line["original"],
            Some(place) => &line["quantized"][place],
        });
        let sum: f64 = numbers.map(|number| number.as_f64().unwrap()).sum();
        let perplexity = (-sum / lines.len() as f64).exp();
        close(&row["perplexity"], perplexity, 1e-12);
    }
    for (window, position, expected) in TOKENS {
        let found = lines
            .iter()
            .find(|line| line["window"] == window && line["position"] == position);
        close(&found.unwrap()["original"], expected, 1e-4);
    }
}

#[test]
fn people_get_a_table_and_the_built_in_text() {
    let model = text(&tiny_llama());
    let arguments = [
        "quality",
        &model,
        &model,
        "--windows",
        "1",
        "--context",
        "32",
    ];
    let run = run(arguments).expect_code(0);
    assert_eq!(run.stdout.lines().count(), 3);
    let header = ["MODEL", "SIZE", "BITS", "PERPLEXITY", "KL", "DIVERGENCE"];
    let found: Vec<&str> = run.stdout.split_whitespace().take(6).collect();
    assert_eq!(found, header);
    assert!(run.stderr.contains("built-in text"), "{}", run.stderr);
    assert!(run.stderr.contains("1 windows of 32 tokens"));
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, part: &str) {
    let arguments = [&["quality"], arguments].concat();
    let error = run_json(&arguments).expect_code(code).json();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(part), "{message}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let model = text(&tiny_llama());
    refused(&["/nonexistent/model"], 3, "/nonexistent/model");
    refused(&[&model, "/nonexistent/model"], 3, "/nonexistent/model");
    refused(
        &[&model, "--data", "/nonexistent.txt"],
        2,
        "/nonexistent.txt",
    );
    refused(&[&model, "--context", "513"], 2, "longer than the context");
    refused(&[&model, "--max-memory", "50M"], 5, "memory");
    let nowhere = ["--per-token", "/nonexistent/lines"];
    refused(
        &[&[model.as_str()], &nowhere[..]].concat(),
        1,
        "/nonexistent",
    );
    let short = dir.path().join("short.txt");
    fs::write(&short, "It is a truth universally acknowledged").unwrap();
    refused(&[&model, "--data", &text(&short)], 2, "tokens");
    let other = dir.path().join("other");
    copy_folder(&tiny_llama(), &other);
    edit_json(&other.join("config.json"), |config| {
        config["architectures"] = Value::from(vec!["GptOssForCausalLM"]);
    });
    refused(&[&model, &text(&other)], 8, "GptOssForCausalLM");
}

#[test]
fn another_vocabulary_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    copy_folder(&tiny_llama(), &other);
    change_tensors(&other, |tensor| {
        if tensor.rows() == 2048 {
            tensor.keep_rows(2040);
        }
    });
    edit_json(&other.join("config.json"), |config| {
        config["vocab_size"] = Value::from(2040);
    });
    refused(&[&text(&tiny_llama()), &text(&other)], 2, "2040 tokens");
}

#[test]
fn damaged_weights_are_found_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let model = text(&tiny_llama());
    for (name, place) in [
        ("model.layers.2.mlp.up_proj.weight", "block 2"),
        ("model.norm.weight", "output head"),
    ] {
        let other = dir.path().join(place);
        copy_folder(&tiny_llama(), &other);
        change_tensors(&other, |tensor| {
            if tensor.name == name {
                tensor.set_bf16(0, f32::NAN);
            }
        });
        let other = text(&other);
        refused(&[&model, &other, "--windows", "1"], 6, place);
        refused(&[&model, &other, "--windows", "1"], 6, &other);
    }
}

fn change_tensors(folder: &Path, change: impl FnMut(&mut Tensor)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_safetensors(&path);
    tensors.iter_mut().for_each(change);
    write_safetensors(&path, &tensors);
}
