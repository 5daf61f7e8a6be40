//! Interrupted runs: killed, stopped, continued, refused.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use llm_quantize_tests::{
    Run, copy_folder, deep_llama, edit_json, names, program, quantize, run_json, sha256, text,
};
use serde_json::Value;

/// Slow enough to be caught in the middle on one thread.
const LEVEL: &str = "Q2_K";
const OUTPUT: &str = "m.gguf";
const KILLS: usize = 10;
const LAYERS: usize = 16;

/// The model of every run here: small, but not done at once.
fn deep() -> &'static Path {
    static MODEL: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deep-llama");
        deep_llama(&folder, LAYERS);
        folder
    });
    &MODEL
}

/// The arguments of every run here.
fn arguments(model: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let (model, out) = (text(model), text(out));
    let mut all = vec![
        "--format",
        "json",
        "--threads",
        "1",
        "quantize",
        &model,
        "gguf",
    ];
    all.extend(["-o", &out, "-n", OUTPUT]);
    if !more.contains(&"-q") {
        all.extend(["-q", LEVEL]);
    }
    all.extend(more);
    all.into_iter().map(str::to_owned).collect()
}

fn start(model: &Path, out: &Path, more: &[&str]) -> Child {
    program()
        .args(arguments(model, out, more))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(model: &Path, out: &Path, more: &[&str]) -> Run {
    run_json(&arguments(model, out, more)[2..])
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn kill(mut child: Child) {
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().unwrap();
}

fn journal(out: &Path) -> PathBuf {
    out.join(format!(".checkpoint/{OUTPUT}.journal"))
}

/// Pieces that a journal holds.
fn recorded(journal: &Path) -> u64 {
    let text = fs::read_to_string(journal).unwrap_or_default();
    let whole = text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    whole
        .skip(1)
        .filter(|line| line.contains("\"piece\""))
        .count() as u64
}

/// Waits until a run has recorded something.
fn wait_for_pieces(child: &mut Child, journal: &Path) {
    let start = Instant::now();
    while recorded(journal) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A folder with a run that was killed after some pieces.
fn killed(model: &Path, more: &[&str]) -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let mut child = start(model, out.path(), more);
    wait_for_pieces(&mut child, &journal(out.path()));
    kill(child);
    out
}

/// Every file below a folder with its hash, but for the lock, which a killed run leaves
/// and the next one removes.
fn snapshot(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            found.extend(snapshot(&path));
        } else if path.extension().is_none_or(|end| end != "lock") {
            found.push((path.clone(), sha256(&path)));
        }
    }
    found
}

fn reference() -> String {
    let out = tempfile::tempdir().unwrap();
    sha256(&quantize(deep(), LEVEL, out.path(), &["-n", OUTPUT]))
}

/// Finishes what others began and compares; returns the report's metadata.
fn complete(out: &Path, reference: &str) -> Value {
    let report = finish(deep(), out, &[]).expect_code(0).json();
    assert_eq!(sha256(&out.join(OUTPUT)), reference);
    assert_eq!(names(out), [OUTPUT]);
    report["metadata"].clone()
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on() {
    let reference = reference();
    let begin = Instant::now();
    complete(tempfile::tempdir().unwrap().path(), &reference);
    let whole = begin.elapsed();
    let mut seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}, a run takes {whole:?}");
    let (mut kills, mut resumed) = (0, 0);
    while kills < KILLS {
        let out = tempfile::tempdir().unwrap();
        let mut at_least = 0;
        // Two kills in a row: the second may hit the run that resumes.
        for _ in 0..2 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            let share = (seed >> 33) as f64 / f64::from(1u32 << 31);
            let child = start(deep(), out.path(), &[]);
            std::thread::sleep(whole.mul_f64(share));
            kill(child);
            kills += 1;
            if out.path().join(OUTPUT).exists() {
                break;
            }
            let now = recorded(&journal(out.path()));
            println!("killed after {share:.3}: {now} pieces");
            assert!(now >= at_least);
            at_least = now;
        }
        if out.path().join(OUTPUT).exists() {
            assert_eq!(sha256(&out.path().join(OUTPUT)), reference);
            continue;
        }
        let metadata = complete(out.path(), &reference);
        assert!(metadata["pieces_resumed"].as_u64().unwrap() >= at_least);
        assert!(metadata["pieces_total"].as_u64() >= metadata["pieces_resumed"].as_u64());
        resumed += at_least;
    }
    println!("{resumed} pieces resumed");
}

