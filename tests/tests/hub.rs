//! Models on the Hub: what is downloaded and what is not, what happens when it goes
//! wrong, and that other clients find it.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

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

// What comes, and where it lies.

#[test]
fn a_model_is_downloaded_once_and_quantized() {
    let setup = Setup::new();
    let first = setup.quantize(REPOSITORY).expect_code(0);
    let path = first.json()["output_path"].as_str().unwrap().to_owned();
    assert!(path.ends_with("/tiny-llama-Q8_0.gguf"), "{path}");
    let local = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &["-n", "local"]);
    assert_eq!(sha256(Path::new(&path)), sha256(&local));
    let line = "Downloading org/tiny-llama@0123456: ";
    assert!(first.stderr.contains(line), "{}", first.stderr);
    assert!(
        first.stderr.contains("Downloading 100%"),
        "{}",
        first.stderr
    );

    let log = setup.hub.take_log();
    for needless in [
        "pytorch_model.bin",
        "onnx",
        "original",
        ".gguf",
        ".gitattributes",
    ] {
        assert!(
            !log.iter().any(|entry| entry.path.contains(needless)),
            "{needless}"
        );
    }
    setup.quantize(REPOSITORY).expect_code(0);
    let log = setup.hub.take_log();
    assert!(
        log.iter().all(|entry| entry.path.starts_with("/api/")),
        "{log:?}"
    );
}

#[test]
fn the_cache_is_laid_out_as_every_client_expects() {
    let setup = Setup::new();
    setup.quantize(REPOSITORY).expect_code(0);
    let folder = setup.model_folder();
    assert_eq!(names(&folder), ["blobs", "refs", "snapshots"]);
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    let snapshot = folder.join("snapshots").join(COMMIT);
    let mut expected = names(&tiny_llama());
    expected.insert(0, "LICENSE".into());
    assert_eq!(names(&snapshot), expected);
    for name in &expected {
        let link = fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(
            link,
            Path::new("../../blobs").join(setup.hub.hash(name)),
            "{name}"
        );
    }
    assert_eq!(names(&folder.join("blobs")).len(), expected.len());
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
    let locks = setup.home.path().join("hub/.locks/models--org--tiny-llama");
    assert!(names(&locks).contains(&format!("{}.lock", setup.hub.hash(WEIGHTS))));
}

#[test]
fn revisions_are_resolved_to_a_commit_first() {
    let setup = Setup::new();
    for (revision, reference) in [
        (TAG, Some(TAG)),
        ("refs/pr/1", Some("refs/pr/1")),
        (COMMIT, None),
    ] {
        setup
            .quantize(&format!("{REPOSITORY}@{revision}"))
            .expect_code(0);
        for entry in setup.hub.take_log() {
            let pinned = entry.path.contains(&format!("/resolve/{COMMIT}/"));
            assert!(pinned || entry.path.starts_with("/api/") || entry.host == Host::Storage);
        }
        if let Some(reference) = reference {
            let path = setup.model_folder().join("refs").join(reference);
            assert_eq!(fs::read_to_string(path).unwrap(), COMMIT);
        }
    }
    let unknown = setup.quantize(&format!("{REPOSITORY}@v9"));
    refusal(
        unknown,
        3,
        "org/tiny-llama has no revision \"v9\"",
        "/tree/main",
    );
}

#[test]
fn what_another_client_downloaded_is_used() {
    let setup = Setup::new();
    let folder = setup.model_folder();
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    let mut files = files_of(&tiny_llama());
    files.insert("LICENSE".into(), b"public domain\n".to_vec());
    for (name, content) in files {
        fs::write(setup.blob(&name), content).unwrap();
        let target = Path::new("../../blobs").join(setup.hub.hash(&name));
        std::os::unix::fs::symlink(target, snapshot.join(&name)).unwrap();
    }
    setup.quantize(REPOSITORY).expect_code(0);
    setup.info(REPOSITORY).expect_code(0);
    let log = setup.hub.take_log();
    assert!(
        log.iter().all(|entry| entry.path.starts_with("/api/")),
        "{log:?}"
    );
}

