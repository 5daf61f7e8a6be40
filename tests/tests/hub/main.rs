//! Models on the Hub: what is downloaded and what is not, what happens when it goes
//! wrong, and that other clients find it.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

mod access;
mod base;
mod cache;
mod faults;
mod gguf;
mod headers;
mod running;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use llm_quantize_tests::hub_server::{
    COMMIT, Host, HubServer, Logged, REPOSITORY, TAG, files_of, with_clutter,
};
use llm_quantize_tests::{Run, names, program, quantize, run_json, sha256, tiny_llama};
use serde_json::{Value, json};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";
const TOKEN: &str = "hf_0123456789secret";

/// A Hub, a machine that knows it, and nothing in its cache.
struct Setup {
    hub: HubServer,
    home: TempDir,
    out: TempDir,
}

impl Setup {
    fn new() -> Self {
        Self::of(HubServer::of_folder(&tiny_llama()))
    }

    fn with_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::of(HubServer::start(files))
    }

    fn of(hub: HubServer) -> Self {
        Self {
            hub,
            home: tempfile::tempdir().unwrap(),
            out: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .args(["--format", "json"])
            .args(arguments)
            .env("HF_ENDPOINT", &self.hub.url)
            .env("HF_HOME", self.home.path())
            .env_remove("HF_HUB_OFFLINE")
            .stdin(Stdio::null());
        command
    }

    fn quantize_command(&self, model: &str) -> Command {
        let out = self.out.path().to_str().unwrap();
        let mut command = self.command(&["quantize", model, "gguf", "-q", "Q8_0", "-o", out]);
        command.arg("--overwrite");
        command
    }

    fn quantize(&self, model: &str) -> Run {
        self.quantize_command(model).output().unwrap().into()
    }

    fn info(&self, model: &str) -> Run {
        self.command(&["info", model]).output().unwrap().into()
    }

    fn model_folder(&self) -> PathBuf {
        self.home.path().join("hub/models--org--tiny-llama")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.model_folder().join("blobs").join(self.hub.hash(name))
    }

    fn incomplete(&self, name: &str) -> PathBuf {
        let hash = self.hub.hash(name);
        self.model_folder()
            .join("blobs")
            .join(format!("{hash}.incomplete"))
    }

    /// Answers with the weights since the last call.
    fn weights_log(&self) -> Vec<Logged> {
        of_weights(&self.hub.take_log())
    }
}

fn run(mut command: Command) -> Run {
    command.output().unwrap().into()
}

fn of_weights(log: &[Logged]) -> Vec<Logged> {
    let weights = |entry: &&Logged| entry.host == Host::Storage && entry.path.contains("model");
    log.iter().filter(weights).cloned().collect()
}

fn sent(log: &[Logged]) -> u64 {
    log.iter().map(|entry| entry.sent).sum()
}

fn ranges(log: &[Logged]) -> Vec<Option<u64>> {
    log.iter()
        .map(|entry| entry.range.as_ref().map(|range| range.start))
        .collect()
}

#[track_caller]
fn refusal(run: Run, code: i32, message: &str, suggestion: &str) -> Value {
    let error = run.expect_code(code).json();
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    assert!(text("message").contains(message), "{error}");
    assert!(text("suggestion").contains(suggestion), "{error}");
    error
}

/// The length of the header of a safetensors file.
fn header_length(bytes: &[u8]) -> u64 {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(tiny_llama().join(name)).unwrap()
}

/// The built-in model as one GGUF file.
fn gguf(level: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::read(quantize(&tiny_llama(), level, dir.path(), &[])).unwrap()
}

/// The built-in model in two shards.
fn sharded() -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(&tiny_llama());
    let whole = files.remove(WEIGHTS).unwrap();
    let start = header_length(&whole) as usize;
    let header: serde_json::Map<String, Value> = serde_json::from_slice(&whole[8..start]).unwrap();
    let tensors: Vec<_> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    let mut map = serde_json::Map::new();
    for (place, part) in tensors.chunks(tensors.len().div_ceil(2)).enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", place + 1);
        let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
        for (tensor, info) in part {
            let mut info = (*info).clone();
            let offset = |place: usize| info["data_offsets"][place].as_u64().unwrap() as usize;
            let bytes = &whole[start + offset(0)..start + offset(1)];
            info["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
            data.extend(bytes);
            header.insert((*tensor).clone(), info);
            map.insert((*tensor).clone(), name.clone().into());
        }
        let header = Value::from(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        bytes.extend(data);
        files.insert(name, bytes);
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    files.insert(
        "model.safetensors.index.json".into(),
        index.to_string().into_bytes(),
    );
    files
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "{what} never happened"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn size_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}