#[test]
fn an_interrupt_keeps_what_is_done() {
    let reference = reference();
    for name in ["INT", "TERM"] {
        let out = tempfile::tempdir().unwrap();
        let mut child = start(deep(), out.path(), &[]);
        wait_for_pieces(&mut child, &journal(out.path()));
        signal(&child, name);
        let run = Run::from(child.wait_with_output().unwrap()).expect_code(130);
        let error = run.json();
        assert_eq!(error["error_type"], "InterruptedError");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&text(&journal(out.path()))), "{message}");
        assert!(!out.path().join(format!(".{OUTPUT}.lock")).exists());
        let pieces = recorded(&journal(out.path()));
        let run = finish(deep(), out.path(), &[]).expect_code(0);
        assert!(run.stderr.contains("Resuming: "), "{}", run.stderr);
        let metadata = &run.json()["metadata"];
        assert!(pieces > 0);
        assert_eq!(metadata["pieces_resumed"], pieces);
        assert_eq!(metadata["layers_processed"], LAYERS);
        assert_eq!(sha256(&out.path().join(OUTPUT)), reference);
        assert_eq!(names(out.path()), [OUTPUT]);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let out = tempfile::tempdir().unwrap();
    let mut child = start(deep(), out.path(), &[]);
    wait_for_pieces(&mut child, &journal(out.path()));
    // Both arrive together, when it goes on.
    for name in ["STOP", "INT", "TERM", "CONT"] {
        signal(&child, name);
    }
    let run = Run::from(child.wait_with_output().unwrap()).expect_code(130);
    // A clean end would have printed a document and removed its lock.
    assert_eq!(run.stdout, "");
    assert!(out.path().join(format!(".{OUTPUT}.lock")).exists());
    let pieces = recorded(&journal(out.path()));
    assert_eq!(complete(out.path(), &reference())["pieces_resumed"], pieces);
}

#[test]
fn what_does_not_fit_is_refused_with_the_difference_and_touched_by_nobody() {
    let model = tempfile::tempdir().unwrap();
    copy_folder(deep(), model.path());
    let out = killed(model.path(), &[]);
    let before = snapshot(out.path());
    let refused = |more: &[&str], words: &str| {
        let error = finish(model.path(), out.path(), more).expect_code(7).json();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        assert!(message.contains(&text(&journal(out.path()))), "{message}");
        let advice = error["suggestion"].as_str().unwrap();
        assert!(advice.contains("--no-checkpoints"), "{advice}");
    };
    refused(&["-q", "Q3_K_M"], "the level was Q2_K, now it is Q3_K_M");
    refused(
        &["--set", "pure=true"],
        "option pure was not set, now it is true",
    );
    // A plan, and an output that exists, have nothing to do with it.
    finish(model.path(), out.path(), &["--dry-run"]).expect_code(0);
    let precious = out.path().join(OUTPUT);
    fs::write(&precious, "precious").unwrap();
    finish(model.path(), out.path(), &[]).expect_code(2);
    finish(model.path(), out.path(), &["-q", "Q3_K_M"]).expect_code(2);
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
    fs::remove_file(precious).unwrap();

    let config = model.path().join("config.json");
    let original = fs::read(&config).unwrap();
    edit_json(&config, |config| config["added"] = Value::from(1));
    refused(&[], "config.json changed: it had");
    fs::write(&config, original).unwrap();
    let weights = model.path().join("model.safetensors");
    let file = fs::File::options().write(true).open(&weights).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
    refused(&[], "model.safetensors was modified");
    file.set_modified(time).unwrap();

    let good = fs::read(journal(out.path())).unwrap();
    for garbage in [&b"no JSON\n"[..], b"", b"{\"journal\":2}\n"] {
        fs::write(journal(out.path()), garbage).unwrap();
        refused(&[], "checkpoint");
    }
    fs::write(journal(out.path()), good).unwrap();
    assert_eq!(snapshot(out.path()), before);
    // Put back as it was, it fits.
    let report = finish(model.path(), out.path(), &[]).expect_code(0).json();
    assert!(report["metadata"]["pieces_resumed"].as_u64().unwrap() > 0);
}

#[test]
fn a_torn_end_of_the_journal_is_normal() {
    let out = killed(deep(), &[]);
    let mut bytes = fs::read(journal(out.path())).unwrap();
    let pieces = recorded(&journal(out.path()));
    bytes.extend_from_slice(b"{\"piece\":{\"unit\":3,\"ro");
    fs::write(journal(out.path()), bytes).unwrap();
    assert_eq!(complete(out.path(), &reference())["pieces_resumed"], pieces);
}

