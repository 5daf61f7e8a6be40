//! What the machine refuses: folders, disks, limits. Every refusal is an error with
//! advice, never a panic, and leaves nothing behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use llm_quantize_tests::safetensors::{read_safetensors, write_safetensors};
use llm_quantize_tests::{
    Run, copy_folder, deep_llama, isolated, names, program, program_path, quantize, sha256,
    tiny_llama,
};
use serde_json::{Map, json};

/// A model that is small, but not done at once.
fn deep() -> &'static Path {
    static MODEL: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults-llama");
        deep_llama(&folder, 16);
        folder
    });
    &MODEL
}

/// A run of a shell script. `$RUN` is the program with everything but the folder, which
/// is `$OUT`.
fn shell(script: &str, out: &Path, namespaces: bool) -> Run {
    let run = format!(
        "{} --format json quantize {} gguf -q Q2_K -n m.gguf -o {}",
        program_path().display(),
        deep().display(),
        out.display()
    );
    let (first, arguments): (&str, &[&str]) = match namespaces {
        true => ("unshare", &["-rm", "sh", "-c", script]),
        false => ("sh", &["-c", script]),
    };
    let mut command = isolated(first);
    command.args(arguments);
    command.env("RUN", run).env("OUT", out);
    command.output().unwrap().into()
}

