//! From bf16 safetensors to a finished GGUF, against `llama_model_quantize` from a bf16 GGUF
//! that is already there (its conversion is not counted): wall time and peak memory.
//!
//! ```sh
//! LLM_QUANTIZE_LLAMA_LIB=…/libllama.so LLM_QUANTIZE_BENCH_LAYERS=22 \
//!   cargo bench -p llm-quantize-tests --bench end_to_end
//! ```
//!
//! | variable | | default |
//! | --- | --- | --- |
//! | `LLM_QUANTIZE_LLAMA_LIB` | libllama; without it only our figures are printed | none |
//! | `LLM_QUANTIZE_BENCH_LAYERS` | depth of the synthetic model; 22 have 1.07 billion parameters | 2 |
//! | `LLM_QUANTIZE_BENCH_MODEL` | a Hugging Face folder to be used instead | none |
//! | `LLM_QUANTIZE_BENCH_LEVEL` | | `Q4_K_M` |
//! | `LLM_QUANTIZE_BENCH_THREADS` | of both programs | 2 |
//! | `LLM_QUANTIZE_BENCH_RUNS` | of each program, in turns | 3 |
//!
//! The inputs are in the page cache, as far as memory goes, and nothing waits to be written
//! when a run begins. The time includes the start of the process, and in our case checks,
//! syncs and checkpoints. A prebuilt llama.cpp is usually compiled for baseline x86-64: one
//! built for the very processor is faster.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

#[cfg(unix)]
mod llama;
#[cfg(unix)]
mod measure;

use std::process::ExitCode;

#[cfg(not(unix))]
fn main() -> ExitCode {
    println!("this benchmark needs a Unix system");
    ExitCode::SUCCESS
}

