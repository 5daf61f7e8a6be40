//! Calibration from the command line: importance matrices, quantizing in one go, interrupted
//! runs, statistics that are kept.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod interrupted;
mod kept;

use std::path::{Path, PathBuf};

use llm_quantize_tests::{Run, fixture, names, quantize, run_json, sha256, text, tiny_llama};
use serde_json::Value;

const SAMPLES: [&str; 4] = ["--calibration-samples", "8", "--calibration-length", "128"];

fn corpus() -> String {
    text(&fixture("text/calibration.txt"))
}

/// Runs `analyze` on the calibration text; `more` are further options.
fn analyze(model: &Path, output: &Path, more: &[&str]) -> Run {
    let (model, output, corpus) = (text(model), text(output), corpus());
    let mut arguments = vec!["analyze", &model, "-o", &output];
    if !more.contains(&"--calibration-data") {
        arguments.extend(["--calibration-data", &corpus]);
    }
    if !more.contains(&"--calibration-samples") {
        arguments.extend(&SAMPLES[..2]);
    }
    if !more.contains(&"--calibration-length") {
        arguments.extend(&SAMPLES[2..]);
    }
    arguments.extend(more);
    run_json(arguments)
}

fn matrix(folder: &Path) -> PathBuf {
    let path = folder.join("i.gguf");
    analyze(&tiny_llama(), &path, &[]).expect_code(0);
    path
}

/// The bytes of all tensors of a GGUF file, which are at its end.
fn tensor_bytes(path: &Path) -> Vec<u8> {
    let report = run_json(["info", &text(path), "--tensors"])
        .expect_code(0)
        .json();
    let tensors = report["tensors"].as_array().unwrap();
    let sizes = tensors
        .iter()
        .map(|tensor| tensor["bytes"].as_u64().unwrap());
    let bytes = std::fs::read(path).unwrap();
    let first = bytes.len() - sizes.sum::<u64>() as usize;
    bytes[first..].to_vec()
}

#[test]
fn an_importance_matrix_is_written_and_used() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("sub.gguf");
    let report = analyze(&tiny_llama(), &path, &[]).expect_code(0).json();
    assert_eq!(report["status"], "success");
    assert_eq!(report["format"], "imatrix");
    assert_eq!(report["output_path"], text(&path));
    assert_eq!(names(out.path()), ["sub.gguf"]);
    let with = quantize(
        &tiny_llama(),
        "Q2_K_S",
        out.path(),
        &["--imatrix", &text(&path)],
    );
    assert!(with.exists());
}

#[test]
fn in_one_go_it_is_the_same_as_by_a_file() {
    let out = tempfile::tempdir().unwrap();
    let matrix = text(&matrix(out.path()));
    for level in ["Q4_K_M", "Q2_K_S", "IQ4_XS", "Q4_0"] {
        let by_file = quantize(
            &tiny_llama(),
            level,
            out.path(),
            &["-n", "file.gguf", "--overwrite", "--imatrix", &matrix],
        );
        let mut more = vec!["-n", "go.gguf", "--overwrite", "--calibration-data"];
        let corpus = corpus();
        more.push(&corpus);
        more.extend(SAMPLES);
        let at_once = quantize(&tiny_llama(), level, out.path(), &more);
        assert!(tensor_bytes(&by_file) == tensor_bytes(&at_once), "{level}");
        let plain = quantize(&tiny_llama(), "Q4_K_M", out.path(), &["--overwrite"]);
        assert!(tensor_bytes(&plain) != tensor_bytes(&at_once), "{level}");
    }
}

#[test]
fn threads_and_memory_do_not_change_a_byte() {
    let out = tempfile::tempdir().unwrap();
    let reference = sha256(&matrix(out.path()));
    for more in [
        ["--threads", "1"],
        ["--threads", "5"],
        ["--max-memory", "96M"],
    ] {
        let path = out.path().join("other.gguf");
        let mut more = more.to_vec();
        more.push("--overwrite");
        let run = analyze(&tiny_llama(), &path, &more).expect_code(0);
        assert_eq!(sha256(&path), reference, "{more:?}: {}", run.stderr);
    }
}

