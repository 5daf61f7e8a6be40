//! A plugin whose layers see what the quantized layers before them give: through the boundary,
//! from the command line, killed and continued.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use llm_quantize_tests::{
    Run, deep_llama, example, fixture, names, program, run_json, sha256, text, tiny_llama,
};
use serde_json::Value;

const LAYERS: usize = 8;
/// The linear layers of a block by their names, in the order in which a model runs them.
const NAMES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A folder that holds the plugin alone.
fn plugins() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let library = example("sequential_rounding");
    fs::copy(&library, dir.path().join(library.file_name().unwrap())).unwrap();
    dir
}

/// The arguments of a run on so many samples.
fn arguments(plugins: &Path, model: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let (folder, name) = (output.parent().unwrap(), output.file_name().unwrap());
    let [plugins, model, folder] = [plugins, model, folder].map(text);
    let corpus = text(&fixture("text/calibration.txt"));
    let mut all = vec!["--plugin-dir", &plugins, "quantize", &model, "sequential"];
    all.extend(["-o", &folder, "-n", name.to_str().unwrap()]);
    all.extend(["--calibration-data", &corpus, "--calibration-length", "128"]);
    if !more.contains(&"--calibration-samples") {
        all.extend(["--calibration-samples", "8"]);
    }
    if !more.contains(&"-q") {
        all.extend(["-q", "STAGES"]);
    }
    all.extend(more);
    all.into_iter().map(str::to_owned).collect()
}

fn quantize(model: &Path, output: &Path, more: &[&str]) -> Run {
    run_json(arguments(plugins().path(), model, output, more))
}

#[test]
fn the_plugin_conforms() {
    let dir = plugins();
    let check = ["plugin", "check", &text(&example("sequential_rounding"))].map(str::to_owned);
    let folder = ["--plugin-dir".to_owned(), text(dir.path())];
    run_json(folder.iter().chain(&check)).expect_code(0);
}

#[test]
fn each_layer_is_reported_in_the_models_order() {
    let out = tempfile::tempdir().unwrap();
    let run = quantize(&tiny_llama(), &out.path().join("a"), &[]).expect_code(0);
    let metadata = &run.json()["metadata"];
    let layers = metadata["layers"].as_array().unwrap();
    let blocks = (0..4).flat_map(|block| NAMES.map(|name| format!("model.layers.{block}.{name}")));
    let expected: Vec<String> = blocks.chain(["lm_head".to_owned()]).collect();
    let found: Vec<&str> = layers.iter().map(|l| l["name"].as_str().unwrap()).collect();
    assert_eq!(found, expected);
    let error = |value: &Value| value["squared_error"].as_f64().unwrap();
    let sum: f64 = layers.iter().map(error).sum();
    assert!(sum > 0.0 && (sum / error(metadata) - 1.0).abs() < 1e-9);
    // Where no layer is measured, there is no such list.
    let (model, folder) = (text(&tiny_llama()), text(out.path()));
    let run = run_json(["quantize", &model, "gguf", "-q", "Q8_0", "-o", &folder]);
    assert!(
        run.expect_code(0).json()["metadata"]
            .get("layers")
            .is_none()
    );
}

#[test]
fn threads_and_the_sources_format_do_not_change_a_byte() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("a");
    quantize(&tiny_llama(), &path, &[]).expect_code(0);
    let reference = sha256(&path);
    for more in [["--threads", "1"], ["--threads", "5"]] {
        let mut more = more.to_vec();
        more.push("--overwrite");
        quantize(&tiny_llama(), &path, &more).expect_code(0);
        assert_eq!(sha256(&path), reference, "{more:?}");
    }
    let gguf = llm_quantize_tests::quantize(&tiny_llama(), "F32", out.path(), &[]);
    quantize(&gguf, &path, &["--overwrite"]).expect_code(0);
    assert_eq!(sha256(&path), reference);
    for level in ["BLOCKS", "ORIGINAL"] {
        let more = ["-q", level, "--overwrite"];
        quantize(&tiny_llama(), &path, &more).expect_code(0);
        assert!(sha256(&path) != reference, "{level}");
    }
}

