//! Conversions between formats: by which route, with what numbers, and what is refused.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod base;
mod interrupted;
mod mixed;
mod refusals;
mod round_trips;
mod routes;
mod versions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use llm_quantize_tests::safetensors::{Tensor, read_safetensors};
use llm_quantize_tests::{Run, run_json, text, tiny_llama};
use serde_json::Value;
use tempfile::TempDir;

/// A folder for models.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Quantizes the built-in model by rounding to the nearest.
    fn quantize(&self, format: &str, name: &str, arguments: &[&str]) -> PathBuf {
        let (model, folder) = (text(&tiny_llama()), text(self.path()));
        let mut all = vec!["quantize", &model, format, "-o", &folder, "-n", name];
        if format != "gguf" {
            all.extend(["--set", "method=rtn"]);
        }
        all.extend(arguments);
        output(&run_json(all).expect_code(0).json())
    }

    fn try_convert(&self, source: &Path, format: &str, name: &str, arguments: &[&str]) -> Run {
        let (model, folder) = (text(source), text(self.path()));
        let all = ["convert", &model, format, "-o", &folder, "-n", name];
        run_json([&all[..], arguments].concat())
    }

    fn convert(&self, source: &Path, format: &str, name: &str, arguments: &[&str]) -> Converted {
        let report = self.try_convert(source, format, name, arguments);
        let report = report.expect_code(0).json();
        Converted {
            path: output(&report),
            level: report["quantization_level"].as_str().unwrap().to_owned(),
            routes: report["metadata"]["routes"].clone(),
        }
    }

    /// The numbers of all tensors of a model, by their Hugging Face names.
    fn numbers(&self, model: &Path) -> BTreeMap<String, Vec<u8>> {
        let name = format!("numbers-of-{}", model.file_name().unwrap().display());
        let arguments = ["-q", "F32", "--overwrite", "--no-checkpoints"];
        let plain = self.convert(model, "hf", &name, &arguments);
        let tensors = tensors(&plain.path).into_iter();
        let numbers = tensors.map(|tensor| (tensor.name.clone(), positive_zeros(tensor.bytes())));
        numbers.collect()
    }
}

/// Zeros have no sign that would matter.
fn positive_zeros(bytes: &[u8]) -> Vec<u8> {
    let numbers = bytes.as_chunks::<4>().0.iter();
    let numbers = numbers.map(|bytes| f32::from_le_bytes(*bytes) + 0.0);
    numbers.flat_map(f32::to_le_bytes).collect()
}

/// What a conversion made.
struct Converted {
    path: PathBuf,
    level: String,
    routes: Value,
}

impl Converted {
    fn count(&self, route: &str) -> u64 {
        self.routes[route].as_u64().unwrap()
    }

    /// How many tensors came exactly, near-exactly, decoded, requantized.
    fn counts(&self) -> [u64; 4] {
        ["exact", "near_exact", "decoded", "requantized"].map(|route| self.count(route))
    }
}

fn output(report: &Value) -> PathBuf {
    report["output_path"].as_str().unwrap().into()
}

/// The bytes of a folder's weights.
fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

fn tensors(folder: &Path) -> Vec<Tensor> {
    read_safetensors(&folder.join("model.safetensors"))
}

fn config(folder: &Path) -> Value {
    let bytes = std::fs::read(folder.join("config.json")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Linear layers of the built-in model's blocks.
const LAYERS: u64 = 28;