#[test]
fn the_cache_may_be_elsewhere() {
    let setup = Setup::new();
    let own = tempfile::tempdir().unwrap();
    let mut command = setup.quantize_command(REPOSITORY);
    command.env("LLM_QUANTIZE_CACHE", own.path());
    run(command).expect_code(0);
    assert!(
        own.path()
            .join("hub/models--org--tiny-llama/refs/main")
            .is_file()
    );
    assert!(!setup.model_folder().exists());
    let other = tempfile::tempdir().unwrap();
    let mut command = setup.quantize_command(REPOSITORY);
    command.env("HF_HUB_CACHE", other.path());
    run(command).expect_code(0);
    assert!(
        other
            .path()
            .join("models--org--tiny-llama/refs/main")
            .is_file()
    );
}

#[test]
fn offline_only_the_cache_is_used() {
    let setup = Setup::new();
    let offline = |mut command: Command| {
        command.env("HF_HUB_OFFLINE", "1");
        run(command)
    };
    let absent = offline(setup.quantize_command(REPOSITORY));
    refusal(
        absent,
        3,
        "holds no copy of org/tiny-llama",
        "HF_HUB_OFFLINE",
    );
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.take_log();
    let partly = offline(setup.quantize_command(&format!("{REPOSITORY}@{COMMIT}")));
    refusal(partly, 3, "lacks the weights", "without HF_HUB_OFFLINE");
    setup.quantize(REPOSITORY).expect_code(0);
    setup.hub.take_log();
    offline(setup.quantize_command(REPOSITORY)).expect_code(0);
    offline(setup.command(&["info", REPOSITORY])).expect_code(0);
    assert!(setup.hub.take_log().is_empty());
}