#[test]
fn a_model_that_moved_is_the_same_model() {
    let first = tempfile::tempdir().unwrap();
    let (before, after) = (first.path().join("a"), first.path().join("b"));
    // The name of the model is in the output, so it stays.
    let (old, new) = (before.join("tiny-llama"), after.join("tiny-llama"));
    copy_folder(deep(), &old);
    let out = killed(&old, &[]);
    fs::rename(&before, &after).unwrap();
    let report = finish(&new, out.path(), &[]).expect_code(0).json();
    assert!(report["metadata"]["pieces_resumed"].as_u64().unwrap() > 0);
}

#[test]
fn checkpoints_lie_where_the_user_wants() {
    let reference = reference();
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = elsewhere.path().join("deep/er");
    let folder_text = text(&folder);
    let there = folder.join(format!("{OUTPUT}.journal"));
    for by_variable in [true, false] {
        let out = tempfile::tempdir().unwrap();
        let begin = |more: &[&str]| {
            let mut command = program();
            command.args(arguments(deep(), out.path(), more));
            if by_variable {
                command.env("LLM_QUANTIZE_CHECKPOINT_DIR", &folder);
            }
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        };
        let named: &[&str] = match by_variable {
            true => &[],
            false => &["--checkpoint-dir", &folder_text],
        };
        let mut child = begin(named).spawn().unwrap();
        wait_for_pieces(&mut child, &there);
        kill(child);
        assert!(!out.path().join(".checkpoint").exists());
        // Another output of the same name would lose this one's checkpoint.
        let other = tempfile::tempdir().unwrap();
        let named_here = ["--checkpoint-dir", folder_text.as_str()];
        let error = finish(deep(), other.path(), &named_here)
            .expect_code(7)
            .json();
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("the output folder was"), "{message}");

        let pieces = recorded(&there);
        let run = Run::from(begin(named).output().unwrap()).expect_code(0);
        assert_eq!(run.json()["metadata"]["pieces_resumed"], pieces);
        assert_eq!(sha256(&out.path().join(OUTPUT)), reference);
        assert!(names(&folder).is_empty());
    }
}

#[test]
fn a_checkpoint_can_be_named() {
    let out = killed(deep(), &[]);
    let folder = text(&out.path().join(".checkpoint"));
    let pieces = recorded(&journal(out.path()));
    let error = finish(deep(), out.path(), &["--resume", "/no/such"]).expect_code(7);
    assert!(
        error.json()["message"]
            .as_str()
            .unwrap()
            .contains("/no/such")
    );
    let run = finish(deep(), out.path(), &["--resume", &folder]).expect_code(0);
    assert_eq!(run.json()["metadata"]["pieces_resumed"], pieces);
    // Now there is none.
    let again = ["--overwrite", "--resume", &folder];
    finish(deep(), out.path(), &again).expect_code(7);
    assert_eq!(names(out.path()), [OUTPUT]);
}

#[test]
fn without_checkpoints_it_starts_anew_and_leaves_nothing() {
    let out = killed(deep(), &[]);
    let mut child = start(deep(), out.path(), &["--no-checkpoints"]);
    let begin = Instant::now();
    while journal(out.path()).exists() {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, "INT");
    let run = Run::from(child.wait_with_output().unwrap()).expect_code(130);
    assert_eq!(run.json()["message"], "interrupted");
    assert!(names(out.path()).is_empty(), "{:?}", names(out.path()));
    assert_eq!(complete(out.path(), &reference())["pieces_resumed"], 0);
}

#[test]
fn two_runs_do_not_build_the_same_output() {
    let out = tempfile::tempdir().unwrap();
    let mut child = start(deep(), out.path(), &[]);
    wait_for_pieces(&mut child, &journal(out.path()));
    signal(&child, "STOP");
    // All its threads must have stopped before there is something to compare.
    let mut before = snapshot(out.path());
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let earlier = std::mem::replace(&mut before, snapshot(out.path()));
        if earlier == before {
            break;
        }
    }
    for more in [&["--overwrite"][..], &["--no-checkpoints"]] {
        let error = finish(deep(), out.path(), more).expect_code(1).json();
        let message = error["message"].as_str().unwrap();
        let pid = format!("process {}", child.id());
        assert!(message.contains(&pid), "{message}");
        assert!(message.contains(&format!(".{OUTPUT}.lock")), "{message}");
    }
    assert_eq!(snapshot(out.path()), before);
    signal(&child, "CONT");
    Run::from(child.wait_with_output().unwrap()).expect_code(0);
    assert_eq!(names(out.path()), [OUTPUT]);
}
