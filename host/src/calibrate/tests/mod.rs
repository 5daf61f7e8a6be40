//! Plans whose layers see what the quantized layers before them give, run by the job engine.

mod noting;
/// The format, which is a plugin of the end-to-end tests as well.
#[path = "../../../../tests/examples/sequential/mod.rs"]
mod sequential;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use llm_quantize_plugin_api::{
    DecodeCall, Inputs, Job, ModelView, PlanRequest, Quantizer, TensorView, Unit,
};
use tempfile::TempDir;

use super::accumulate::Accumulator;
use super::encoded::Encoded;
use super::*;
use crate::error::ExitCode;
use crate::forward::{Batch, BlockWeights, Forward, WeightSource};
use crate::job::{
    CancelFlag, Checkpoints, Decoder, JobProgress, Outcome, PluginId, Threads, Work, prepare,
};
use noting::{Noting, Seen};
use sequential::{FORMAT, Sequential};

const SAMPLES: usize = 6;
const LENGTH: usize = 32;
const TOKENS: usize = SAMPLES * LENGTH;
/// Sites of a block.
const STAGES: usize = 4;

/// Interrupts a run after so many events, and notes what it is told.
#[derive(Default)]
struct Watcher {
    cancel: CancelFlag,
    stop_after: Option<usize>,
    events: AtomicUsize,
    tokens: AtomicU64,
    begun: Mutex<Work>,
}

impl Watcher {
    fn stopping_after(events: usize) -> Self {
        Self {
            stop_after: Some(events),
            ..Self::default()
        }
    }

    fn event(&self) {
        if Some(self.events.fetch_add(1, Ordering::Relaxed) + 1) == self.stop_after {
            self.cancel.shared().store(true, Ordering::Relaxed);
        }
    }

    fn begun(&self) -> Work {
        *self.begun.lock().unwrap()
    }
}

impl JobProgress for Watcher {
    fn begin(&self, work: Work) {
        *self.begun.lock().unwrap() = work;
    }

    fn bytes(&self, _: u64) {
        self.event();
    }

    fn tokens(&self, done: u64) {
        let all = self.tokens.fetch_add(done, Ordering::Relaxed) + done;
        let work = self.begun();
        assert!(all + work.amount_done <= work.amount, "more than all");
        self.event();
    }

    fn layer(&self, _: usize, _: usize) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
    fn warn(&self, _: &str) {}
}

/// The tiny model, a folder, and how to proceed.
struct Bench {
    out: TempDir,
    level: &'static str,
    threads: usize,
}

impl Bench {
    fn new(level: &'static str) -> Self {
        Self {
            out: tempfile::tempdir().unwrap(),
            level,
            threads: 2,
        }
    }

    fn request(&self, calibration: &Calibration<'_>) -> PlanRequest {
        PlanRequest {
            format: FORMAT.into(),
            level: self.level.into(),
            output_name: Some("out".into()),
            calibration: Some(calibration.text()),
            ..PlanRequest::default()
        }
    }

    /// The finished output.
    fn finished<'a>(&self, source: &'a SourceModel, calibration: &Calibration<'_>) -> Finished<'a> {
        let job = Sequential.plan(source, &self.request(calibration));
        Finished {
            job: job.unwrap(),
            source,
            bytes: self.bytes(),
        }
    }

    /// Runs a job, or as much of it as the watcher allows; what its units saw.
    fn run(&self, watcher: &Watcher) -> (Result<Outcome>, Vec<(String, Vec<f32>)>) {
        let seen = Seen::default();
        let outcome = self.run_noting(watcher, &seen);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        (outcome, seen)
    }