#[test]
fn a_gguf_file_is_a_source_too() {
    let out = tempfile::tempdir().unwrap();
    let from_hf = tensors(&matrix(out.path()));
    let gguf = quantize(&tiny_llama(), "F32", out.path(), &[]);
    let path = out.path().join("from-gguf.gguf");
    analyze(&gguf, &path, &[]).expect_code(0);
    assert_eq!(tensors(&path), from_hf);
    // The same numbers were measured: the source is the same, in another format.
    assert!(tensor_bytes_of_matrix(&path) == tensor_bytes_of_matrix(&out.path().join("i.gguf")));
    let corpus = corpus();
    let mut more = vec!["-n", "q.gguf", "--calibration-data", &corpus];
    more.extend(SAMPLES);
    quantize(&gguf, "Q2_K_S", out.path(), &more);
}

/// Name and length of everything in an importance matrix, by our own reader.
fn tensors(path: &Path) -> Vec<(String, usize)> {
    let file = std::fs::read(path).unwrap();
    let matrix = llm_quantize_gguf::imatrix::Imatrix::parse(&file).unwrap();
    matrix
        .iter()
        .map(|(name, entry)| (name.to_owned(), entry.weights.len()))
        .collect()
}

fn tensor_bytes_of_matrix(path: &Path) -> Vec<f32> {
    let file = std::fs::read(path).unwrap();
    let matrix = llm_quantize_gguf::imatrix::Imatrix::parse(&file).unwrap();
    matrix
        .iter()
        .flat_map(|(_, entry)| entry.weights.clone())
        .collect()
}

fn message(run: &Run) -> String {
    let error: Value = run.json();
    let (message, hint) = (&error["message"], &error["suggestion"]);
    format!("{} | {}", message.as_str().unwrap(), hint.as_str().unwrap())
}

#[test]
fn what_is_of_no_use_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("i.gguf");
    let refused = |code: i32, more: &[&str], words: &[&str]| {
        let run = analyze(&tiny_llama(), &path, more).expect_code(code);
        let message = message(&run);
        for word in words {
            assert!(message.contains(word), "{word}: {message}");
        }
        assert!(!path.exists());
    };
    let short = out.path().join("short.txt");
    std::fs::write(&short, "It is a truth universally acknowledged.").unwrap();
    refused(
        2,
        &["--calibration-data", &text(&short)],
        &["1024", "missing", "--calibration-samples"],
    );
    refused(2, &["--calibration-length", "4096"], &["512"]);
    let other = out.path().join("text.pdf");
    std::fs::write(&other, "%PDF").unwrap();
    refused(
        2,
        &["--calibration-data", &text(&other)],
        &["pdf", ".jsonl"],
    );
    refused(5, &["--max-memory", "40M"], &["MB", "--max-memory"]);

    let quantize = |arguments: &[&str]| {
        let model = text(&tiny_llama());
        let folder = text(out.path());
        let mut all = vec!["quantize", &model];
        all.extend(arguments);
        all.extend(["-o", &folder]);
        run_json(all)
    };
    let corpus = corpus();
    let data = ["--calibration-data", &corpus];
    let run = quantize(&["imatrix", "-q", "imatrix"]).expect_code(2);
    assert!(message(&run).contains("llm-quantize analyze"));
    let run = quantize(&["hf", "-q", "F16", data[0], data[1]]).expect_code(2);
    assert!(message(&run).contains("takes no calibration"));
    let matrix = text(&matrix(out.path()));
    let both = [
        "gguf",
        "-q",
        "Q4_K_M",
        data[0],
        data[1],
        "--imatrix",
        &matrix,
    ];
    quantize(&both).expect_code(2);
}

#[test]
fn a_level_that_takes_no_statistics_says_so() {
    let out = tempfile::tempdir().unwrap();
    let (model, folder, corpus) = (text(&tiny_llama()), text(out.path()), corpus());
    let mut arguments = vec!["quantize", &model, "gguf", "-q", "F16", "-o", &folder];
    arguments.extend(["--calibration-data", &corpus]);
    arguments.extend(SAMPLES);
    let run = run_json(arguments).expect_code(0);
    assert!(run.stderr.contains("takes no statistics"), "{}", run.stderr);
}

#[test]
fn the_built_in_text_is_a_warning() {
    let out = tempfile::tempdir().unwrap();
    let (model, path) = (text(&tiny_llama()), text(&out.path().join("i.gguf")));
    let mut arguments = vec!["analyze", &model, "-o", &path];
    arguments.extend(SAMPLES);
    let run = run_json(arguments).expect_code(0);
    assert!(
        run.stderr.contains("Warning: no --calibration-data"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("tokens/s"), "{}", run.stderr);
}