#[test]
fn without_a_connection_the_cached_copy_serves() {
    let setup = Setup::new();
    let nowhere = |model: &str| {
        let mut command = setup.quantize_command(model);
        command.env("HF_ENDPOINT", "http://127.0.0.1:1");
        run(command)
    };
    refusal(
        nowhere(REPOSITORY),
        1,
        "cannot reach 127.0.0.1",
        "connection",
    );
    setup.quantize(REPOSITORY).expect_code(0);
    let run = nowhere(REPOSITORY).expect_code(0);
    assert!(
        run.stderr.contains("using the copy in the cache"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_local_path_wins() {
    let setup = Setup::new();
    let folder = tempfile::tempdir().unwrap();
    llm_quantize_tests::copy_folder(&tiny_llama(), &folder.path().join(REPOSITORY));
    let mut command = setup.quantize_command(REPOSITORY);
    command.current_dir(folder.path());
    run(command).expect_code(0);
    assert!(setup.hub.take_log().is_empty());
}

#[test]
fn shards_come_as_the_index_names_them() {
    let mut files = with_clutter(sharded());
    files.insert("consolidated.safetensors".into(), b"not named".to_vec());
    let setup = Setup::with_files(files.clone());
    let run = setup.quantize(REPOSITORY).expect_code(0);
    let local = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &["-n", "local"]);
    let path = run.json()["output_path"].as_str().unwrap().to_owned();
    assert_eq!(sha256(Path::new(&path)), sha256(&local));
    assert!(
        !setup
            .hub
            .take_log()
            .iter()
            .any(|entry| entry.path.contains("consolidated"))
    );

    files.remove("model-00002-of-00002.safetensors");
    let setup = Setup::with_files(files);
    refusal(
        setup.quantize(REPOSITORY),
        6,
        "model-00002-of-00002",
        "authors",
    );
}

#[test]
fn a_mirror_that_lists_names_only_is_asked_for_the_rest() {
    let setup = Setup::new();
    setup.hub.rules().names_only = true;
    setup.quantize(REPOSITORY).expect_code(0);
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

// GGUF files.

#[test]
fn the_only_gguf_file_of_a_repository_is_the_model() {
    let content = gguf("BF16");
    let files = [
        ("README.md", b"# A model".to_vec()),
        ("q/tiny-BF16.gguf", content),
    ];
    let setup = Setup::with_files(files.map(|(name, bytes)| (name.into(), bytes)).into());
    let run = setup.quantize(REPOSITORY).expect_code(0);
    let path = run.json()["output_path"].as_str().unwrap().to_owned();
    let local = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &["-n", "local"]);
    assert_eq!(sha256(Path::new(&path)), sha256(&local));
}

#[test]
fn of_several_gguf_files_one_must_be_named() {
    let files = ["F16", "Q8_0"].map(|level| (format!("tiny-{level}.gguf"), gguf(level)));
    let setup = Setup::with_files(files.into());
    let both = "org/tiny-llama/tiny-F16.gguf, org/tiny-llama/tiny-Q8_0.gguf";
    refusal(setup.info(REPOSITORY), 2, both, "name one");
    refusal(
        setup.info("org/tiny-llama/other.gguf"),
        3,
        "no file other.gguf",
        both,
    );
    let info = setup
        .info("org/tiny-llama/tiny-Q8_0.gguf@v1")
        .expect_code(0)
        .json();
    assert_eq!(info["format"], "gguf");
    assert_eq!(info["quantization"]["method"], "gguf");
}

#[test]
fn pytorch_weights_are_refused_as_in_a_folder() {
    let mut files = with_clutter(files_of(&tiny_llama()));
    files.remove(WEIGHTS);
    files.remove("tiny-llama.Q4_0.gguf");
    let setup = Setup::with_files(files);
    refusal(setup.quantize(REPOSITORY), 6, "PyTorch", "save_pretrained");
}

// Headers only.

#[test]
fn info_asks_for_no_byte_of_the_weights() {
    let setup = Setup::new();
    let info = setup.info(REPOSITORY).expect_code(0).json();
    let local = run_json(["info", tiny_llama().to_str().unwrap()]).json();
    for (key, value) in local.as_object().unwrap() {
        if key != "path" {
            assert_eq!(&info[key], value, "{key}");
        }
    }
    let page = format!("{}/{REPOSITORY}/tree/{COMMIT}", setup.hub.url);
    assert_eq!(info["path"], page);
    let end = header_length(&bytes_of(WEIGHTS));
    let log = setup.weights_log();
    assert_eq!(sent(&log), end);
    assert!(
        log.iter()
            .all(|entry| entry.range.as_ref().unwrap().end <= end)
    );
    assert!(!setup.blob(WEIGHTS).exists() && !setup.incomplete(WEIGHTS).exists());
}

#[test]
fn info_reads_the_headers_of_all_shards() {
    let setup = Setup::with_files(sharded());
    let info = setup.info(REPOSITORY).expect_code(0).json();
    assert_eq!(info["tensor_count"], 4 * 9 + 3);
    let local = run_json(["info", tiny_llama().to_str().unwrap()]).json();
    assert_eq!(info["parameter_count"], local["parameter_count"]);
    let files = sharded();
    let shards = files
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"));
    let headers: u64 = shards.map(|(_, bytes)| header_length(bytes)).sum();
    assert_eq!(sent(&setup.weights_log()), headers);
}

#[test]
fn info_reads_the_beginning_of_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = quantize(&tiny_llama(), "F32", dir.path(), &["-n", "model.gguf"]);
    let content = fs::read(&path).unwrap();
    let size = content.len() as u64;
    let setup = Setup::with_files([("model.gguf".to_owned(), content)].into());
    let info = setup.info(REPOSITORY).expect_code(0).json();
    let local = run_json(["info", path.to_str().unwrap()]).json();
    for (key, value) in local.as_object().unwrap() {
        if key != "path" {
            assert_eq!(&info[key], value, "{key}");
        }
    }
    let sent = sent(&setup.weights_log());
    assert!(sent <= size / 16, "{sent} of {size}");
}

#[test]
fn a_header_that_is_cut_short_is_told_about_the_file_on_the_hub() {
    let mut files = files_of(&tiny_llama());
    files.insert(WEIGHTS.into(), b"short".to_vec());
    let setup = Setup::with_files(files);
    let page = format!("{}/{REPOSITORY}/tree/{COMMIT}/{WEIGHTS}", setup.hub.url);
    let error = refusal(
        setup.info(REPOSITORY),
        6,
        "not a valid safetensors file",
        "",
    );
    assert!(
        error["message"].as_str().unwrap().contains(&page),
        "{error}"
    );
}

#[test]
fn a_dry_run_downloads_no_weights() {
    let setup = Setup::new();
    let mut command = setup.quantize_command(REPOSITORY);
    command.arg("--dry-run");
    let plan = run(command).expect_code(0).json();
    assert_eq!(
        sent(&setup.weights_log()),
        header_length(&bytes_of(WEIGHTS))
    );
    let path = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &[]);
    assert_eq!(plan["total_bytes"], size_of(&path));
}

