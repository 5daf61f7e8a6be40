//! Plugins that must not be trusted, or that misbehave: the host names the culprit, exits
//! with the documented code and leaves nothing under the output's name.
//!
//! `docs/plugin-trust.md` has the same facts as a table, for people.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::env::consts::DLL_SUFFIX;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use llm_quantize_tests::{Run, example, finish, names, program, sha256, tiny_llama};
use serde_json::{Value, json};

/// Plugin folder, output, cache and configuration of a test's own.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["plugins", "out"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// With one of the examples as a plugin.
    fn with(name: &str) -> Self {
        let bench = Self::new();
        bench.add(&fs::read(example(name)).unwrap());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn library(&self) -> PathBuf {
        self.path("plugins").join(format!("plugin{DLL_SUFFIX}"))
    }

    fn add(&self, library: &[u8]) {
        fs::write(self.library(), library).unwrap();
        mode(&self.library(), 0o755);
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command
            .env("LLM_QUANTIZE_CACHE", self.path("cache"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("LLM_QUANTIZE_PROBE_TIMEOUT", "2")
            .env_remove("RUST_BACKTRACE")
            .args(["--format", "json", "--plugin-dir"])
            .arg(self.path("plugins"))
            .args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        finish(&mut self.command(arguments))
    }

    fn quantize(&self, format: &str, level: &str) -> Run {
        let (model, out) = (tiny_llama(), self.path("out"));
        let (model, out) = (model.to_string_lossy(), out.to_string_lossy());
        self.run(&["quantize", &model, format, "-q", level, "-o", &out])
    }

    /// The message of a failure.
    #[track_caller]
    fn fails(&self, format: &str, code: i32) -> String {
        let run = self.quantize(format, "copy").expect_code(code);
        message(&run)
    }

    /// What `plugin list` says about the library.
    #[track_caller]
    fn listed(&self) -> Value {
        let list = self.run(&["plugin", "list"]).expect_code(0).json();
        let path = self.library().to_string_lossy().into_owned();
        let found = list.as_array().unwrap().iter().find(|p| p["path"] == path);
        found.unwrap().clone()
    }

    fn cache(&self) -> PathBuf {
        self.path("cache/plugins.json")
    }

    /// What a finished output would leave; names with a dot are work in progress.
    fn outputs(&self) -> Vec<String> {
        let all = names(&self.path("out")).into_iter();
        all.filter(|name| !name.starts_with('.')).collect()
    }
}

#[track_caller]
fn message(run: &Run) -> String {
    run.json()["message"].as_str().unwrap().to_owned()
}

fn mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text:?}");
    }
}

/// Runs a plugin that misbehaves; returns what `plugin list` says afterwards.
#[track_caller]
fn misbehaves(name: &str, code: i32, words: &[&str]) -> Value {
    let bench = Bench::with(&format!("misbehaving_{name}"));
    let id = name.replace('_', "-");
    let message = bench.fails(&id, code);
    assert_contains(&message, &[&format!("\"{id}\"")]);
    assert_contains(&message, words);
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_eq!(bench.outputs(), [""; 0]);
    let listed = bench.listed();
    if code == 11 {
        // The path helps to find the culprit, and the next run knows it already.
        assert_contains(&message, &[&bench.library().to_string_lossy()]);
        assert_contains(listed["reason"].as_str().unwrap(), words);
        assert_eq!(bench.fails(&id, code), message);
    }
    listed
}

#[test]
fn a_panic_at_the_start_is_quarantined() {
    let listed = misbehaves("panic_start", 11, &["panicked: no good morning"]);
    assert_eq!(listed["state"], "quarantined");
}

#[test]
fn a_panic_later_fails_the_job_alone() {
    let listed = misbehaves("panic_plan", 12, &["panicked: no plan"]);
    assert_eq!(listed["state"], "ok");
    misbehaves("panic_encode", 12, &["panicked: no more bytes"]);
}

#[test]
fn an_unsound_plan_is_refused() {
    misbehaves("wrong_lengths", 12, &["outside \"model.wrong-lengths\""]);
}

#[test]
fn a_crash_at_the_start_is_quarantined() {
    let listed = misbehaves("crash_start", 11, &["while it was probed"]);
    assert_eq!(listed["state"], "quarantined");
}

/// The host's own handlers of fatal signals are what makes this end well.
#[test]
fn a_crash_while_encoding_names_the_plugin() {
    let bench = Bench::with("misbehaving_crash_encode");
    let run = bench.quantize("crash-encode", "copy").expect_code(12);
    assert_contains(&run.stderr, &["crash-encode"]);
    assert_eq!(bench.outputs(), [""; 0]);
}