    fn run_noting(&self, watcher: &Watcher, seen: &Seen) -> Result<Outcome> {
        let source = source();
        let calibration = calibration(&source, self.out.path());
        let threads = Threads::new(self.threads)?;
        let context = Context {
            threads: &threads,
            cancel: &watcher.cancel,
            progress: watcher,
            max_memory: 1 << 30,
        };
        let plugin = PluginId {
            id: "sequential".into(),
            version: "1.0.0".into(),
        };
        let quantizer = Noting(Seen::clone(seen));
        let (calibrator, folder) = (Some(&calibration as _), self.out.path());
        let prepared = prepare(
            &plugin,
            &quantizer,
            &source,
            calibrator,
            &self.request(&calibration),
            folder,
            &context,
        )?;
        let ready = prepared.check(true, &Checkpoints::default(), &context)?;
        ready.run(&context, || {})
    }

    /// The bytes of a whole run, and what its units saw.
    fn whole(&self) -> (Vec<u8>, Vec<(String, Vec<f32>)>) {
        let (outcome, seen) = self.run(&Watcher::default());
        outcome.unwrap();
        (self.bytes(), seen)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.out.path().join("out")).unwrap()
    }

    /// The block that a checkpoint's activations enter.
    fn kept(&self) -> Option<usize> {
        let folder = self.out.path().join(".checkpoint/out.calibration");
        let names = fs::read_dir(folder).ok()?.map(|e| e.unwrap().file_name());
        let mut names = names.map(|name| name.into_string().unwrap());
        names.find_map(|name| name.strip_prefix("block-")?.split('.').next()?.parse().ok())
    }
}

fn source() -> SourceModel {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-llama");
    SourceModel::open(folder, &[], ModelView::HuggingFace).unwrap()
}

fn calibration<'a>(source: &'a SourceModel, scratch: &Path) -> Calibration<'a> {
    let text = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/text/calibration.txt"
    );
    let order = Order {
        data: Some(text.into()),
        samples: Some(SAMPLES),
        length: Some(LENGTH),
        ..Order::default()
    };
    Calibration::prepare(source, &order, scratch).unwrap()
}

/// The numbers of a finished output.
struct Finished<'a> {
    job: Box<dyn Job>,
    source: &'a SourceModel,
    bytes: Vec<u8>,
}

impl Decoder for Finished<'_> {
    fn decode(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<bool> {
        let (plan, model) = (self.job.plan(), self.source.model());
        let mut layers = plan.flowing_layers(model).into_iter();
        let Some(layer) = layers.find(|layer| layer.tensor == tensor) else {
            return Ok(false);
        };
        let planned = &plan.units[layer.unit];
        let outputs: Vec<&[u8]> = planned
            .outputs
            .iter()
            .map(|span| &self.bytes[span.offset as usize..][..span.len as usize])
            .collect();
        let norms = planned.vectors(model).into_iter();
        let vectors: Vec<TensorView<'_>> = norms
            .map(|norm| self.source.rows(norm, 0..1).unwrap().unwrap())
            .collect();
        self.job.decode(DecodeCall {
            unit: layer.unit,
            input: layer.input,
            rows,
            vectors: &vectors,
            outputs: &outputs,
            out,
        })?;
        Ok(true)
    }
}

