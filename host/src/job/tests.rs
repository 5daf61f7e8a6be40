//! Whole jobs in this process: interrupted at every piece, and continued.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm_quantize_plugin_api as plugin_api;
use plugin_api::{
    Container, EncodeCall, EncodeReport, FileView, FormatDescription, Inputs, Job, Measure,
    ModelView, Plan, PlanRequest, Quantizer,
};
use tempfile::TempDir;

use super::journal::{Checkpoints, PluginId};
use super::lock::OutputLock;
use super::*;
use crate::convert::hf::HuggingFace;
use crate::error::{Error, ExitCode, Result};
use crate::source::{SourceModel, fixtures};

/// Writes plain Hugging Face files, loose or in a folder, and measures something.
struct Measuring {
    container: Container,
    /// Its tensors cannot be cut.
    whole: bool,
}

struct MeasuringJob {
    plan: Plan,
    inner: Box<dyn Job>,
}

impl Quantizer for Measuring {
    fn formats(&self) -> Vec<FormatDescription> {
        HuggingFace.formats()
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> plugin_api::Result<Box<dyn Job>> {
        let inner = HuggingFace.plan(inputs, request)?;
        let mut plan = inner.plan().clone();
        plan.container = self.container.clone();
        if self.whole {
            plan.units.iter_mut().for_each(|unit| unit.split = None);
        }
        Ok(Box::new(MeasuringJob { plan, inner }))
    }
}

impl Job for MeasuringJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.inner.blob(index)
    }

    fn encode(&self, call: EncodeCall<'_>) -> plugin_api::Result<EncodeReport> {
        // Sums of these depend on their order in the last digits.
        let value = 1.0 / (3.0 + call.unit as f64);
        self.inner.encode(call)?;
        Ok(EncodeReport {
            measures: vec![Measure::new("error", value)],
        })
    }

    fn verify(&self, files: &[FileView<'_>]) -> plugin_api::Result<()> {
        self.inner.verify(files)
    }
}

/// Interrupts after so many pieces, and notes what is said.
struct Watcher {
    cancel: CancelFlag,
    pieces: AtomicUsize,
    sizes: Mutex<Vec<u64>>,
    stop_after: usize,
    said: Mutex<Vec<String>>,
    begun: Mutex<Work>,
}

impl Watcher {
    fn new(stop_after: usize) -> Self {
        let watcher = Self {
            cancel: CancelFlag::default(),
            pieces: AtomicUsize::new(0),
            sizes: Mutex::default(),
            stop_after,
            said: Mutex::default(),
            begun: Mutex::default(),
        };
        if stop_after == 0 {
            watcher.stop();
        }
        watcher
    }

