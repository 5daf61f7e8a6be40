//! AWQ from the command line: what it buys in perplexity, what its folders hold, that they are read
//! back, refusals, interrupted runs.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod interrupted;
mod margins;
mod refusals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use llm_quantize_tests::safetensors::{Tensor, read_safetensors};
use llm_quantize_tests::{Run, copy_folder, fixture, run_json, text, tiny_llama};
use serde_json::{Value, json};

/// Enough text for statistics of full rank, little enough to be quick.
const SAMPLES: [&str; 4] = ["--calibration-samples", "16", "--calibration-length", "256"];
/// Without a search.
const ROUNDED: [&str; 2] = ["--set", "method=rtn"];

/// Runs `quantize … awq` on a model; `more` are further options.
fn awq(model: &Path, folder: &Path, name: &str, more: &[&str]) -> Run {
    let (model, folder) = (text(model), text(folder));
    let corpus = text(&fixture("text/calibration.txt"));
    let fixed = ["quantize", &model, "awq", "-q", "4bit", "-o", &folder];
    let data = ["-n", name, "--calibration-data", &corpus];
    run_json([&fixed[..], &data, &SAMPLES, more].concat())
}

/// A folder that must come out, and the run's report.
fn quantized(folder: &Path, name: &str, more: &[&str]) -> (PathBuf, Value) {
    let report = awq(&tiny_llama(), folder, name, more).expect_code(0).json();
    (folder.join(name), report)
}

/// The same without a search.
fn rounded(folder: &Path, name: &str, more: &[&str]) -> (PathBuf, Value) {
    quantized(folder, name, &[&ROUNDED, more].concat())
}

fn tensors(folder: &Path) -> BTreeMap<String, Tensor> {
    let tensors = read_safetensors(&folder.join("model.safetensors")).into_iter();
    tensors
        .map(|tensor| (tensor.name.clone(), tensor))
        .collect()
}

fn document(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The folder of plain numbers that `convert` makes.
fn converted(model: &Path, folder: &Path) -> BTreeMap<String, Tensor> {
    let (model, out) = (text(model), text(folder));
    let convert = ["convert", &model, "hf", "-q", "F32", "-o", &out];
    run_json([&convert[..], &["-n", "plain"]].concat()).expect_code(0);
    tensors(&folder.join("plain"))
}

/// What every loader looks at: names, types and shapes of one layer, the configuration, and the
/// files beside it.
#[test]
fn a_folder_has_what_loaders_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, report) = quantized(dir.path(), "m", &["--group-size", "64"]);
    assert_eq!(report["format"], "awq");
    assert_eq!(report["validation_status"], "valid");
    let tensors = tensors(&folder);
    let config = document(&folder.join("config.json"));
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let (outputs, inputs) = (size("hidden_size"), size("intermediate_size"));
    let layer = "model.layers.0.mlp.down_proj";
    for (part, dtype, shape) in [
        ("qweight", "I32", [inputs, outputs / 8]),
        ("qzeros", "I32", [inputs / 64, outputs / 8]),
        ("scales", "F16", [inputs / 64, outputs]),
    ] {
        let found = &tensors[&format!("{layer}.{part}")];
        assert_eq!(
            (found.dtype(), found.shape()),
            (dtype, shape.to_vec()),
            "{part}"
        );
    }
    assert!(!tensors.contains_key(&format!("{layer}.weight")));
    assert!(tensors.contains_key("model.embed_tokens.weight"));
    let original = document(&tiny_llama().join("config.json"));
    for (key, value) in original.as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
    let quantization = &config["quantization_config"];
    for (key, value) in [
        ("quant_method", json!("awq")),
        ("zero_point", json!(true)),
        ("group_size", json!(64)),
        ("bits", json!(4)),
        ("version", json!("gemm")),
        ("modules_to_not_convert", json!(null)),
    ] {
        assert_eq!(quantization[key], value, "{key}");
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

#[test]
fn every_layer_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let layers = |report: &Value| report["metadata"]["layers"].as_array().unwrap().clone();
    let (_, report) = rounded(dir.path(), "rounded", &[]);
    let rounded = layers(&report);
    let (_, report) = quantized(dir.path(), "searched", &[]);
    let searched = layers(&report);
    assert_eq!([rounded.len(), searched.len()], [4 * 7; 2]);
    for (rounded, searched) in rounded.iter().zip(&searched) {
        assert_eq!(rounded["name"], searched["name"]);
        let error = rounded["weight_error"].as_f64().unwrap();
        assert!(error > 1e-4 && error < 0.02, "{rounded}");
        let figure = |key: &str| searched[key].as_f64().unwrap();
        assert!(
            figure("relative_error") > 0.0 && figure("relative_error") < 0.05,
            "{searched}"
        );
        assert!(
            figure("site_error") <= figure("site_error_rounded"),
            "{searched}"
        );
        assert!(
            figure("input_exponent") + figure("weight_exponent") >= 0.0,
            "{searched}"
        );
        assert!(
            figure("seconds") >= 0.0 && figure("search_seconds") >= 0.0,
            "{searched}"
        );
    }
    assert_eq!(searched[0]["name"], "model.layers.0.self_attn.q_proj");
    assert_eq!(searched[27]["name"], "model.layers.3.mlp.down_proj");
}