#[cfg(unix)]
fn main() -> ExitCode {
    match unix::run(std::env::args_os().collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("end_to_end: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::ffi::OsString;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use llm_quantize_tests::program;
    use llm_quantize_tests::synthetic::{Shape, write_llama};

    use super::llama;
    use super::measure::{Runs, measure};

    /// With this as its first argument, this program is the peer.
    const PEER: &str = "--llama-model-quantize";

    pub fn run(arguments: Vec<OsString>) -> Result<(), String> {
        match &arguments[1..] {
            [peer, library, input, output, ftype, threads] if *peer == *PEER => {
                let [ftype, threads] = [ftype, threads].map(|n| n.to_str()?.parse().ok());
                let (ftype, threads) = ftype.zip(threads).ok_or("bad numbers")?;
                llama::quantize(
                    library.as_ref(),
                    input.as_ref(),
                    output.as_ref(),
                    ftype,
                    threads,
                )
            }
            // `cargo test --benches` only wants to know that it starts.
            all if all.iter().any(|argument| *argument == *"--bench") => Bench::new()?.compare(),
            _ => Ok(()),
        }
    }

    fn variable(name: &str) -> Option<OsString> {
        std::env::var_os(format!("LLM_QUANTIZE_{name}")).filter(|value| !value.is_empty())
    }

    fn number(name: &str, default: usize) -> Result<usize, String> {
        let Some(value) = variable(name) else {
            return Ok(default);
        };
        let number = value.to_str().and_then(|text| text.parse().ok());
        let number = number.filter(|number| *number > 0);
        number.ok_or_else(|| format!("LLM_QUANTIZE_{name} is not a number from 1 on: {value:?}"))
    }

    struct Bench {
        work: tempfile::TempDir,
        library: Option<PathBuf>,
        level: String,
        ftype: i32,
        threads: usize,
        runs: usize,
    }

    impl Bench {
        fn new() -> Result<Self, String> {
            let level = variable("BENCH_LEVEL").map_or("Q4_K_M".into(), |level| level);
            let level = level.to_string_lossy().to_uppercase();
            let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
            Ok(Self {
                work: work.map_err(|error| error.to_string())?,
                library: variable("LLAMA_LIB").map(PathBuf::from),
                ftype: llama::ftype(&level).ok_or(format!("no comparison for {level}"))?,
                level,
                threads: number("BENCH_THREADS", 2)?,
                runs: number("BENCH_RUNS", 3)?,
            })
        }

        fn compare(&self) -> Result<(), String> {
            let model = self.model()?;
            let (ours, theirs) = (self.path("ours"), self.path("theirs.gguf"));
            let mut bf16 = None;
            if self.library.is_some() {
                measure(&mut self.ours(&model, "BF16", &self.path("bf16")))?;
                bf16 = Some(only_file(&self.path("bf16"))?);
            }
            warm(&model)?;
            let (mut us, mut them) = (Runs::default(), Runs::default());
            for _ in 0..self.runs {
                remove(&ours);
                rustix::fs::sync();
                us.push(measure(&mut self.ours(&model, &self.level, &ours))?);
                if let (Some(library), Some(bf16)) = (&self.library, &bf16) {
                    remove(&theirs);
                    rustix::fs::sync();
                    them.push(measure(&mut self.theirs(library, bf16, &theirs)?)?);
                }
            }
            println!(
                "{}, {} threads, medians of {} runs:",
                self.level, self.threads, self.runs
            );
            println!("| | wall time | processor time | peak memory |");
            println!("| --- | --- | --- | --- |");
            print_row("llm-quantize", &us);
            if self.library.is_none() {
                println!("\nLLM_QUANTIZE_LLAMA_LIB names no libllama: nothing to compare with.");
                return Ok(());
            }
            print_row("llama_model_quantize", &them);
            let (wall, peak) = (them.wall() / us.wall(), them.peak() / us.peak());
            println!(
                "| ratio | {wall:.1} | {:.1} | {peak:.1} |",
                them.cpu() / us.cpu()
            );
            same_size(&only_file(&ours)?, &theirs)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.work.path().join(name)
        }

        /// The user's model, or a new one.
        fn model(&self) -> Result<PathBuf, String> {
            if let Some(folder) = variable("BENCH_MODEL") {
                println!("model: {}", folder.display());
                return Ok(folder.into());
            }
            let shape = Shape::of_layers(number("BENCH_LAYERS", 2)?);
            let folder = self.path("model");
            write_llama(&folder, &shape).map_err(|error| error.to_string())?;
            let millions = shape.parameters() / 1_000_000;
            println!(
                "model: {} layers, {millions} million parameters",
                shape.layers
            );
            Ok(folder)
        }

        fn ours(&self, model: &Path, level: &str, folder: &Path) -> Command {
            let mut command = program();
            command
                .args([
                    "--verbosity",
                    "quiet",
                    "--threads",
                    &self.threads.to_string(),
                ])
                .arg("quantize")
                .arg(model)
                .args(["gguf", "-q", level, "-o"])
                .arg(folder)
                .stdout(Stdio::null());
            command
        }

        fn theirs(&self, library: &Path, from: &Path, to: &Path) -> Result<Command, String> {
            let this = std::env::current_exe().map_err(|error| error.to_string())?;
            let mut command = Command::new(this);
            command
                .arg(PEER)
                .args([library, from, to])
                .args([self.ftype.to_string(), self.threads.to_string()]);
            Ok(command)
        }
    }

    fn print_row(name: &str, runs: &Runs) {
        let (wall, cpu, peak) = (runs.wall(), runs.cpu(), runs.peak());
        println!("| {name} | {wall:.2} s | {cpu:.2} s | {peak:.0} MiB |");
    }

    fn only_file(folder: &Path) -> Result<PathBuf, String> {
        let mut entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
        let file = entries.find_map(|entry| Some(entry.ok()?.path()).filter(|path| path.is_file()));
        file.ok_or_else(|| format!("nothing was written to {}", folder.display()))
    }

    fn remove(path: &Path) {
        // What is not there is no obstacle.
        let _ = fs::remove_dir_all(path);
        let _ = fs::remove_file(path);
    }

    /// Reads all files of a folder, so that the first run has no disadvantage.
    fn warm(folder: &Path) -> Result<(), String> {
        let read = |path: &Path| -> std::io::Result<u64> {
            std::io::copy(&mut fs::File::open(path)?, &mut std::io::sink())
        };
        for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            if path.is_file() {
                read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Only outputs with the same types can be compared; metadata may differ a little.
    fn same_size(ours: &Path, theirs: &Path) -> Result<(), String> {
        let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        let (ours, theirs) = (size(ours), size(theirs));
        match ours.abs_diff(theirs) * 1000 < ours {
            true => Ok(()),
            false => Err(format!("the outputs differ: {ours} and {theirs} bytes")),
        }
    }
}