#[test]
fn what_cannot_be_quantized_is_not_downloaded() {
    let mut files = files_of(&tiny_llama());
    let mut config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    config["architectures"] = json!(["FalconForCausalLM"]);
    files.insert("config.json".into(), config.to_string().into_bytes());
    let setup = Setup::with_files(files);
    refusal(setup.quantize(REPOSITORY), 8, "FalconForCausalLM", "");
    assert_eq!(
        sent(&setup.weights_log()),
        header_length(&bytes_of(WEIGHTS))
    );
    let quantized = Setup::with_files([("model-Q4_0.gguf".to_owned(), gguf("Q4_0"))].into());
    let out = quantized.out.path().to_str().unwrap();
    let convert = ["convert", REPOSITORY, "gguf", "-q", "Q8_0", "-o", out];
    refusal(run(quantized.command(&convert)), 9, "quality", "--force");
    assert_eq!(quantized.weights_log().len(), 1);
    let mut command = quantized.command(&convert);
    command.arg("--force");
    run(command).expect_code(0);
}

// Who may read it.

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let setup = Setup::new();
    setup.hub.rules().token = Some(TOKEN.into());
    let mut command = setup.quantize_command(REPOSITORY);
    command
        .args(["--verbosity", "debug"])
        .env("HF_TOKEN", TOKEN);
    let with_variable = run(command).expect_code(0);
    let log = setup.hub.take_log();
    for entry in &log {
        let expected = (entry.host == Host::Hub).then(|| format!("Bearer {TOKEN}"));
        assert_eq!(entry.authorization, expected, "{entry:?}");
    }
    assert!(log.iter().any(|entry| entry.host == Host::Storage));
    for text in [&with_variable.stdout, &with_variable.stderr] {
        assert!(
            !text.contains(TOKEN) && !text.contains("Signature"),
            "{text}"
        );
    }
    fs::remove_dir_all(setup.model_folder()).unwrap();
    fs::write(setup.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    setup.quantize(REPOSITORY).expect_code(0);
}

#[test]
fn private_models_need_a_token_that_may_read_them() {
    let setup = Setup::new();
    setup.hub.rules().token = Some(TOKEN.into());
    refusal(
        setup.info(REPOSITORY),
        3,
        "knows no model org/tiny-llama",
        "set HF_TOKEN",
    );
    let mut command = setup.command(&["info", REPOSITORY]);
    command.env("HF_TOKEN", "hf_wrong_one");
    let run = run(command);
    assert!(!run.stderr.contains("hf_wrong_one"), "{}", run.stderr);
    refusal(run, 4, "does not accept the token", "settings/tokens");
}

