//! Runs with a calibration that are killed, again and again: the next one goes on after the last
//! finished block, with the same bytes.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Run, checkpoint, deep_llama, fixture, names, program, sha256, text};

const LAYERS: usize = 10;

/// Kills runs of a format after the second, the fourth and the sixth block of ten, lets the next
/// one finish, and compares it with one that was left alone. `times` are the figures in the report
/// that say how long something took.
pub fn goes_on_after_the_last_finished_block(format: &str, times: &[&str]) {
    let model = tempfile::tempdir().expect("a folder");
    deep_llama(model.path(), LAYERS);
    let out = tempfile::tempdir().expect("a folder");
    let begin = |name: &str| start(format, model.path(), out.path(), name);
    let whole = finish(begin("whole"));
    let mut last = 0;
    // The third one kills a run at no special place, usually in mid-block.
    for (wanted, more) in [(2, 0), (4, 0), (6, 15)] {
        let mut child = begin("m");
        let begun = Instant::now();
        while checkpoint(out.path(), "m").is_none_or(|block| block < wanted) {
            assert!(begun.elapsed() < Duration::from_secs(120));
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(more));
        child.kill().expect("a child");
        child.wait().expect("a child");
        let now = checkpoint(out.path(), "m").expect("a checkpoint");
        assert!(now > last && now < LAYERS, "{last} {now}");
        last = now;
    }
    let report = finish(begin("m"));
    let resumed = report["metadata"]["layers_resumed"].as_u64();
    assert!(resumed.is_some_and(|layers| layers >= 6), "{report}");
    let weights = |name: &str| sha256(&out.path().join(name).join("model.safetensors"));
    assert_eq!(weights("m"), weights("whole"));
    // What was measured before the interruption is reported all the same.
    assert_eq!(without(&report, times), without(&whole, times));
    assert_eq!(names(out.path()), ["m", "whole"]);
}

fn start(format: &str, model: &Path, folder: &Path, name: &str) -> Child {
    let corpus = text(&fixture("text/calibration.txt"));
    program()
        .args(["--threads", "1", "--format", "json"])
        .args(["quantize", &text(model), format, "-q", "4bit"])
        .args(["-o", &text(folder), "-n", name])
        .args(["--calibration-data", &corpus])
        .args(["--calibration-samples", "16", "--calibration-length", "128"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

fn finish(child: Child) -> Value {
    let run: Run = child.wait_with_output().expect("a child").into();
    run.expect_code(0).json()
}

/// The report about layers without some figures.
fn without(report: &Value, figures: &[&str]) -> Vec<Value> {
    let layers = report["metadata"]["layers"].as_array();
    let mut layers = layers.expect("layers").clone();
    for layer in layers.iter_mut().filter_map(Value::as_object_mut) {
        layer.retain(|name, _| !figures.contains(&&**name));
    }
    layers
}