/// What enters each site, by the label of its unit: `before` gives the weights of the blocks
/// before a site's, `within` those of its own.
fn reference(
    calibration: &Calibration<'_>,
    before: &dyn WeightSource,
    within: &dyn WeightSource,
) -> BTreeMap<String, Vec<f32>> {
    let (graph, threads) = (&calibration.graph, Threads::new(2).unwrap());
    let forward = Forward::new(graph, LENGTH, &threads);
    let tokens = &calibration.windows.tokens;
    assert_eq!(tokens.len(), TOKENS);
    let mut residual = vec![0.0; TOKENS * graph.hidden];
    forward
        .embed(calibration.model(), tokens, &mut residual)
        .unwrap();
    let mut grams = BTreeMap::new();
    let mut gather = |name: &str, input: &[f32]| {
        let wanted = Wanted {
            gram: true,
            rows: 0,
        };
        let mut sums = Accumulator::new(input.len() / TOKENS, wanted, TOKENS, 0);
        sums.add(input, &threads).unwrap();
        grams.insert(name.to_owned(), sums.finish().unwrap().gram.unwrap());
    };
    for (block, stages) in graph.blocks.iter().enumerate() {
        let mut batch = Batch::new(LENGTH);
        batch.residual.clone_from(&residual);
        let weights = BlockWeights::load(graph, block, within, &threads).unwrap();
        forward.enter(&weights, &mut batch);
        for (stage, graph) in stages.stages.iter().enumerate() {
            gather(&graph.linears[0].name, &batch.input);
            forward.advance(&weights, stage, &mut batch);
        }
        batch.residual.clone_from(&residual);
        let weights = BlockWeights::load(graph, block, before, &threads).unwrap();
        forward.enter(&weights, &mut batch);
        for stage in 0..stages.stages.len() {
            forward.advance(&weights, stage, &mut batch);
        }
        residual.clone_from(&batch.residual);
    }
    let norm = crate::forward::load_norm(calibration.model(), graph.final_norm).unwrap();
    forward.finish(&norm, &mut residual);
    gather(&graph.head.name, &residual);
    grams
}

/// Runs a job and compares what its units saw with the reference, to the bit.
fn check_flow(bench: &Bench, within_quantized: bool, before_quantized: bool) {
    let seen = bench.whole().1;
    let source = source();
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibration(&source, scratch.path());
    let finished = bench.finished(&source, &calibration);
    let encoded = Encoded {
        model: &source,
        decoder: &finished,
    };
    let weights = |quantized: bool| -> &dyn WeightSource {
        match quantized {
            true => &encoded,
            false => &source,
        }
    };
    let (before, within) = (weights(before_quantized), weights(within_quantized));
    let expected = reference(&calibration, before, within);
    assert_eq!(seen.len(), expected.len());
    for (label, gram) in seen {
        assert!(gram == expected[&label], "{label}");
    }
}

#[test]
fn stages_see_what_the_quantized_layers_before_them_give() {
    check_flow(&Bench::new("STAGES"), true, true);
}

#[test]
fn blocks_see_what_the_quantized_blocks_before_them_give() {
    check_flow(&Bench::new("BLOCKS"), false, true);
}

#[test]
fn the_original_flows_on_where_a_plan_wants_that() {
    check_flow(&Bench::new("ORIGINAL"), false, false);
}

#[test]
fn threads_do_not_change_a_byte() {
    let reference = Bench::new("STAGES").whole().0;
    assert!(reference != Bench::new("BLOCKS").whole().0);
    assert!(reference != Bench::new("ORIGINAL").whole().0);
    let mut bench = Bench::new("STAGES");
    bench.threads = 5;
    assert!(bench.whole().0 == reference);
}

#[test]
fn spilled_activations_are_the_same() {
    let bench = Bench::new("STAGES");
    let seen = bench.whole().1;
    let source = source();
    let scratch = tempfile::tempdir().unwrap();
    let calibration = calibration(&source, scratch.path());
    let finished = bench.finished(&source, &calibration);
    let plan = finished.job.plan();
    let least = calibration.memory_needed(plan);
    let (watcher, threads) = (Watcher::default(), Threads::new(2).unwrap());
    let context = |max_memory| Context {
        threads: &threads,
        cancel: &watcher.cancel,
        progress: &watcher,
        max_memory,
    };
    // What the run needs is there, but no room for the activations.
    let wants = calibration.wants(plan).unwrap();
    let spills = |memory| calibration.spill(&context(memory), &wants).is_some();
    let hidden = calibration.graph.hidden;
    let widest = calibration.graph.blocks[0].stages[3].inputs();
    let all = least + (TOKENS * (hidden + widest) * 4) as u64;
    assert!(spills(least) && spills(all - 1) && !spills(all));

    let wave = |unit: &Unit| calibration.wave(plan, &unit.label).unwrap();
    let waves: Vec<usize> = plan.units.iter().map(wave).collect();
    let context = context(least);
    let mut run = calibration.start(plan, &waves, None, &context).unwrap();
    watcher.begin(run.work().unwrap());
    for ((unit, wave), (label, gram)) in plan.units.iter().zip(waves).zip(&seen) {
        assert_eq!(unit.label, *label);
        run.gather(wave, &finished).unwrap();
        assert!(
            run.view(&unit.statistics[0]).unwrap().data == gram,
            "{label}"
        );
    }
}

