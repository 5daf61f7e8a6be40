//! Killed runs: the next one goes on after the last finished block, with the same bytes.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use llm_quantize_tests::{Run, checkpoint, deep_llama, fixture, names, program, sha256};

use super::text;

const LAYERS: usize = 10;

fn start(model: &Path, folder: &Path, name: &str) -> Child {
    let corpus = text(&fixture("text/calibration.txt"));
    program()
        .args([
            "--threads",
            "1",
            "--format",
            "json",
            "quantize",
            &text(model),
        ])
        .args(["gptq", "-q", "4bit", "-o", &text(folder), "-n", name])
        .args(["--calibration-data", &corpus])
        .args(["--calibration-samples", "16", "--calibration-length", "128"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) -> serde_json::Value {
    let run: Run = child.wait_with_output().unwrap().into();
    run.expect_code(0).json()
}

#[test]
fn a_killed_run_goes_on_after_the_last_finished_block() {
    let model = tempfile::tempdir().unwrap();
    deep_llama(model.path(), LAYERS);
    let out = tempfile::tempdir().unwrap();
    let whole = finish(start(model.path(), out.path(), "whole"));
    let mut last = 0;
    // The third one kills a run at no special place, usually in mid-block.
    for (wanted, more) in [(2, 0), (4, 0), (6, 15)] {
        let mut child = start(model.path(), out.path(), "m");
        let begin = Instant::now();
        while checkpoint(out.path(), "m").is_none_or(|block| block < wanted) {
            assert!(begin.elapsed() < Duration::from_secs(120));
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(more));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = checkpoint(out.path(), "m").unwrap();
        assert!(now > last && now < LAYERS, "{last} {now}");
        last = now;
    }
    let report = finish(start(model.path(), out.path(), "m"));
    let resumed = report["metadata"]["layers_resumed"].as_u64().unwrap();
    assert!(resumed >= 6, "{report}");
    let weights = |name: &str| sha256(&out.path().join(name).join("model.safetensors"));
    assert_eq!(weights("m"), weights("whole"));
    // What was measured before the interruption is reported all the same.
    assert_eq!(without_times(&report), without_times(&whole));
    assert_eq!(names(out.path()), ["m", "whole"]);
}

/// The report about layers, but for how long they took.
fn without_times(report: &serde_json::Value) -> Vec<serde_json::Value> {
    let mut layers = report["metadata"]["layers"].as_array().unwrap().clone();
    for layer in &mut layers {
        layer.as_object_mut().unwrap().remove("seconds");
    }
    layers
}