/// The numbers of a layer, by the format's description alone: `N × K`.
fn dequantized(folder: &BTreeMap<String, Tensor>, layer: &str, group: usize) -> Vec<f32> {
    let part = |name: &str| &folder[&format!("{layer}.{name}")];
    let words = |name: &str| -> Vec<u32> {
        let words = part(name).bytes().as_chunks().0.iter();
        words.map(|word| u32::from_le_bytes(*word)).collect()
    };
    let (codes, zeros, scales) = (words("qweight"), words("qzeros"), part("scales"));
    let [inputs, width] = part("qweight").shape()[..] else {
        panic!("{layer} is no matrix");
    };
    // The slot of each of the eight outputs of a word.
    let slots = [0, 4, 1, 5, 2, 6, 3, 7];
    let field = |words: &[u32], row: usize, output: usize| {
        let word = words[row * width + output / 8];
        (word >> (4 * slots[output % 8]) & 15) as f32
    };
    let scales = scales.bytes().as_chunks().0.iter();
    let scales: Vec<f32> = scales
        .map(|half| f16::from_le_bytes(*half).to_f32())
        .collect();
    let outputs = width * 8;
    let mut numbers = Vec::with_capacity(inputs * outputs);
    for output in 0..outputs {
        for input in 0..inputs {
            let scale = scales[input / group * outputs + output];
            let steps = field(&codes, input, output) - field(&zeros, input / group, output);
            numbers.push(scale * steps);
        }
    }
    numbers
}

/// What `convert` reads back is what the format's description says, and near to the source.
#[test]
fn folders_are_read_back() {
    for (group, size) in [("64", Some(64)), ("-1", None)] {
        let dir = tempfile::tempdir().unwrap();
        let (folder, _) = rounded(dir.path(), "m", &["--group-size", group]);
        let info = run_json(["info", &text(&folder)]).expect_code(0).json();
        assert_eq!(info["architecture"], "LlamaForCausalLM");
        let plain = converted(&folder, dir.path());
        let stored = tensors(&folder);
        let source = tempfile::tempdir().unwrap();
        let source = converted(&tiny_llama(), source.path());
        assert!(plain.keys().eq(source.keys()));
        let mut layers = 0;
        for (name, tensor) in &plain {
            let exact = &source[name];
            let layer = name.trim_end_matches(".weight");
            if !stored.contains_key(&format!("{layer}.qweight")) {
                assert!(tensor.bytes() == exact.bytes(), "{name}");
                continue;
            }
            layers += 1;
            let numbers = |tensor: &Tensor| -> Vec<f32> {
                let numbers = tensor.bytes().as_chunks().0.iter();
                numbers.map(|number| f32::from_le_bytes(*number)).collect()
            };
            let (found, exact) = (numbers(tensor), numbers(exact));
            let inputs = tensor.shape()[1];
            assert_eq!(
                found,
                dequantized(&stored, layer, size.unwrap_or(inputs)),
                "{name}"
            );
            let energy =
                |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>();
            let lost = energy(&mut found.iter().zip(&exact).map(|(a, b)| a - b));
            assert!(lost < 0.02 * energy(&mut exact.iter().copied()), "{name}");
        }
        assert_eq!(layers, 4 * 7);
    }
}

/// A quantized folder is a source for other formats.
#[test]
fn folders_are_models() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = quantized(dir.path(), "m", &["--group-size", "32"]);
    let out = text(dir.path());
    let gguf = ["quantize", &text(&folder), "gguf", "-q", "Q8_0", "-o", &out];
    let consent = ["-n", "again", "--set", "allow-requantize=true"];
    run_json([&gguf[..], &consent].concat()).expect_code(0);
}

/// The same numbers on any number of threads.
#[test]
fn threads_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let weights = ["1", "2", "5"].map(|threads| {
        let (folder, _) = quantized(dir.path(), threads, &["--threads", threads]);
        std::fs::read(folder.join("model.safetensors")).unwrap()
    });
    assert!(weights[0] == weights[1] && weights[1] == weights[2]);
}

/// Shards have the same tensors.
#[test]
fn shards_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let (one, _) = rounded(dir.path(), "one", &[]);
    let (shards, _) = rounded(dir.path(), "shards", &["--set", "max-shard-size=1M"]);
    let index = document(&shards.join("model.safetensors.index.json"));
    let mut whole = tensors(&one);
    for (name, file) in index["weight_map"].as_object().unwrap() {
        let file = shards.join(file.as_str().unwrap());
        let mut found = read_safetensors(&file).into_iter();
        let found = found.find(|t| t.name == *name).unwrap();
        let expected = whole.remove(name).unwrap();
        assert!(found.bytes() == expected.bytes(), "{name}");
    }
    assert!(whole.is_empty());
}

/// A folder of which the header, the configuration or the length has changed is no model.
#[test]
fn damaged_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, _) = rounded(dir.path(), "m", &[]);
    let damage = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let damaged = dir.path().join("damaged");
        let _ = std::fs::remove_dir_all(&damaged);
        copy_folder(&folder, &damaged);
        let path = damaged.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        let run = run_json(["info", &text(&damaged)]);
        assert_ne!(run.code, 0, "{}", run.stdout);
        let error = run.json();
        error["message"].as_str().unwrap().to_owned()
    };
    let replace = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| {
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes());
            let at = at.unwrap();
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        }
    };
    let message = damage(
        "model.safetensors",
        &replace("q_proj.scales", "q_proj.scalez"),
    );
    assert!(message.contains("has no tensor"), "{message}");
    let message = damage("model.safetensors", &replace("\"I32\"", "\"I36\""));
    assert!(message.contains("model.safetensors"), "{message}");
    let message = damage("config.json", &replace("\"gemm\"", "\"gems\""));
    assert!(message.contains("the layout \"gems\""), "{message}");
    damage("model.safetensors", &|bytes| {
        bytes.truncate(bytes.len() - 1)
    });
}