#[test]
fn a_cache_cannot_serve_it() {
    let out = tempfile::tempdir().unwrap();
    let cache = out.path().join("cache");
    let more = ["--calibration-cache", &text(&cache)];
    let run = quantize(&tiny_llama(), &out.path().join("a"), &more).expect_code(0);
    assert_eq!(
        run.stderr.matches("--calibration-cache").count(),
        1,
        "{}",
        run.stderr
    );
    assert!(!cache.exists());
    let mut more = more.to_vec();
    more.extend(["-q", "ORIGINAL"]);
    let run = quantize(&tiny_llama(), &out.path().join("b"), &more).expect_code(0);
    assert!(
        !run.stderr.contains("--calibration-cache"),
        "{}",
        run.stderr
    );
    assert!(cache.exists());
}

fn start(plugins: &Path, model: &Path, output: &Path, level: &str) -> Child {
    let more = ["-q", level, "--calibration-samples", "32"];
    program()
        .args(["--threads", "1", "--format", "json"])
        .args(arguments(plugins, model, output, &more))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Finished units in a journal.
fn recorded(journal: &Path) -> usize {
    let journal = fs::read_to_string(journal).unwrap_or_default();
    journal.matches("{\"piece\"").count()
}

/// The block that a checkpoint's activations enter.
fn kept(folder: &Path) -> usize {
    let names = match folder.exists() {
        true => names(folder),
        false => Vec::new(),
    };
    let mut blocks = names.iter().filter_map(|name| {
        let number = name.strip_prefix("block-")?.strip_suffix(".activations")?;
        number.parse().ok()
    });
    blocks.next().unwrap_or(0)
}

/// Kills runs after so many units, each time by another signal, and lets the last one end.
fn killed_and_continued(level: &str) {
    let model = tempfile::tempdir().unwrap();
    deep_llama(model.path(), LAYERS);
    let (plugins, out) = (plugins(), tempfile::tempdir().unwrap());
    let begin = |name: &str| start(plugins.path(), model.path(), &out.path().join(name), level);
    let whole: Run = begin("whole").wait_with_output().unwrap().into();
    let whole = whole.expect_code(0).json();
    let journal: PathBuf = out.path().join(".checkpoint/i.journal");
    let activations = journal.with_extension("calibration");
    let mut done = 0;
    // In mid-block, and at the end of one.
    for (wanted, signal) in [(6, "KILL"), (12, "INT"), (18, "KILL")] {
        let mut child = begin("i");
        let started = Instant::now();
        while recorded(&journal) < wanted {
            assert!(started.elapsed() < Duration::from_secs(60));
            assert!(child.try_wait().unwrap().is_none(), "it ended too early");
            std::thread::sleep(Duration::from_millis(1));
        }
        let id = child.id().to_string();
        let mut kill = Command::new("kill");
        kill.args([&format!("-{signal}"), &id]);
        assert!(kill.status().unwrap().success());
        assert!(!child.wait().unwrap().success());
        let now = recorded(&journal);
        assert!(now >= wanted && now < 4 * LAYERS && now > done, "{now}");
        done = now;
        // Only the block at which it was, or the one before, is run again.
        let block = kept(&activations);
        assert!(block <= done / 4 && block + 1 >= done / 4, "{block} {done}");
    }
    let run: Run = begin("i").wait_with_output().unwrap().into();
    let report = run.expect_code(0).json();
    assert_eq!(report["metadata"]["pieces_resumed"], done);
    assert_eq!(report["metadata"]["layers"], whole["metadata"]["layers"]);
    assert_eq!(
        sha256(&out.path().join("i")),
        sha256(&out.path().join("whole"))
    );
    assert_eq!(names(out.path()), ["i", "whole"]);
}

#[test]
fn killed_runs_by_stages_go_on() {
    killed_and_continued("STAGES");
}

#[test]
fn killed_runs_by_blocks_go_on() {
    killed_and_continued("BLOCKS");
}
