//! Ways in which a model can be forged or damaged, one by one: the exit code of each, and what
//! the message says.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod awq;
mod gguf;
mod gptq;
mod layered;
mod small_files;
mod weights;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use llm_quantize_fuzz::tiny;
use llm_quantize_tests::{check_outcome, run_limited};

/// Corrupt input.
const CORRUPT: i32 = 6;
/// Not supported.
const UNSUPPORTED: i32 = 8;
/// A bad importance matrix.
const IMATRIX: i32 = 10;

/// What is done to a model's folder, the exit code of quantizing it, and a part of the message.
type Case = (&'static str, fn(&Path), i32, &'static str);

/// Runs every case on a fresh copy of a model; `model` is the name of its file, or empty.
fn check(write: fn() -> Vec<tiny::File>, model: &str, more: &[&str], cases: &[Case]) {
    let mut failures = Vec::new();
    for (name, spoil, code, says) in cases {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("model");
        let out = root.path().join("out");
        for folder in [&folder, &out] {
            fs::create_dir(folder).unwrap();
        }
        for (name, bytes) in write() {
            fs::write(folder.join(name), bytes).unwrap();
        }
        spoil(&folder);
        let path = folder.join(model).to_string_lossy().into_owned();
        let out_text = out.to_string_lossy().into_owned();
        let mut arguments = vec!["quantize", &path, "gguf", "-q", "Q8_0", "-o", &out_text];
        let imatrix = folder.join("imatrix").to_string_lossy().into_owned();
        if fs::metadata(&imatrix).is_ok() {
            arguments.extend(["--imatrix", &imatrix]);
        }
        arguments.extend(more);
        let run = run_limited(&arguments).unwrap_or_else(|what| panic!("{name}: {what}"));
        check_outcome(&run, &out).unwrap_or_else(|what| panic!("{name}: {what}"));
        if run.code != *code || !run.stdout.contains(says) {
            failures.push(format!("{name}: {}{}", run.stdout, run.stderr));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Replaces text that must be there.
fn swap(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

fn fifo(path: &Path) {
    let _ = fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn link_out(folder: &Path, name: &str) {
    let path = folder.join(name);
    let outside = folder.parent().unwrap().join("elsewhere");
    if path.exists() {
        fs::rename(&path, &outside).unwrap();
    } else {
        fs::write(&outside, "secret").unwrap();
    }
    symlink(outside, path).unwrap();
}
