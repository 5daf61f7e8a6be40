//! Runs the program in a clean environment, and builds small models for it.

// Each test file is a crate of its own and uses only a part of this.
#![allow(dead_code)]
// What cannot be set up ends the test; there is nobody to hand an error to.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The program, with no plugin folders of this machine and no colours.
pub fn program() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("llm-quantize"));
    for name in [
        "LLM_QUANTIZE_PLUGIN_PATH",
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "HF_TOKEN",
    ] {
        command.env_remove(name);
    }
    command.env("XDG_DATA_HOME", "/nonexistent");
    command.env("XDG_CONFIG_HOME", "/nonexistent");
    command.env(
        "LLM_QUANTIZE_CACHE",
        concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"),
    );
    // No test may ask the real Hub.
    command
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", "/nonexistent");
    command.stdin(Stdio::null());
    command
}

/// Runs the program with these arguments.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: &[S]) -> Output {
    program().args(arguments).output().unwrap()
}

/// The exit code.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// stdout as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// stderr as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// stdout as the one JSON document that it must be.
pub fn document(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// Asserts a failure: its code, its document on stdout, its words on stderr.
pub fn assert_error(output: &Output, expected: i32, error_type: &str, words: &str) {
    assert_eq!(code(output), expected, "{}", stderr(output));
    let document = document(output);
    assert_eq!(document["status"], "error");
    assert_eq!(document["error_code"], expected);
    assert_eq!(document["error_type"], error_type);
    let message = document["message"].as_str().unwrap();
    assert!(message.contains(words), "{message}");
    assert!(document["suggestion"].is_string(), "{document}");
    assert!(!stderr(output).is_empty());
}

/// A tensor of a test model: name, type, shape; its content is zero.
pub type Tensor<'a> = (&'a str, &'a str, &'a [usize]);

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "F32" | "I32" => 4,
            _ => 2,
        };
        let start = end;
        end += shape.iter().product::<usize>() * size;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len() + end, 0);
    bytes
}

const FIRST: [Tensor<'static>; 2] = [
    ("model.embed_tokens.weight", "BF16", &[32, 8]),
    ("model.layers.0.self_attn.q_proj.weight", "BF16", &[8, 8]),
];
const SECOND: [Tensor<'static>; 2] = [
    ("model.layers.1.self_attn.q_proj.weight", "BF16", &[8, 8]),
    ("model.norm.weight", "F32", &[8]),
];

/// Numbers in the test model.
pub const PARAMETERS: usize = 32 * 8 + 2 * 64 + 8;

/// A model folder with one file of weights, in the newest spelling of configs.
pub fn model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [&FIRST[..], &SECOND[..]].concat();
    std::fs::write(
        folder.path().join("model.safetensors"),
        safetensors(&tensors),
    )
    .unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 32, "max_position_embeddings": 64,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    });
    write_json(&folder.path().join("config.json"), &config);
    let tokenizer = json!({"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}});
    write_json(&folder.path().join("tokenizer.json"), &tokenizer);
    folder
}

/// Names of the two shards of [`sharded_model`].
pub const SHARDS: [&str; 2] = [
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
];

/// The same model in two shards, in the older spelling of configs.
pub fn sharded_model() -> TempDir {
    let folder = model();
    let path = |name: &str| folder.path().join(name);
    std::fs::remove_file(path("model.safetensors")).unwrap();
    let mut map = BTreeMap::new();
    for (name, tensors) in SHARDS.into_iter().zip([&FIRST, &SECOND]) {
        std::fs::write(path(name), safetensors(tensors)).unwrap();
        map.extend(tensors.iter().map(|(tensor, ..)| (*tensor, name)));
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    write_json(&path("model.safetensors.index.json"), &index);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(path("config.json")).unwrap()).unwrap();
    let fields = config.as_object_mut().unwrap();
    fields.remove("dtype");
    fields.remove("rope_parameters");
    fields.insert("torch_dtype".into(), "bfloat16".into());
    fields.insert("rope_theta".into(), 10000.0.into());
    write_json(&path("config.json"), &config);
    folder
}

/// Writes a document.
pub fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

/// The path as an argument.
pub fn argument(folder: &TempDir) -> String {
    folder.path().to_str().unwrap().to_owned()
}

/// An empty folder for plugins, so that none of the build folder is found first.
pub fn path_in(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}
