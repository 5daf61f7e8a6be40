//! Deaths that no error can report. Each test runs this test program again, as the one
//! that dies.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use llm_quantize::fatal;
use llm_quantize::source::MappedFile;

/// How the child is to die.
const WAY: &str = "LLM_QUANTIZE_TEST_DEATH";
const FILE: &str = "LLM_QUANTIZE_TEST_FILE";

fn child(way: &str, file: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "die", "--nocapture", "--include-ignored"])
        .env(WAY, way)
        .env(FILE, file)
        .output()
        .unwrap()
}

/// The child's part; does nothing when the tests run as usual.
#[test]
fn die() {
    let Ok(way) = std::env::var(WAY) else { return };
    fatal::install(true);
    if let Some(way) = way.strip_prefix("plugin ") {
        let way = way.to_owned();
        let worker = std::thread::spawn(move || {
            let _mark = fatal::in_plugin(Some("bad\"one".into()));
            fail(&way);
        });
        worker.join().unwrap();
    }
    fail(&way);
}

fn fail(way: &str) {
    match way {
        // SAFETY: not safe at all; the process is to die of it.
        "null" => unsafe { std::ptr::null_mut::<u8>().write_volatile(1) },
        "overflow" => assert!(deeper(1) > 0),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(0),
        "truncate" => {
            let path = std::env::var_os(FILE).unwrap();
            let file = MappedFile::open(Path::new(&path)).unwrap();
            let handle = std::fs::File::options().write(true).open(&path).unwrap();
            handle.set_len(10).unwrap();
            let sum: u64 = file.bytes().iter().map(|byte| u64::from(*byte)).sum();
            assert!(sum > 0);
        }
        other => panic!("no such way: {other}"),
    }
}

/// Every call has its own array, which is used after the next one, so that no
/// optimiser can make a loop of it.
#[allow(unconditional_recursion)]
fn deeper(depth: u64) -> u64 {
    let own = std::hint::black_box([depth; 64]);
    let below = deeper(depth + 1);
    below + std::hint::black_box(&own)[(below % 64) as usize]
}

/// The document is the last line: the test harness prints before it.
fn document(output: &Output) -> serde_json::Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[test]
fn a_file_that_is_cut_short_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    // Whoever was reading it: the file is at fault, not the plugin.
    for way in ["truncate", "plugin truncate"] {
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        let output = child(way, &path);
        assert_eq!(output.status.code(), Some(6), "{output:?}");
        let told = document(&output);
        assert_eq!(told["error_type"], "ValidationError");
        let message = told["message"].as_str().unwrap();
        assert!(message.contains("weights.safetensors"), "{message}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(message), "{errors}");
    }
}

#[test]
fn a_plugin_that_crashes_or_exits_is_named() {
    for (way, what) in [
        ("plugin null", "SIGSEGV"),
        ("plugin overflow", "SIGSEGV"),
        ("plugin abort", "SIGABRT"),
        ("plugin exit", "ended the program"),
    ] {
        let output = child(way, Path::new(""));
        assert_eq!(output.status.code(), Some(12), "{way}: {output:?}");
        let told = document(&output);
        let message = told["message"].as_str().unwrap();
        assert!(message.starts_with("plugin \"bad\"one\""), "{message}");
        assert!(message.contains(what), "{way}: {message}");
    }
}

#[test]
fn our_own_faults_stay_what_they_are() {
    for (way, signal) in [("abort", 6), ("null", 11), ("overflow", 6)] {
        let output = child(way, Path::new(""));
        assert_eq!(output.status.signal(), Some(signal), "{way}: {output:?}");
    }
    assert_eq!(child("exit", Path::new("")).status.code(), Some(0));
}
