//! Calibrations that are killed go on after the last finished block.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use llm_quantize_tests::{checkpoint, deep_llama, fixture, names, program, sha256};

use super::text;

const LAYERS: usize = 12;

fn start(model: &Path, output: &Path) -> Child {
    let corpus = text(&fixture("text/calibration.txt"));
    program()
        .args(["--threads", "1", "--format", "json", "analyze"])
        .args([
            &text(model),
            "-o",
            &text(output),
            "--calibration-data",
            &corpus,
        ])
        .args(["--calibration-samples", "64", "--calibration-length", "128"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_run_goes_on_after_the_last_finished_block() {
    let model = tempfile::tempdir().unwrap();
    deep_llama(model.path(), LAYERS);
    let out = tempfile::tempdir().unwrap();
    let whole = out.path().join("whole.gguf");
    assert!(start(model.path(), &whole).wait().unwrap().success());

    let path = out.path().join("i.gguf");
    let mut last = 0;
    // Twice: the second one kills a run that goes on itself.
    for wanted in [2, 5] {
        let mut child = start(model.path(), &path);
        let begin = Instant::now();
        while checkpoint(out.path(), "i.gguf").is_none_or(|block| block < wanted) {
            assert!(begin.elapsed() < Duration::from_secs(60));
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let now = checkpoint(out.path(), "i.gguf").unwrap();
        assert!(now > last && now < LAYERS, "{last} {now}");
        last = now;
    }
    let run: llm_quantize_tests::Run = start(model.path(), &path)
        .wait_with_output()
        .unwrap()
        .into();
    let report = run.expect_code(0).json();
    let resumed = report["metadata"]["layers_resumed"].as_u64().unwrap();
    assert!(resumed >= 5, "{report}");
    assert_eq!(report["metadata"]["layers_processed"], LAYERS);
    assert_eq!(sha256(&path), sha256(&whole));
    assert_eq!(names(out.path()), ["i.gguf", "whole.gguf"]);
}