#[test]
fn a_start_without_end_is_ended() {
    let start = Instant::now();
    let listed = misbehaves("hang_start", 11, &["did not return within 2 s"]);
    assert_eq!(listed["state"], "quarantined");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_plugin_that_ends_the_process_is_quarantined() {
    let listed = misbehaves("exit_start", 11, &["ended the process (exit code 0)"]);
    assert_eq!(listed["state"], "quarantined");
}

#[test]
fn a_broken_promise_is_refused() {
    let listed = misbehaves("promise", 11, &["\"another\""]);
    assert_eq!(listed["state"], "refused");
}

#[test]
fn another_layout_is_refused_in_one_line() {
    let listed = misbehaves("layout", 11, &["has an incompatible interface"]);
    assert_eq!(listed["state"], "refused");
}

#[test]
fn what_a_plugin_prints_does_not_get_between_the_results() {
    let bench = Bench::with("misbehaving_print_start");
    let run = bench.quantize("print-start", "copy").expect_code(0);
    assert_eq!(run.json()["format"], "print-start");
    assert_eq!(bench.outputs(), ["model.print-start"]);
    assert_eq!(bench.listed()["state"], "ok");
}

#[test]
fn what_is_no_plugin_is_refused_without_running_it() {
    let whole = fs::read(example("absmax8")).unwrap();
    let (_, minor) = interface();
    let other_major = patched(&whole, b"interface=1.", b"interface=2.");
    let other_version = format!("has interface version 2.{minor}");
    let no_plugin = fs::read(example("no_plugin")).unwrap();
    for (library, words) in [
        (b"#!/bin/sh\n".as_slice(), "not a shared library"),
        (b"", "not a shared library"),
        (&whole[..whole.len() / 2], "is not a shared library"),
        (&no_plugin, "no section"),
        (&other_major, &other_version),
    ] {
        let bench = Bench::new();
        bench.add(library);
        let listed = bench.listed();
        assert_eq!(listed["state"], "refused");
        assert_contains(listed["reason"].as_str().unwrap(), &[words]);
        let path = bench.library().to_string_lossy().into_owned();
        assert_contains(&bench.fails("absmax8", 11), &[&path, words]);
        assert!(!bench.cache().exists() || !read(&bench.cache()).contains(&path));
    }
}

/// The version of the interface that everything here is built with.
fn interface() -> (u32, u32) {
    let version = llm_quantize_plugin_api::INTERFACE_VERSION;
    llm_quantize_plugin_api::parse_interface_version(version).unwrap()
}

/// Replaces bytes in a library by as many others.
fn patched(library: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut out = library.to_vec();
    let mut count = 0;
    for start in 0..=library.len() - from.len() {
        if library[start..].starts_with(from) {
            out[start..start + to.len()].copy_from_slice(to);
            count += 1;
        }
    }
    assert!(count > 0, "nothing to replace");
    out
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_newer_minor_version_is_welcome() {
    let bench = Bench::new();
    let library = fs::read(example("absmax8")).unwrap();
    let (major, minor) = interface();
    let own = format!("interface={major}.{minor}");
    bench.add(&patched(&library, own.as_bytes(), b"interface=1.9"));
    assert_eq!(bench.listed()["interface_version"], "1.9");
    bench.quantize("absmax8", "int8").expect_code(0);
    assert_eq!(bench.listed()["state"], "ok");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_that_needs_another_one_is_asked_again() {
    let bench = Bench::new();
    let library = fs::read(example("absmax8")).unwrap();
    bench.add(&patched(&library, b"libgcc_s.so.1", b"libmissing.so"));
    assert_contains(&bench.fails("absmax8", 11), &["libmissing.so", "absmax8"]);
    // It may be installed the next time.
    assert_eq!(bench.listed()["state"], "ok");
}

#[test]
fn listing_runs_no_code() {
    let bench = Bench::with("misbehaving_exit_start");
    assert_eq!(bench.listed()["state"], "ok");
    let all = bench
        .run(&["plugin", "list", "--all"])
        .expect_code(0)
        .json();
    let plugin = &all["plugins"][0];
    assert_eq!(
        (&plugin["id"], &plugin["probed"]),
        (&json!("exit-start"), &Value::Null)
    );
    assert_contains(plugin["permissions"].as_str().unwrap(), &["0755"]);
    assert_eq!(all["folders"][0]["reason"], "--plugin-dir");
    assert!(!bench.cache().exists());
}

#[test]
fn quarantine_ends_with_a_change_or_a_reset() {
    let bench = Bench::with("misbehaving_exit_start");
    bench.fails("exit-start", 11);
    // A mark in the cache shows whether the verdict came from there.
    let mark = || {
        let text = read(&bench.cache()).replace("ended the process", "was marked");
        fs::write(bench.cache(), text).unwrap();
        assert_contains(&bench.fails("exit-start", 11), &["was marked"]);
    };
    mark();
    assert_eq!(bench.listed()["state"], "quarantined");
    let library = fs::File::options()
        .write(true)
        .open(bench.library())
        .unwrap();
    library
        .set_modified(SystemTime::now() + Duration::from_secs(1))
        .unwrap();
    assert_eq!(bench.listed()["state"], "ok");
    assert_contains(&bench.fails("exit-start", 11), &["ended the process"]);
    for name in ["exit-start", &bench.library().to_string_lossy()] {
        mark();
        let reset = bench.run(&["plugin", "reset", name]).expect_code(0).json();
        assert_eq!(reset["forgotten"][0]["state"], "quarantined");
        assert_contains(&bench.fails("exit-start", 11), &["ended the process"]);
    }
    let all = bench.run(&["plugin", "reset"]).expect_code(0).json();
    assert!(!all["forgotten"].as_array().unwrap().is_empty());
    let again = bench.run(&["plugin", "reset"]).expect_code(0).json();
    assert_eq!(again["forgotten"], json!([]));
    bench
        .run(&["plugin", "reset", "no-such-plugin"])
        .expect_code(11);
}

#[test]
fn a_quarantined_plugin_does_not_disturb_the_others() {
    let bench = Bench::with("misbehaving_crash_start");
    for _ in 0..2 {
        let run = bench.quantize("gguf", "q8_0").expect_code(0);
        assert_contains(&run.stderr, &["crash-start", "quarantined"]);
        fs::remove_file(bench.path("out").join(&bench.outputs()[0])).unwrap();
    }
}

#[test]
fn the_cache_is_never_needed() {
    let bench = Bench::with("absmax8");
    fs::create_dir(bench.path("cache")).unwrap();
    fs::write(bench.cache(), "{ damaged").unwrap();
    let info = ["plugin", "info", "absmax8"];
    bench.run(&info).expect_code(0);
    assert_contains(&read(&bench.cache()), &["absmax8", "\"ok\""]);
    let nowhere = bench.library().join("cache");
    let mut command = bench.command(&info);
    finish(command.env("LLM_QUANTIZE_CACHE", nowhere)).expect_code(0);
}

#[test]
fn what_others_may_write_to_is_not_loaded() {
    let bench = Bench::with("absmax8");
    let (library, folder, above) = (bench.library(), bench.path("plugins"), bench.path(""));
    for (path, loose, usual) in [
        (&library, 0o757, 0o755),
        (&folder, 0o757, 0o755),
        (&folder, 0o1777, 0o755),
        (&above, 0o757, 0o700),
    ] {
        mode(path, loose);
        let remedy = format!(
            "chmod o-w {}",
            path.display().to_string().trim_end_matches('/')
        );
        assert_contains(
            &bench.fails("absmax8", 11),
            &[&remedy, &format!("{loose:04o}")],
        );
        let listed = bench.listed();
        assert_eq!(
            (&listed["id"], &listed["state"]),
            (&json!("absmax8"), &json!("refused"))
        );
        mode(path, usual);
    }
    mode(&above, 0o1777);
    bench.quantize("absmax8", "int8").expect_code(0);
}

#[test]
fn a_strangers_library_is_not_loaded() {
    let bench = Bench::with("absmax8");
    const NOBODY: u32 = 65534;
    if std::os::unix::fs::chown(bench.library(), Some(NOBODY), None).is_err() {
        return; // only root can give files away
    }
    assert_contains(&bench.fails("absmax8", 11), &["user 65534", "chown"]);
    std::os::unix::fs::chown(bench.library(), Some(0), Some(NOBODY)).unwrap();
    mode(&bench.library(), 0o775);
    assert_contains(&bench.fails("absmax8", 11), &["group 65534", "chmod g-w"]);
}

#[test]
fn a_link_is_judged_by_what_it_points_to() {
    let bench = Bench::with("absmax8");
    let elsewhere = bench.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let target = elsewhere.join("target");
    fs::rename(bench.library(), &target).unwrap();
    std::os::unix::fs::symlink(&target, bench.library()).unwrap();
    bench.quantize("absmax8", "int8").expect_code(0);
    mode(&elsewhere, 0o757);
    let refused = bench.fails("absmax8", 11);
    assert_contains(&refused, &[&format!("chmod o-w {}", elsewhere.display())]);
}

fn configure(bench: &Bench, text: &str) {
    let folder = bench.path("config/llm-quantize");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), text).unwrap();
}

#[cfg(target_os = "linux")] // where XDG_CONFIG_HOME counts
#[test]
fn a_pinned_plugin_is_that_file_or_none() {
    let bench = Bench::with("absmax8");
    let hash = sha256(&bench.library());
    configure(
        &bench,
        &json!({"plugins": {"pins": {"absmax8": hash}}}).to_string(),
    );
    bench.quantize("absmax8", "int8").expect_code(0);
    let pin = "0".repeat(64);
    configure(
        &bench,
        &json!({"plugins": {"pins": {"absmax8": pin}}}).to_string(),
    );
    assert_contains(&bench.fails("absmax8", 11), &[&hash, &pin]);
    assert_eq!(bench.listed()["state"], "refused");
    configure(&bench, r#"{"plugins": {"pinned": {}}}"#);
    let broken = bench.quantize("absmax8", "int8").expect_code(2);
    assert_contains(&message(&broken), &["config.json", "`pinned`"]);
    bench.run(&["plugin", "list"]).expect_code(2);
}

#[test]
fn the_time_limit_must_be_a_number() {
    let bench = Bench::with("absmax8");
    let mut command = bench.command(&["plugin", "info", "absmax8"]);
    let run = finish(command.env("LLM_QUANTIZE_PROBE_TIMEOUT", "soon")).expect_code(2);
    assert_contains(&message(&run), &["LLM_QUANTIZE_PROBE_TIMEOUT"]);
}

/// The results of `plugin check`, by name of the check.
#[track_caller]
fn checked(name: &str, code: i32) -> Vec<(String, String, String)> {
    let bench = Bench::new();
    let path = example(name);
    let run = bench
        .run(&["plugin", "check", &path.to_string_lossy()])
        .expect_code(code);
    let document = run.json();
    let report = if code == 0 {
        &document
    } else {
        &document["details"]
    };
    assert_eq!(
        document["status"],
        if code == 0 { "success" } else { "error" }
    );
    assert!(!bench.cache().exists(), "a check leaves the cache alone");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    checks
        .map(|check| {
            (
                text(&check["name"]),
                text(&check["result"]),
                text(&check["detail"]),
            )
        })
        .collect()
}

#[test]
fn check_says_what_is_wrong_with_a_file() {
    let good = checked("absmax8", 0);
    let names: Vec<&str> = good.iter().map(|(name, ..)| name.as_str()).collect();
    let all = [
        "trust",
        "metadata",
        "interface",
        "start",
        "conformance",
        "silence",
    ];
    assert_eq!(names, all);
    assert!(good.iter().all(|(_, result, _)| result == "passed"));
    for (name, code, check, words) in [
        ("no_plugin", 11, "metadata", "no section"),
        ("misbehaving_layout", 11, "start", "incompatible"),
        ("misbehaving_hang_start", 11, "start", "within 2 s"),
        ("misbehaving_panic_start", 11, "start", "panicked"),
        (
            "misbehaving_panic_plan",
            12,
            "conformance",
            "panicked: no plan",
        ),
        ("misbehaving_panic_encode", 12, "conformance", "panicked"),
        ("misbehaving_wrong_lengths", 12, "conformance", "outside"),
        (
            "misbehaving_crash_encode",
            12,
            "conformance",
            "(crash-encode COPY)",
        ),
        ("misbehaving_print_start", 12, "silence", "printed"),
    ] {
        let checks = checked(name, code);
        let first = checks.iter().find(|(_, result, _)| result == "failed");
        let (failed, _, detail) = first.unwrap();
        assert_eq!(failed, check, "{name}: {checks:?}");
        assert_contains(detail, &[words]);
    }
}

#[test]
fn check_tells_people_too() {
    let mut command = program();
    let run = finish(command.args(["plugin", "check"]).arg(example("absmax8"))).expect_code(0);
    assert_contains(&run.stdout, &["conformance", "passed"]);
    let mut command = program();
    finish(command.args(["plugin", "check", "/no/such/file"])).expect_code(11);
}

#[test]
fn the_probing_command_is_nowhere_to_be_seen() {
    for arguments in [&["--help"][..], &["man"], &["completions", "bash"]] {
        let run = finish(program().args(arguments)).expect_code(0);
        assert!(!run.stdout.contains("plugin-probe"));
    }
}
