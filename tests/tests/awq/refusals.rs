//! What is refused, and what is said beforehand.

use llm_quantize_tests::{narrow_llama, run_json, text, tiny_llama};

use super::{ROUNDED, awq, rounded};

/// Never a half-filled group: the layers are named, and what would fit. Those that stay are in
/// nobody's way: what reads them is not changed, nor what they read.
#[test]
fn a_group_must_divide_the_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("narrow");
    narrow_llama(&model);
    let group = ["--group-size", "128"];
    let error = awq(&model, dir.path(), "m", &group).expect_code(8).json();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("down_proj"), "{message}");
    let advice = error["suggestion"].as_str().unwrap();
    assert!(advice.contains("64"), "{advice}");
    assert!(!dir.path().join("m").exists());
    let keep = [&group[..], &["--set", "unfit=keep"]].concat();
    let report = awq(&model, dir.path(), "m", &keep).expect_code(0).json();
    let layers = report["metadata"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4 * 6);
    let quality = ["quality", &text(&model), &text(&dir.path().join("m"))];
    let rows = run_json(quality).expect_code(0).json();
    let loss = |row: usize| rows[row]["perplexity"].as_f64().unwrap().ln();
    assert!(loss(1) - loss(0) < 0.05, "{rows}");
}

/// Which loaders will not take the choice is said before the work.
#[test]
fn loaders_that_refuse_are_named_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    for (group, refused) in [("32", false), ("128", false), ("-1", true)] {
        let options = ["--group-size", group, "--dry-run"];
        let run = awq(&tiny_llama(), dir.path(), "m", &options).expect_code(0);
        let mut lines = run.stderr.lines();
        let named = lines.any(|line| line.contains("GPTQModel") && line.contains("refuse"));
        assert_eq!(named, refused, "{group}: {}", run.stderr);
    }
}

/// Rounding needs no text: nobody who gives none hears of it.
#[test]
fn rounding_needs_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let (model, folder) = (text(&tiny_llama()), text(dir.path()));
    let fixed = ["quantize", &model, "awq", "-q", "4bit", "-o", &folder];
    let run = run_json([&fixed[..], &ROUNDED, &["--dry-run"]].concat()).expect_code(0);
    assert!(!run.stderr.contains("statistics"), "{}", run.stderr);
    let run = run_json([&fixed[..], &["--dry-run"]].concat()).expect_code(0);
    assert!(run.stderr.contains("Calibrating on"), "{}", run.stderr);
}

#[test]
fn impossible_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for options in [
        &["--group-size", "48"][..],
        &["--group-size", "256"],
        &["--set", "no-such=1"],
        &["--set", "unfit=perhaps"],
        &["--set", "method=gptq"],
        &["--set", "clip=perhaps"],
        &["--set", "grid=0"],
        &["--set", "grid=1000000"],
    ] {
        awq(&tiny_llama(), dir.path(), "m", options).expect_code(2);
    }
}

/// As it is, a folder of AWQ has no weights that could be quantized.
#[test]
fn a_folder_of_awq_is_no_source() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = rounded(dir.path(), "first", &[]);
    let run = awq(&folder, dir.path(), "second", &[]).expect_code(8);
    let error = run.json();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("a folder of AWQ already"), "{message}");
}