#[test]
fn gated_models_say_where_to_ask() {
    let setup = Setup::new();
    setup.hub.rules().gated = true;
    let page = format!("{}/{REPOSITORY}", setup.hub.url);
    let error = refusal(setup.quantize(REPOSITORY), 4, "gated", "HF_TOKEN");
    assert_eq!(error["error_type"], "AuthenticationRequiredError");
    assert!(error["suggestion"].as_str().unwrap().contains(&page));
    let mut command = setup.quantize_command(REPOSITORY);
    command.env("HF_TOKEN", TOKEN);
    refusal(
        run(command),
        4,
        "gated",
        &format!("open {page}, accept the terms"),
    );
}

#[test]
fn unknown_models_are_not_found() {
    let setup = Setup::new();
    let error = refusal(
        setup.info("org/other"),
        3,
        "no file or folder org/other",
        "spelling",
    );
    assert!(error["message"].as_str().unwrap().contains(&setup.hub.url));
    let mut command = setup.command(&["info", "org/other"]);
    command.env("HF_TOKEN", TOKEN);
    refusal(run(command), 3, "org/other", "token's account");
}

// What goes wrong on the way.

#[test]
fn a_broken_connection_is_taken_up_where_it_ended() {
    let setup = Setup::new();
    let size = setup.hub.size(WEIGHTS);
    // The first two answers carry the header; then the tokenizer and the weights come.
    let few = setup.hub.size("tokenizer.json") + 1;
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().cuts = [8, size, 3_000_000, few, 2_000_000].into();
    setup.hub.take_log();
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(
        run.stderr
            .contains("broke off while sending model.safetensors"),
        "{}",
        run.stderr
    );
    let log: Vec<_> = setup.weights_log().split_off(2);
    let starts = [
        None,
        Some(3_000_000),
        Some(3_000_000 + few),
        Some(5_000_000 + few),
    ];
    assert_eq!(ranges(&log), starts);
    assert_eq!(sent(&log), size);
}

#[test]
fn an_interrupted_download_is_kept_and_goes_on() {
    let setup = Setup::new();
    let size = setup.hub.size(WEIGHTS);
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().bytes_per_second = Some(2_000_000);
    let child = setup
        .quantize_command(REPOSITORY)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let incomplete = setup.incomplete(WEIGHTS);
    wait_until("a part of the download", || size_of(&incomplete) > 500_000);
    let begin = Instant::now();
    interrupt(&child);
    let run: Run = child.wait_with_output().unwrap().into();
    refusal(run, 130, "interrupted", "goes on");
    assert!(begin.elapsed() < Duration::from_secs(3));
    let kept = size_of(&incomplete);
    assert!(kept > 500_000 && kept < size);
    assert!(!setup.model_folder().join("refs/main").exists());

    setup.hub.rules().bytes_per_second = None;
    setup.hub.take_log();
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(run.stderr.contains("from last time"), "{}", run.stderr);
    let log: Vec<_> = setup.weights_log().split_off(2);
    assert_eq!(ranges(&log), [Some(kept)]);
    assert_eq!(sent(&log), size - kept);
    assert!(!incomplete.exists());
}

fn interrupt(child: &Child) {
    let status = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn an_interrupt_does_not_wait_for_a_silent_server() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = Setup::new();
    let mut command = setup.quantize_command(REPOSITORY);
    let address = format!("http://{}", silent.local_addr().unwrap());
    let child = command
        .env("HF_ENDPOINT", address)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let connection = silent.accept().unwrap();
    let begin = Instant::now();
    interrupt(&child);
    let run: Run = child.wait_with_output().unwrap().into();
    assert!(begin.elapsed() < Duration::from_secs(5));
    drop(connection);
    refusal(run, 130, "interrupted", "again");
}

