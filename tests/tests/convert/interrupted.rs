//! Killed conversions go on, with the same bytes.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use llm_quantize_tests::{deep_llama, program, run_json, text};

use super::Place;

#[test]
fn a_killed_conversion_goes_on() {
    let place = Place::new();
    let deep = place.path().join("deep");
    deep_llama(&deep, 64);
    let (model, folder) = (text(&deep), text(place.path()));
    let quantize = [
        "quantize",
        &model,
        "gptq",
        "-q",
        "4bit",
        "--group-size",
        "32",
        "--set",
        "method=rtn",
        "-o",
        &folder,
        "-n",
        "source",
    ];
    run_json(quantize).expect_code(0);
    let source = place.path().join("source");
    let begun = Instant::now();
    let whole = place.convert(&source, "gguf", "whole", &[]);
    let whole_time = begun.elapsed();
    let input = text(&source);
    let arguments = ["convert", &input, "gguf", "-o", &folder, "-n", "killed"];
    // When a run has something on the disk, but not everything, depends on the machine.
    for share in (1..40).cycle().take(80).map(|n| f64::from(n) / 40.0) {
        let mut child = program()
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(whole_time.mul_f64(share));
        child.kill().unwrap();
        child.wait().unwrap();
        if place.path().join("killed.gguf").exists() {
            fs::remove_file(place.path().join("killed.gguf")).unwrap();
            continue;
        }
        let report = place.try_convert(&source, "gguf", "killed", &[]);
        let report = report.expect_code(0).json();
        let killed = place.path().join("killed.gguf");
        assert!(fs::read(&whole.path).unwrap() == fs::read(&killed).unwrap());
        if report["metadata"]["pieces_resumed"].as_u64() > Some(0) {
            return;
        }
        fs::remove_file(killed).unwrap();
    }
    panic!("no run was caught in its middle");
}
