//! What is refused, and what is said beforehand.

use llm_quantize_tests::{narrow_llama, run_json, text, tiny_llama};

use super::{gptq, quantized};

/// Never a half-filled group: the layers are named, and what would fit.
#[test]
fn a_group_must_divide_the_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("narrow");
    narrow_llama(&model);
    let run = gptq(&model, "4bit", dir.path(), "m", &["--group-size", "128"]).expect_code(8);
    let error = run.json();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("down_proj"), "{message}");
    let advice = error["suggestion"].as_str().unwrap();
    assert!(advice.contains("64"), "{advice}");
    assert!(!dir.path().join("m").exists());
}

/// Which loaders will not take the choice is said before the work.
#[test]
fn loaders_that_refuse_are_named_beforehand() {
    let dir = tempfile::tempdir().unwrap();
    for (level, options, refused) in [
        ("4bit", &[][..], false),
        ("8bit", &[][..], false),
        ("3bit", &[][..], true),
        ("2bit", &[][..], true),
        ("4bit", &["--set", "sym=false"][..], true),
    ] {
        let run = gptq(
            &tiny_llama(),
            level,
            dir.path(),
            "m",
            &[options, &["--dry-run"]].concat(),
        );
        let run = run.expect_code(0);
        let vllm = run
            .stderr
            .lines()
            .any(|line| line.contains("vLLM") && line.contains("refuse"));
        assert_eq!(vllm, refused, "{level} {options:?}: {}", run.stderr);
    }
}

/// Rounding needs no text: nobody who gives none hears of it.
#[test]
fn rounding_needs_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let (model, folder) = (text(&tiny_llama()), text(dir.path()));
    let fixed = ["quantize", &model, "gptq", "-q", "4bit", "-o", &folder];
    let run = run_json([&fixed[..], &["--set", "method=rtn", "--dry-run"]].concat());
    let run = run.expect_code(0);
    assert!(!run.stderr.contains("statistics"), "{}", run.stderr);
    let run = run_json([&fixed[..], &["--dry-run"]].concat()).expect_code(0);
    assert!(run.stderr.contains("Calibrating on"), "{}", run.stderr);
}

#[test]
fn impossible_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (level, options) in [
        ("5bit", &[][..]),
        ("4bit", &["--group-size", "48"][..]),
        ("4bit", &["--set", "sym=perhaps"][..]),
        ("4bit", &["--set", "no-such=1"][..]),
        ("4bit", &["--set", "format=awq"][..]),
    ] {
        gptq(&tiny_llama(), level, dir.path(), "m", options).expect_code(2);
    }
}

/// What is quantized already is quantized again only if the user agrees.
#[test]
fn a_quantized_source_needs_consent() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = quantized("8bit", dir.path(), "first", &[]);
    gptq(&folder, "4bit", dir.path(), "second", &[]).expect_code(8);
}