#[test]
fn a_part_that_the_server_does_not_continue_is_got_anew() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    let incomplete = setup.incomplete(WEIGHTS);
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, &bytes_of(WEIGHTS)[..1_000_000]).unwrap();
    setup.hub.rules().no_ranges = true;
    setup.quantize(REPOSITORY).expect_code(0);
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn a_part_of_something_else_is_noticed_and_dropped() {
    let setup = Setup::new();
    let incomplete = setup.incomplete(WEIGHTS);
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, vec![7; 1_000_000]).unwrap();
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(
        run.stderr.contains("downloading it again"),
        "{}",
        run.stderr
    );
    fs::remove_file(setup.blob(WEIGHTS)).unwrap();
    fs::write(&incomplete, vec![7; setup.hub.size(WEIGHTS) as usize + 1]).unwrap();
    setup.quantize(REPOSITORY).expect_code(0);
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn a_busy_hub_is_given_the_time_that_it_asks_for() {
    let setup = Setup::new();
    let date = httpdate(SystemTime::now() + Duration::from_secs(3));
    setup.hub.rules().busy = [(429, Some("1".into())), (503, None), (503, Some(date))].into();
    let begin = Instant::now();
    let run = setup.info(REPOSITORY).expect_code(0);
    assert!(
        begin.elapsed() > Duration::from_millis(2000),
        "{:?}",
        begin.elapsed()
    );
    for line in [
        "too many requests (429); trying again in 1.0 s",
        "status 503",
    ] {
        assert!(run.stderr.contains(line), "{}", run.stderr);
    }
    setup.hub.rules().busy = [(429, Some("86400".into()))].into();
    let begin = Instant::now();
    refusal(
        setup.info(REPOSITORY),
        1,
        "it asks to wait for 24:00:00",
        "spelling",
    );
    assert!(begin.elapsed() < Duration::from_secs(5));
}

fn httpdate(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let output = Command::new("date")
        .args([
            "-u",
            "-d",
            &format!("@{seconds}"),
            "+%a, %d %b %Y %H:%M:%S GMT",
        ])
        .env("LC_ALL", "C")
        .output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn a_file_of_another_length_is_refused_with_both() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().shorter = 5;
    let size = setup.hub.size(WEIGHTS);
    let error = refusal(setup.quantize(REPOSITORY), 6, &size.to_string(), "proxy");
    let found = (size - 5).to_string();
    assert!(
        error["message"].as_str().unwrap().contains(&found),
        "{error}"
    );
    assert!(!setup.blob(WEIGHTS).exists());
}

#[test]
fn a_damaged_file_is_got_once_more_and_then_refused() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().damaged = 2;
    refusal(
        setup.quantize(REPOSITORY),
        6,
        "model.safetensors came with the hash",
        "try again",
    );
    assert!(!setup.blob(WEIGHTS).exists() && !setup.incomplete(WEIGHTS).exists());
    setup.hub.rules().damaged = 1;
    let run = setup.quantize(REPOSITORY).expect_code(0);
    assert!(
        run.stderr.contains("downloading it again"),
        "{}",
        run.stderr
    );
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn a_download_that_does_not_fit_is_not_begun() {
    let setup = Setup::new();
    setup.hub.rules().claimed_size = Some(1 << 60);
    let run = setup.quantize(REPOSITORY);
    let error = refusal(run, 13, "the download needs 1153 PB", "HF_HOME");
    assert_eq!(error["error_type"], "DiskSpaceError");
    assert_eq!(sent(&setup.weights_log()), 0);
}

#[test]
fn two_programs_download_a_file_once() {
    let setup = Setup::new();
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.rules().bytes_per_second = Some(4_000_000);
    setup.hub.take_log();
    let other = tempfile::tempdir().unwrap();
    let mut second = setup.command(&["quantize", REPOSITORY, "gguf", "-q", "Q4_0", "-o"]);
    let second = second
        .arg(other.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    setup.quantize(REPOSITORY).expect_code(0);
    let run: Run = second.wait_with_output().unwrap().into();
    run.expect_code(0);
    let whole = setup.weights_log();
    let whole = whole.iter().filter(|entry| entry.range.is_none());
    assert_eq!(
        whole.map(|entry| entry.sent).collect::<Vec<_>>(),
        [setup.hub.size(WEIGHTS)]
    );
}
