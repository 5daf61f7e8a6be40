//! Helpers that the end-to-end tests share: the built program, runs of it, models.

// Only tests use this: what cannot be had fails the test.
#![allow(clippy::expect_used)]

pub mod hub_server;
pub mod killed;
#[cfg(unix)]
mod limited;
pub mod safetensors;
pub mod synthetic;

#[cfg(unix)]
pub use limited::{check_outcome, run_limited};

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The project's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// A file or folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// The built-in model as a folder.
pub fn tiny_llama() -> PathBuf {
    fixture("tiny-llama")
}

/// Writes the built-in model with its layers repeated: a run over it takes long enough to
/// be caught in the middle.
pub fn deep_llama(folder: &Path, layers: usize) {
    use safetensors::{Tensor, read_safetensors, write_safetensors};
    copy_folder(&tiny_llama(), folder);
    edit_json(&folder.join("config.json"), |config| {
        config["num_hidden_layers"] = Value::from(layers);
    });
    let path = folder.join("model.safetensors");
    let (blocks, mut tensors): (Vec<Tensor>, Vec<Tensor>) = read_safetensors(&path)
        .into_iter()
        .partition(|tensor| tensor.name.contains("layers.0."));
    tensors.retain(|tensor| !tensor.name.contains("layers."));
    for layer in 0..layers {
        tensors.extend(blocks.iter().cloned().map(|mut tensor| {
            tensor.name = tensor
                .name
                .replace("layers.0.", &format!("layers.{layer}."));
            tensor
        }));
    }
    write_safetensors(&path, &tensors);
}

/// Writes the built-in model with an MLP of 704 channels, which 128 does not divide.
pub fn narrow_llama(folder: &Path) {
    use safetensors::{read_safetensors, write_safetensors};
    const WIDTH: usize = 704;
    copy_folder(&tiny_llama(), folder);
    edit_json(&folder.join("config.json"), |config| {
        config["intermediate_size"] = WIDTH.into();
    });
    let path = folder.join("model.safetensors");
    let mut tensors = read_safetensors(&path);
    for tensor in &mut tensors {
        match tensor.name.rsplit('.').nth(1) {
            Some("down_proj") => tensor.keep_columns(WIDTH),
            Some("gate_proj" | "up_proj") => tensor.keep_rows(WIDTH),
            _ => {}
        }
    }
    write_safetensors(&path, &tensors);
}

/// Perplexity of a model on the held-out text.
pub fn perplexity(model: &Path) -> f64 {
    let data = text(&fixture("text/eval.txt"));
    let options = ["--data", &data, "--windows", "24", "--context", "512"];
    let rows = run_json([&["quality", &text(model)][..], &options].concat());
    let rows = rows.expect_code(0).json();
    rows[0]["perplexity"].as_f64().expect("a number")
}

/// Where cargo puts what it builds with the tests' own profile. Builds the program, its
/// plugins and the plugins among the examples on the first call.
pub fn build_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let folder = test
            .ancestors()
            .nth(2)
            .expect("tests run in <target>/<profile>/deps");
        let target = folder
            .parent()
            .expect("a profile's folder lies in the target folder");
        // With the examples come the same features as in a test build, so that what
        // cargo has just built for the tests is not built once more.
        cargo_build(target, &["--workspace", "--lib", "--bins", "--examples"]);
        folder.to_owned()
    })
}

fn cargo_build(target: &Path, what: &[&str]) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .arg("build")
        .args(what)
        .arg("--target-dir")
        .arg(target);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    // What cargo tells a test about its package: some build scripts look at it, and would build
    // their crates again whenever it differs.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&key);
        }
    }
    let status = cargo.current_dir(root()).status().expect("cargo runs");
    assert!(status.success(), "cargo build {what:?} failed");
}

/// A cache folder for this test program's runs alone, empty at first.
fn cache() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let name = test.file_name().unwrap_or_default();
        let folder = build_folder().join("test-cache").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("space on the disk");
        folder
    })
}

/// The library of an example: `absmax8`, or one of `tests/examples`.
pub fn example(name: &str) -> PathBuf {
    use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
    let file = format!("{DLL_PREFIX}{name}{DLL_SUFFIX}");
    build_folder().join("examples").join(file)
}

/// A finished run of the program.
pub struct Run {
    /// Exit code; -1 for a death by signal.
    pub code: i32,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Run {
    /// Panics with everything that was printed unless the code is this one.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "stdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.stdout))
    }
}

/// The program, in surroundings that are the same for everyone: without the user's
/// configuration, plugins and cache, and without the real Hub.
pub fn program() -> Command {
    isolated(program_path())
}

/// Path of the built program.
pub fn program_path() -> PathBuf {
    build_folder().join(format!("llm-quantize{}", std::env::consts::EXE_SUFFIX))
}

/// Any build of the program, or a shell that starts it, in the same surroundings.
pub fn isolated(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in [
        "LLM_QUANTIZE_PLUGIN_PATH",
        "LLM_QUANTIZE_PROBE_TIMEOUT",
        "LLM_QUANTIZE_CACHE",
        "LLM_QUANTIZE_CHECKPOINT_DIR",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_ENDPOINT",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
    ] {
        command.env_remove(name);
    }
    command
        .env("NO_PROXY", "*")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", "/nonexistent")
        .env("XDG_CACHE_HOME", cache())
        .env("XDG_CONFIG_HOME", cache().join("no-config"))
        .env("XDG_DATA_HOME", cache().join("no-data"));
    command
}

/// Runs a prepared command to its end.
pub fn finish(command: &mut Command) -> Run {
    let output: Output = command.output().expect("the program starts");
    output.into()
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs the program.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    finish(program().args(arguments))
}

/// Runs the program with JSON results.
pub fn run_json<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Run {
    let json = ["--format", "json"].map(|a| OsStr::new(a).to_owned());
    let all = json
        .into_iter()
        .chain(arguments.into_iter().map(|a| a.as_ref().to_owned()));
    run(all)
}

/// Quantizes a model and returns the output's path.
#[track_caller]
pub fn quantize(model: &Path, level: &str, folder: &Path, more: &[&str]) -> PathBuf {
    let model = model.to_string_lossy();
    let folder = folder.to_string_lossy();
    let mut arguments = vec!["quantize", &model, "gguf", "-q", level, "-o", &folder];
    arguments.extend(more);
    let run = run_json(&arguments).expect_code(0);
    PathBuf::from(run.json()["output_path"].as_str().expect("a path"))
}

/// Names of the files in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where a calibration for an output of this name would go on: the block that the kept
/// activations enter.
pub fn checkpoint(folder: &Path, output: &str) -> Option<usize> {
    let folder = folder.join(format!(".checkpoint/{output}.calibration"));
    let names = folder.exists().then(|| names(&folder))?;
    names.iter().find_map(|name| {
        let number = name.strip_prefix("block-")?.strip_suffix(".activations")?;
        number.parse().ok()
    })
}

/// SHA-256 of a file, in hexadecimal.
pub fn sha256(path: &Path) -> String {
    let bytes = std::fs::read(path).expect("a file");
    let mut text = String::new();
    for byte in Sha256::digest(&bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Copies a folder of plain files.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for name in names(from) {
        let bytes = std::fs::read(from.join(&name)).expect("a file");
        std::fs::write(to.join(&name), bytes).expect("space on the disk");
    }
}

/// Changes a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let text = std::fs::read_to_string(path).expect("a file");
    let mut value = serde_json::from_str(&text).expect("JSON");
    edit(&mut value);
    std::fs::write(path, value.to_string()).expect("space on the disk");
}
