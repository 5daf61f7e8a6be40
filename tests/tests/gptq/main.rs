//! GPTQ from the command line: what it buys in perplexity, what its folders hold, refusals,
//! interrupted runs.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod interrupted;
mod margins;
mod refusals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llm_quantize_tests::safetensors::read_safetensors;
use llm_quantize_tests::{Run, fixture, perplexity, run_json, text, tiny_llama};
use serde_json::{Value, json};

/// Enough text for statistics of full rank, little enough to be quick.
const SAMPLES: [&str; 4] = ["--calibration-samples", "16", "--calibration-length", "256"];

/// Runs `quantize … gptq` on a model; `more` are further options.
fn gptq(model: &Path, level: &str, folder: &Path, name: &str, more: &[&str]) -> Run {
    let (model, folder) = (text(model), text(folder));
    let corpus = text(&fixture("text/calibration.txt"));
    let fixed = ["quantize", &model, "gptq", "-q", level, "-o", &folder];
    let data = ["-n", name, "--calibration-data", &corpus];
    run_json([&fixed[..], &data, &SAMPLES, more].concat())
}

/// A folder that must come out, and the run's report.
fn quantized(level: &str, folder: &Path, name: &str, more: &[&str]) -> (PathBuf, Value) {
    let run = gptq(&tiny_llama(), level, folder, name, more).expect_code(0);
    let report = run.json();
    (folder.join(name), report)
}

/// Type and shape of all tensors of a folder with one file of weights.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>)> {
    let tensors = read_safetensors(&folder.join("model.safetensors"));
    let entries = tensors.into_iter();
    entries
        .map(|tensor| {
            (
                tensor.name.clone(),
                (tensor.dtype().to_owned(), tensor.shape()),
            )
        })
        .collect()
}

fn document(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// What every loader looks at: names, types and shapes of one layer, both configurations, and
/// the files beside them.
#[test]
fn a_folder_has_what_loaders_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, report) = quantized("4bit", dir.path(), "m", &["--group-size", "64"]);
    assert_eq!(report["format"], "gptq");
    assert_eq!(report["validation_status"], "valid");
    let tensors = tensors(&folder);
    let layer = "model.layers.0.mlp.down_proj";
    let (outputs, inputs) = down_projection();
    let expected = [
        ("qweight", "I32", vec![inputs / 8, outputs]),
        ("qzeros", "I32", vec![inputs / 64, outputs / 8]),
        ("scales", "F16", vec![inputs / 64, outputs]),
        ("g_idx", "I32", vec![inputs]),
    ];
    for (part, dtype, shape) in expected {
        let found = &tensors[&format!("{layer}.{part}")];
        assert_eq!((found.0.as_str(), &found.1), (dtype, &shape), "{part}");
    }
    assert!(!tensors.contains_key(&format!("{layer}.weight")));
    assert!(tensors.contains_key("model.embed_tokens.weight"));
    let config = document(&folder.join("config.json"));
    let original = document(&tiny_llama().join("config.json"));
    for (key, value) in original.as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
    let quantization = &config["quantization_config"];
    for (key, value) in [
        ("quant_method", json!("gptq")),
        ("checkpoint_format", json!("gptq")),
        ("bits", json!(4)),
        ("group_size", json!(64)),
        ("desc_act", json!(false)),
        ("sym", json!(true)),
    ] {
        assert_eq!(quantization[key], value, "{key}");
        assert_eq!(document(&folder.join("quantize_config.json"))[key], value);
    }
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ] {
        let copy = std::fs::read(folder.join(name)).unwrap();
        assert_eq!(copy, std::fs::read(tiny_llama().join(name)).unwrap());
    }
}

/// Outputs and inputs of the down projection.
fn down_projection() -> (usize, usize) {
    let config = document(&tiny_llama().join("config.json"));
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    (size("hidden_size"), size("intermediate_size"))
}

#[test]
fn every_layer_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (_, report) = quantized("3bit", dir.path(), "m", &[]);
    let layers = report["metadata"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 4 * 7);
    for layer in layers {
        let figure = |key: &str| layer[key].as_f64().unwrap();
        assert!(
            figure("relative_error") > 0.0 && figure("relative_error") < 0.2,
            "{layer}"
        );
        assert!(
            figure("damping") > 0.0 && figure("seconds") >= 0.0,
            "{layer}"
        );
        assert_eq!(figure("tokens"), 16.0 * 256.0, "{layer}");
    }
    assert_eq!(layers[0]["name"], "model.layers.0.self_attn.q_proj");
}

/// The same numbers on any number of threads.
#[test]
fn threads_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let weights = ["1", "2", "5"].map(|threads| {
        let (folder, _) = quantized("4bit", dir.path(), threads, &["--threads", threads]);
        std::fs::read(folder.join("model.safetensors")).unwrap()
    });
    assert!(weights[0] == weights[1] && weights[1] == weights[2]);
}

/// A folder can be described, measured, and turned into a plain one; a quantized model is a
/// source, too.
#[test]
fn folders_are_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = quantized("8bit", dir.path(), "m", &["--group-size", "-1"]);
    let info = run_json(["info", &text(&folder)]).expect_code(0).json();
    assert_eq!(info["architecture"], "LlamaForCausalLM");
    assert_eq!(info["num_layers"], 4);
    let out = text(dir.path());
    let convert = [
        "convert",
        &text(&folder),
        "hf",
        "-q",
        "F32",
        "-o",
        &out,
        "-n",
        "plain",
    ];
    run_json(convert).expect_code(0);
    let plain = perplexity(&dir.path().join("plain"));
    assert_eq!(
        plain,
        perplexity(&folder),
        "decoded beforehand or on the way"
    );
    let gguf = [
        "quantize",
        &text(&folder),
        "gguf",
        "-q",
        "Q8_0",
        "-o",
        &out,
        "-n",
        "again",
    ];
    run_json([&gguf[..], &["--set", "allow-requantize=true"]].concat()).expect_code(0);
}