    fn stop(&self) {
        self.cancel.shared().store(true, Ordering::Relaxed);
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

impl JobProgress for Watcher {
    fn begin(&self, work: Work) {
        *self.begun.lock().unwrap() = work;
    }

    fn bytes(&self, done: u64) {
        self.sizes.lock().unwrap().push(done);
        if self.pieces.fetch_add(1, Ordering::Relaxed) + 1 == self.stop_after {
            self.stop();
        }
    }

    fn layer(&self, _: usize, _: usize) {}

    fn end(&self) {}

    fn note(&self, message: &str) {
        self.said.lock().unwrap().push(message.into());
    }

    fn warn(&self, message: &str) {
        self.note(message);
    }
}

const PIECES: usize = 5;
const NEVER: usize = usize::MAX;

/// A model, an output folder, and what to do with them.
struct Bench {
    model: TempDir,
    out: TempDir,
    container: Container,
    whole: bool,
    level: &'static str,
    checkpoints: Checkpoints,
    overwrite: bool,
}

impl Bench {
    fn new() -> Self {
        let model = tempfile::tempdir().unwrap();
        fixtures::write_llama(model.path());
        Self {
            model,
            out: tempfile::tempdir().unwrap(),
            container: Container::Folder("m".into()),
            whole: false,
            level: "F32",
            checkpoints: Checkpoints::default(),
            overwrite: false,
        }
    }

    fn run(&self, watcher: &Watcher) -> Result<Outcome> {
        let path = self.model.path().to_string_lossy();
        let source = SourceModel::open(&path, &[], ModelView::HuggingFace)?;
        let threads = Threads::new(1)?;
        let context = Context {
            threads: &threads,
            cancel: &watcher.cancel,
            progress: watcher,
            max_memory: 1 << 30,
        };
        let request = PlanRequest {
            format: "hf".into(),
            level: self.level.into(),
            ..PlanRequest::default()
        };
        let plugin = PluginId {
            id: "measuring".into(),
            version: "1.0.0".into(),
        };
        let quantizer = Measuring {
            container: self.container.clone(),
            whole: self.whole,
        };
        let folder = self.out.path();
        prepare(
            &plugin, &quantizer, &source, None, &request, folder, &context,
        )?
        .check(self.overwrite, &self.checkpoints, &context)?
        .run(&context, || {})
    }

    /// Interrupts a run after so many pieces.
    fn interrupt(&self, pieces: usize) -> Error {
        let error = self.run(&Watcher::new(pieces)).unwrap_err();
        assert_eq!(error.class, ExitCode::Interrupted, "{error}");
        error
    }

    fn journal(&self) -> PathBuf {
        let name = match &self.container {
            Container::Folder(name) => name,
            Container::Files => "model.safetensors",
        };
        self.out.path().join(format!(".checkpoint/{name}.journal"))
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.out.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap();
    let mut contents: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (staging::file_name(&path), fs::read(path).unwrap()))
        .collect();
    contents.sort();
    contents
}

#[test]
fn wherever_it_stops_it_ends_in_the_same_bytes_and_sums() {
    let whole = Bench::new();
    let undisturbed = whole.run(&Watcher::new(NEVER)).unwrap();
    assert_eq!(
        (undisturbed.pieces, undisturbed.pieces_resumed),
        (PIECES, 0)
    );
    assert_eq!(whole.names(), ["m"]);
    for stop in 1..=PIECES {
        let bench = Bench::new();
        let error = bench.interrupt(stop);
        let journal = bench.journal().display().to_string();
        assert!(error.message.contains(&journal), "{error}");
        assert_eq!(bench.names(), [".checkpoint", ".m.partial"]);
        let watcher = Watcher::new(NEVER);
        let resumed = bench.run(&watcher).unwrap();
        assert_eq!(resumed.pieces_resumed, stop);
        assert_eq!(watcher.pieces.load(Ordering::Relaxed), PIECES - stop);
        assert!(watcher.said().contains("Resuming: "), "{}", watcher.said());
        assert_eq!(bench.names(), ["m"]);
        assert_eq!(contents(&resumed.path), contents(&undisturbed.path));
        let bits = |outcome: &Outcome| outcome.measures["error"].to_bits();
        assert_eq!(bits(&resumed), bits(&undisturbed));
        let begun = *watcher.begun.lock().unwrap();
        assert_eq!(begun.layers_done, resumed.layers_resumed);
        assert_eq!(begun.amount_done == begun.amount, stop == PIECES);
    }
}

#[test]
fn what_cannot_be_cut_is_done_first_and_a_later_run_goes_on() {
    let mut bench = Bench::new();
    bench.whole = true;
    let rows = 9 << 10;
    let tensors = [
        fixtures::Tensor::bf16_zeros("model.embed_tokens.weight", &[8, 4]),
        fixtures::Tensor::bf16_zeros("model.layers.0.mlp.up_proj.weight", &[3, 4]),
        fixtures::Tensor::bf16_zeros("model.layers.1.mlp.up_proj.weight", &[rows, 512]),
    ];
    fixtures::write_safetensors(&bench.model.path().join("model.safetensors"), &tensors);
    let watcher = Watcher::new(2);
    bench.run(&watcher).unwrap_err();
    assert_eq!(*watcher.sizes.lock().unwrap(), [9 << 20, 64]);
    let watcher = Watcher::new(NEVER);
    let outcome = bench.run(&watcher).unwrap();
    assert_eq!(*watcher.sizes.lock().unwrap(), [24]);
    assert_eq!((outcome.layers, outcome.layers_resumed), (2, 1));
}

#[test]
fn several_interrupts_add_up() {
    let bench = Bench::new();
    for stop in [1, 2, 1] {
        bench.interrupt(stop);
    }
    assert_eq!(bench.run(&Watcher::new(NEVER)).unwrap().pieces_resumed, 4);
}

#[test]
fn a_run_that_finished_nothing_leaves_nothing() {
    let bench = Bench::new();
    bench.interrupt(0);
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}

#[test]
fn without_checkpoints_nothing_is_left_or_used() {
    let mut bench = Bench::new();
    bench.interrupt(2);
    bench.checkpoints.off = true;
    let error = bench.interrupt(2);
    assert_eq!(error.message, "interrupted");
    assert!(bench.names().is_empty(), "{:?}", bench.names());
    bench.checkpoints.off = false;
    bench.interrupt(2);
    bench.checkpoints.off = true;
    assert_eq!(bench.run(&Watcher::new(NEVER)).unwrap().pieces_resumed, 0);
    assert_eq!(bench.names(), ["m"]);
}

#[test]
fn what_does_not_fit_is_refused_and_stays() {
    let mut bench = Bench::new();
    bench.interrupt(3);
    bench.level = "F16";
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert_eq!(error.class, ExitCode::Checkpoint);
    assert!(
        error.message.contains("the level was F32, now it is F16"),
        "{error}"
    );
    assert!(error.advice().contains("--no-checkpoints"));
    bench.level = "F32";
    assert_eq!(bench.run(&Watcher::new(NEVER)).unwrap().pieces_resumed, 3);
}

#[test]
fn a_source_that_changed_is_refused() {
    let bench = Bench::new();
    bench.interrupt(3);
    let path = bench.model.path().join("model.safetensors");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert_eq!(error.class, ExitCode::Checkpoint);
    assert!(
        error.message.contains("model.safetensors was modified"),
        "{error}"
    );
}

#[test]
fn damaged_pieces_are_done_again() {
    let bench = Bench::new();
    bench.interrupt(4);
    let staged = bench.out.path().join(".m.partial/model.safetensors");
    let mut bytes = fs::read(&staged).unwrap();
    let last = bytes.len() - 1;
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header] ^= 1;
    bytes[last] ^= 1;
    fs::write(&staged, bytes).unwrap();
    let watcher = Watcher::new(NEVER);
    let resumed = bench.run(&watcher).unwrap();
    assert_eq!(resumed.pieces_resumed, 3);
    assert!(watcher.said().contains("1 finished pieces are damaged"));
    let whole = Bench::new();
    let undisturbed = whole.run(&Watcher::new(NEVER)).unwrap();
    assert_eq!(contents(&resumed.path), contents(&undisturbed.path));
}

#[test]
fn a_checkpoint_without_its_files_is_worthless_but_not_if_named() {
    let mut bench = Bench::new();
    bench.interrupt(4);
    fs::remove_dir_all(bench.out.path().join(".m.partial")).unwrap();
    bench.checkpoints.resume = Some(bench.journal());
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert_eq!(error.class, ExitCode::Checkpoint);
    assert!(error.message.contains("gone"), "{error}");
    bench.checkpoints.resume = None;
    assert_eq!(bench.run(&Watcher::new(NEVER)).unwrap().pieces_resumed, 0);
    assert_eq!(bench.names(), ["m"]);
}

#[test]
fn an_interrupted_renaming_is_finished() {
    let mut bench = Bench::new();
    bench.container = Container::Files;
    bench.interrupt(PIECES);
    // As a power cut in the middle of the renames leaves it.
    let at = |name: &str| bench.out.path().join(name);
    let mut journal = fs::read_to_string(bench.journal()).unwrap();
    journal.push_str("\"publishing\"\n");
    fs::write(bench.journal(), journal).unwrap();
    fs::rename(at(".tokenizer.json.partial"), at("tokenizer.json")).unwrap();
    let resumed = bench.run(&Watcher::new(NEVER)).unwrap();
    assert_eq!(resumed.pieces_resumed, PIECES);
    assert_eq!(
        bench.names(),
        ["config.json", "model.safetensors", "tokenizer.json"]
    );
    // Finished outputs are no half-published ones.
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert_eq!(error.class, ExitCode::InvalidArguments);
}

#[test]
fn an_existing_file_is_not_taken_for_a_half_published_one() {
    let mut bench = Bench::new();
    bench.container = Container::Files;
    bench.interrupt(PIECES);
    let precious = bench.out.path().join("tokenizer.json");
    fs::rename(bench.out.path().join(".tokenizer.json.partial"), &precious).unwrap();
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert_eq!(error.class, ExitCode::InvalidArguments);
    assert!(error.message.contains("tokenizer.json exists"), "{error}");
}

#[test]
fn the_same_output_is_built_once_at_a_time() {
    let bench = Bench::new();
    bench.interrupt(2);
    let destination = Destination {
        folder: bench.out.path().to_owned(),
        targets: vec![bench.out.path().join("m")],
    };
    let lock = OutputLock::take(&destination).unwrap();
    let before = (bench.names(), fs::read(bench.journal()).unwrap());
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert!(error.message.contains(".m.lock"), "{error}");
    assert_eq!((bench.names(), fs::read(bench.journal()).unwrap()), before);
    drop(lock);
    assert_eq!(bench.run(&Watcher::new(NEVER)).unwrap().pieces_resumed, 2);
}

#[test]
fn checkpoints_may_lie_elsewhere() {
    let mut bench = Bench::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = elsewhere.path().join("a/b");
    bench.checkpoints.folder = Some(folder.clone());
    bench.interrupt(2);
    assert_eq!(bench.names(), [".m.partial"]);
    // Found by name, too; a folder of the user's stays.
    bench.checkpoints.folder = None;
    bench.checkpoints.resume = Some(folder.clone());
    assert_eq!(bench.run(&Watcher::new(NEVER)).unwrap().pieces_resumed, 2);
    assert_eq!(bench.names(), ["m"]);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

#[test]
fn a_checkpoint_folder_that_cannot_be_made_is_refused_before_the_work() {
    let mut bench = Bench::new();
    bench.checkpoints.folder = Some(bench.model.path().join("config.json/sub"));
    let error = bench.run(&Watcher::new(NEVER)).unwrap_err();
    assert_eq!(error.class, ExitCode::Checkpoint, "{error}");
    assert!(error.advice().contains("--checkpoint-dir"));
    assert!(bench.names().is_empty(), "{:?}", bench.names());
}