/// Whether this machine lets us mount things of our own. If not, says so.
#[allow(clippy::print_stderr)] // a test that is skipped must not look like one that ran
fn can_mount(test: &str) -> bool {
    let mounts = Command::new("unshare")
        .args(["-rm", "mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status();
    let can = mounts.is_ok_and(|status| status.success());
    if !can {
        eprintln!("{test}: skipped, no mounts in a namespace of our own here");
    }
    can
}

#[track_caller]
fn advice(run: &Run) -> String {
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    let error = run.json();
    format!("{}\n{}", error["message"], error["suggestion"])
}

/// Hash of the undisturbed output of [`shell`].
fn reference() -> String {
    let out = tempfile::tempdir().unwrap();
    sha256(&quantize(deep(), "Q2_K", out.path(), &["-n", "m.gguf"]))
}

#[test]
fn a_folder_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let run = shell("$RUN", &dir.path().join("file/sub"), false).expect_code(1);
    assert!(advice(&run).contains("file/sub"), "{}", advice(&run));
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn a_disk_that_cannot_be_written_is_refused() {
    if !can_mount("a_disk_that_cannot_be_written_is_refused") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = shell("mount -t tmpfs -o ro none $OUT && $RUN", dir.path(), true).expect_code(1);
    assert!(advice(&run).contains("--output-dir"), "{}", advice(&run));
}

#[test]
fn a_full_disk_is_refused_with_what_is_missing_and_goes_on_when_there_is_space() {
    if !can_mount("a_full_disk_is_refused") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "
        mount -t tmpfs -o size=10m none $OUT && head -c 8000000 /dev/zero > $OUT/filler || exit 99
        $RUN; code=$?; ls -A $OUT >&2; [ $code = 13 ] || exit 98";
    let run = shell(script, dir.path(), true).expect_code(0);
    assert!(advice(&run).contains("are missing"), "{}", advice(&run));
    assert!(run.stderr.ends_with("filler\n"), "{}", run.stderr);

    // Interrupted, then somebody else fills the disk: what is reserved is ours, so that
    // is no obstacle.
    let script = "
        mount -t tmpfs -o size=10m none $OUT || exit 99
        $RUN --threads 1 >/dev/null & pid=$!
        for i in $(seq 2000); do grep -q piece $OUT/.checkpoint/* 2>/dev/null && break; sleep 0.002; done
        kill -9 $pid; wait $pid
        head -c 10000000 /dev/zero > $OUT/filler
        $RUN >&2 && sha256sum < $OUT/m.gguf";
    let run = shell(script, dir.path(), true).expect_code(0);
    assert!(run.stdout.starts_with(&reference()), "{}", run.stdout);
    assert!(run.stderr.contains("Resuming: "), "{}", run.stderr);
}

#[test]
fn where_nothing_can_be_reserved_zeros_are_written() {
    if !can_mount("where_nothing_can_be_reserved_zeros_are_written") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // ramfs has no fallocate, and says nothing about its size.
    let script = "mount -t ramfs none $OUT && $RUN >&2 && sha256sum < $OUT/m.gguf";
    let run = shell(script, dir.path(), true).expect_code(0);
    assert!(run.stdout.starts_with(&reference()), "{}", run.stdout);
}

#[test]
fn a_limit_on_file_sizes_is_an_error_and_no_death() {
    let dir = tempfile::tempdir().unwrap();
    let run = shell("ulimit -f 1000 && $RUN", dir.path(), false).expect_code(1);
    assert!(advice(&run).contains("ulimit -f"), "{}", advice(&run));
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

/// The built-in model with a file for each tensor.
fn sharded(folder: &Path) -> usize {
    copy_folder(&tiny_llama(), folder);
    let path = folder.join("model.safetensors");
    let tensors = read_safetensors(&path);
    fs::remove_file(path).unwrap();
    let mut map = Map::new();
    for (place, tensor) in tensors.iter().enumerate() {
        let file = format!("model-{place:05}.safetensors");
        write_safetensors(&folder.join(&file), std::slice::from_ref(tensor));
        map.insert(tensor.name.clone(), json!(file));
    }
    let count = map.len();
    let index = json!({"metadata": {}, "weight_map": map});
    fs::write(
        folder.join("model.safetensors.index.json"),
        index.to_string(),
    )
    .unwrap();
    count
}

#[test]
fn many_files_need_few_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("tiny-llama"), dir.path().join("out"));
    let shards = sharded(&model);
    assert!(shards > 30);
    let line = |limit: &str, more: &str| {
        let script = format!(
            "ulimit {limit} && {} --format json quantize {} gguf -q Q4_0 -n m -o {} {more}",
            program_path().display(),
            model.display(),
            out.display()
        );
        Run::from(isolated("sh").args(["-c", &script]).output().unwrap())
    };
    // Fewer than the files that are read, and than those that are written.
    line("-n 24", "--set split-max-size=100K").expect_code(0);
    let written = names(&out).len();
    assert!(written > 24, "{written}");
    fs::remove_dir_all(&out).unwrap();
    // A low limit that may be raised is raised.
    line("-S -n 12", "").expect_code(0);
    assert_eq!(names(&out).len(), 1);
}

/// Starts a run and returns when its first layers are done.
fn half_done(model: &Path, out: &Path) -> Child {
    let (model, folder) = (model.to_string_lossy(), out.to_string_lossy());
    let mut child = program()
        .args(["--format", "json", "--threads", "1", "quantize"])
        .args([
            &*model, "gguf", "-q", "Q2_K", "-n", "m.gguf", "-o", &*folder,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !out.join(".checkpoint/m.gguf.journal").exists() {
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn an_output_folder_that_vanishes_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let child = half_done(deep(), &out);
    fs::remove_dir_all(&out).unwrap();
    let run = Run::from(child.wait_with_output().unwrap()).expect_code(1);
    let advice = advice(&run);
    assert!(advice.contains(&*out.to_string_lossy()), "{advice}");
    assert!(!out.exists());
}

/// The model's weights are changed while a run reads them; returns what it said.
fn spoiled(change: impl FnOnce(&File)) -> Run {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (dir.path().join("model"), dir.path().join("out"));
    copy_folder(deep(), &model);
    let child = half_done(&model, &out);
    let weights = model.join("model.safetensors");
    change(&File::options().append(true).open(weights).unwrap());
    let run = Run::from(child.wait_with_output().unwrap()).expect_code(6);
    let message = run.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("model.safetensors"), "{message}");
    assert!(!out.join("m.gguf").exists());
    run
}

#[test]
fn a_source_that_is_written_to_gives_no_output() {
    let run = spoiled(|weights| { weights }.write_all(b"more").unwrap());
    assert!(run.stdout.contains("changed while"), "{}", run.stdout);
}

#[test]
fn a_source_that_is_cut_short_is_named() {
    let run = spoiled(|weights| weights.set_len(1000).unwrap());
    // The next page that is read is missing; a run that had read all of them notices later.
    let noticed = |text: &str| text.contains("cut short") || text.contains("now it has 1000");
    assert!(noticed(&run.stdout), "{}", run.stdout);
    assert!(noticed(&run.stderr), "{}", run.stderr);
}
