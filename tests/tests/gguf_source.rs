//! GGUF files as sources: quantized further, described, and turned back.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::Path;

use llm_quantize_tests::{names, quantize, run_json, sha256, text, tiny_llama};

#[test]
fn quantizing_a_gguf_gives_the_same_file_as_quantizing_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let plain = quantize(&tiny_llama(), "BF16", dir.path(), &[]);
    for level in ["Q4_K_M", "Q5_0", "Q2_K", "IQ4_XS", "TQ1_0"] {
        let direct = quantize(
            &tiny_llama(),
            level,
            dir.path(),
            &["-n", "direct", "--overwrite"],
        );
        let indirect = quantize(
            &plain,
            level,
            dir.path(),
            &["-n", "indirect", "--overwrite"],
        );
        assert_eq!(sha256(&direct), sha256(&indirect), "{level}");
    }
}

#[test]
fn a_quantized_file_is_quantized_again_only_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let small = quantize(&tiny_llama(), "Q8_0", dir.path(), &[]);
    let (model, folder) = (text(&small), text(dir.path()));
    let arguments = [
        "quantize", &model, "gguf", "-q", "Q4_0", "-o", &folder, "-n", "again",
    ];
    let error = run_json(arguments).expect_code(2).json();
    assert!(
        error["suggestion"]
            .as_str()
            .unwrap()
            .contains("allow-requantize")
    );
    let with = [&arguments[..], &["--set", "allow-requantize=true"]].concat();
    run_json(with).expect_code(0);
}

#[test]
fn converting_a_quantized_file_asks_first() {
    let dir = tempfile::tempdir().unwrap();
    let small = quantize(&tiny_llama(), "Q4_K_M", dir.path(), &[]);
    let (model, folder) = (text(&small), text(dir.path()));
    let arguments = [
        "convert", &model, "gguf", "-q", "Q8_0", "-o", &folder, "-n", "larger",
    ];
    run_json(arguments).expect_code(9);
    let forced = [&arguments[..], &["--force"]].concat();
    let report = run_json(forced).expect_code(0).json();
    assert_eq!(report["quantization_level"], "Q8_0");
}

#[test]
fn a_plain_gguf_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let plain = quantize(&tiny_llama(), "BF16", dir.path(), &[]);
    let (model, folder) = (text(&plain), text(dir.path()));
    let arguments = [
        "convert", &model, "hf", "-o", &folder, "-n", "back", "-q", "bf16",
    ];
    let report = run_json(arguments).expect_code(0).json();
    let back = Path::new(report["output_path"].as_str().unwrap()).to_owned();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(
            names(&back).contains(&name.to_owned()),
            "{:?}",
            names(&back)
        );
    }
    // The same tensors, so the same file again, tokenizer and all.
    let renamed = dir.path().join("tiny-llama");
    fs::rename(&back, &renamed).unwrap();
    let again = quantize(&renamed, "Q6_K", dir.path(), &["-n", "again"]);
    let direct = quantize(&tiny_llama(), "Q6_K", dir.path(), &["-n", "direct"]);
    let bytes = |path: &Path| fs::read(path).unwrap();
    assert_eq!(bytes(&again).len(), bytes(&direct).len());
    assert_eq!(sha256(&again), sha256(&direct));
}

#[test]
fn quantized_files_become_models_of_the_values_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let renamed = dir.path().join("tiny-llama");
    // Encoding the values of these types once more changes nothing.
    for (level, is_stable) in [
        ("TQ1_0", true),
        ("TQ2_0", true),
        ("MXFP4_MOE", true),
        ("IQ4_NL", false),
        ("IQ4_XS", false),
    ] {
        let more = |name| ["-n", name, "--set", "pure=true", "--overwrite"];
        let once = quantize(&tiny_llama(), level, dir.path(), &more("once"));
        let (model, folder) = (text(&once), text(dir.path()));
        let arguments = [
            "convert", &model, "hf", "-o", &folder, "-n", "back", "-q", "f32",
        ];
        let report = run_json(arguments).expect_code(0).json();
        fs::rename(report["output_path"].as_str().unwrap(), &renamed).unwrap();
        let twice = quantize(&renamed, level, dir.path(), &more("twice"));
        assert_eq!(
            fs::metadata(&once).unwrap().len(),
            fs::metadata(&twice).unwrap().len()
        );
        if is_stable {
            assert_eq!(sha256(&once), sha256(&twice), "{level}");
        }
        fs::remove_dir_all(&renamed).unwrap();
    }
}

#[test]
fn shards_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let whole = quantize(&tiny_llama(), "Q8_0", dir.path(), &["-n", "whole"]);
    let first = quantize(
        &tiny_llama(),
        "Q8_0",
        dir.path(),
        &["-n", "parts", "--set", "split-max-size=1M"],
    );
    assert!(
        text(&first).contains("parts-00001-of-0000"),
        "{}",
        first.display()
    );
    let info = |path: &Path| run_json(["info", &text(path)]).expect_code(0).json();
    let (one, many) = (info(&whole), info(&first));
    assert_eq!(one["parameter_count"], many["parameter_count"]);
    let merged = quantize(&first, "Q8_0", dir.path(), &["-n", "merged"]);
    let copied = quantize(&whole, "Q8_0", dir.path(), &["-n", "copied"]);
    assert_eq!(
        fs::metadata(&copied).unwrap().len(),
        fs::metadata(&whole).unwrap().len()
    );
    assert!(fs::metadata(&merged).unwrap().len() >= fs::metadata(&whole).unwrap().len());
    // One part missing is an error that says so.
    let count = names(dir.path())
        .iter()
        .filter(|n| n.starts_with("parts-"))
        .count();
    fs::remove_file(
        dir.path()
            .join(format!("parts-{count:05}-of-{count:05}.gguf")),
    )
    .unwrap();
    run_json(["info", &text(&first)]).expect_code(6);
}

#[test]
fn info_describes_folder_and_file_alike() {
    let dir = tempfile::tempdir().unwrap();
    let file = quantize(&tiny_llama(), "Q4_K_M", dir.path(), &[]);
    let folder = run_json(["info", &text(&tiny_llama())])
        .expect_code(0)
        .json();
    let file = run_json(["info", &text(&file)]).expect_code(0).json();
    for key in [
        "architecture",
        "parameter_count",
        "hidden_size",
        "num_layers",
        "num_heads",
        "vocab_size",
    ] {
        assert_eq!(folder[key], file[key], "{key}");
        assert!(!folder[key].is_null(), "{key}");
    }
    assert_eq!(folder["torch_dtype"], "bfloat16");
}

#[test]
fn junk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    let error = run_json(["info", &text(&path)]).expect_code(6).json();
    assert!(error["message"].as_str().unwrap().contains("x.gguf"));
}
