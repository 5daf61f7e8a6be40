//! Runs of the program under limits, for inputs that nobody vouches for.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Run, build_folder};

/// Memory that the program may allocate, in KiB (`ulimit -d`). Allocations beyond it fail, and a
/// Rust program aborts then.
const MAX_DATA_KIB: u32 = 256 << 10;

/// Processor seconds that any command may take on a model of a few kilobytes (`ulimit -t`). The
/// clock on the wall says nothing on a machine with other work.
const MAX_CPU_SECONDS: u32 = 5;

/// After this a command hangs, on a pipe for example.
const MAX_TIME: Duration = Duration::from_secs(60);

/// Exit codes that stand for a refusal of what was given. Not among them: 1 (not thought of),
/// 12 (a plugin failed, which a panic in it becomes) and deaths by signal.
const REFUSALS: [i32; 5] = [2, 5, 6, 8, 10];

/// Runs the program with JSON results, little memory and little time.
///
/// # Errors
/// If it hangs.
pub fn run_limited<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Result<Run, String> {
    let program = build_folder().join("llm-quantize");
    let mut child = Command::new("sh")
        .args([
            "-c",
            &format!("ulimit -d {MAX_DATA_KIB} && ulimit -t {MAX_CPU_SECONDS} && exec \"$@\""),
            "sh",
        ])
        .arg(program)
        .args(["--format", "json", "--threads", "2"])
        .args(arguments)
        .env_remove("LLM_QUANTIZE_PLUGIN_PATH")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    // Read on threads of their own, so that a full pipe is no endless run.
    let stdout = child.stdout.take().map(collect);
    let stderr = child.stderr.take().map(collect);
    let code = wait(&mut child)?;
    let text = |reader: Option<std::thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Run {
        code,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

fn collect(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child) -> Result<i32, String> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return Ok(status.code().unwrap_or(-1));
        }
        if start.elapsed() > MAX_TIME {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it does not end within {MAX_TIME:?}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checks that a run succeeded or refused its input as it should: an exit code for refusals, one
/// well-formed document with a message and a suggestion, nothing in the output folder.
///
/// # Errors
/// What is not so.
pub fn check_outcome(run: &Run, output: &Path) -> Result<(), String> {
    let fail = |what: &str| {
        Err(format!(
            "{what}; code {}, stdout:\n{}\nstderr:\n{}",
            run.code, run.stdout, run.stderr
        ))
    };
    if run.stderr.contains("panicked") {
        return fail("it panicked");
    }
    let Ok(document) = serde_json::from_str::<Value>(&run.stdout) else {
        return fail("stdout is no JSON document");
    };
    if run.code == 0 {
        return Ok(());
    }
    if !REFUSALS.contains(&run.code) {
        return fail("the exit code is none of a refusal");
    }
    let said = |key: &str| document[key].as_str().is_some_and(|text| !text.is_empty());
    if document["error_code"] != run.code || !said("message") || !said("suggestion") {
        return fail("the error is not complete");
    }
    let left = std::fs::read_dir(output).map_or(0, Iterator::count);
    if left > 0 {
        return fail("something is left in the output folder");
    }
    Ok(())
}