#[test]
fn each_token_is_counted_once_in_each_block() {
    for level in ["STAGES", "BLOCKS", "ORIGINAL"] {
        let watcher = Watcher::default();
        Bench::new(level).run(&watcher).0.unwrap();
        let (work, told) = (watcher.begun(), watcher.tokens.into_inner());
        let blocks = calibration_blocks() as u64;
        assert_eq!(work.amount, TOKENS as u64 * blocks);
        assert_eq!(told, work.amount);
    }
}

fn calibration_blocks() -> usize {
    Graph::of(source().model()).unwrap().blocks.len()
}

/// What was measured: the bits of each layer's figures in the plan's order, and of the sum.
fn figures(outcome: &Outcome) -> (Vec<(String, Vec<u64>)>, u64) {
    let layers = outcome.layer_reports.iter().map(|layer| {
        let bits = layer.figures.iter().map(|(_, value)| value.to_bits());
        (layer.name.clone(), bits.collect())
    });
    let sum = outcome.measures["squared_error"].to_bits();
    (layers.collect(), sum)
}

/// Interrupts runs at every so many-th event and goes on; the bytes must be those of a whole run,
/// and no unit is encoded twice.
fn check_interruptions(level: &'static str, step: usize) {
    let bench = Bench::new(level);
    let (outcome, seen) = bench.run(&Watcher::default());
    let (figures, reference) = (figures(&outcome.unwrap()), (bench.bytes(), seen));
    assert_eq!(figures.0.len(), 7 * calibration_blocks() + 1);
    let mut stop = 1;
    loop {
        let bench = Bench::new(level);
        let first = Watcher::stopping_after(stop);
        let (outcome, mut seen) = bench.run(&first);
        if first.events.into_inner() < stop {
            outcome.unwrap();
            break;
        }
        match outcome {
            Err(error) => assert_eq!(error.class, ExitCode::Interrupted, "{error}"),
            // After the last piece there is nothing that looks at the flag.
            Ok(_) => assert_eq!(seen.len(), reference.1.len()),
        }
        if seen.len() < reference.1.len() && !seen.is_empty() {
            let kept = bench.kept();
            let again = Watcher::default();
            let (outcome, rest) = bench.run(&again);
            let outcome = outcome.unwrap();
            assert_eq!(outcome.pieces_resumed, seen.len());
            assert_eq!(self::figures(&outcome), figures);
            // Where the activations are, the run began.
            let begun = (kept.unwrap_or(0) * TOKENS) as u64;
            assert_eq!(again.begun().amount_done, begun);
            // No finished block is run again but the last one, if the run did not get beyond it.
            let finished = (seen.len() - 1) / STAGES..=seen.len() / STAGES;
            assert!(
                finished.contains(&kept.unwrap_or(0)),
                "{} {kept:?}",
                seen.len()
            );
            seen.extend(rest);
            assert!(bench.bytes() == reference.0, "{stop}");
            let labels = |seen: &[(String, Vec<f32>)]| -> Vec<String> {
                let mut labels: Vec<String> = seen.iter().map(|(label, _)| label.clone()).collect();
                labels.sort();
                labels
            };
            assert_eq!(labels(&seen), labels(&reference.1));
        }
        stop += step;
    }
    assert!(stop > reference.1.len());
}

#[test]
fn an_interrupted_run_by_stages_goes_on() {
    // Events are a passage and a unit by turns.
    check_interruptions("STAGES", 5);
}

#[test]
fn an_interrupted_run_by_blocks_goes_on() {
    check_interruptions("BLOCKS", 3);
}
