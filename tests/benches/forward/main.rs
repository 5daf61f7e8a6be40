//! The forward pass of a Llama and the Gram matrices of its layers' inputs; prints a line of JSON.
//!
//! ```sh
//! LLM_QUANTIZE_BENCH_MODEL=…/SmolLM2-135M cargo bench -p llm-quantize-tests --bench forward
//! ```
//!
//! | variable | | default |
//! | --- | --- | --- |
//! | `LLM_QUANTIZE_BENCH_MODEL` | a Hugging Face folder | the tests' tiny one |
//! | `LLM_QUANTIZE_BENCH_THREADS` | | 2 |
//! | `LLM_QUANTIZE_BENCH_LENGTH` | tokens of a sample | 512 |
//! | `LLM_QUANTIZE_BENCH_SAMPLES` | of a batch | 4 |
//! | `LLM_QUANTIZE_BENCH_RUNS` | of which the median counts | 3 |
//!
//! `tests/peers/bench_forward.py` runs it in turns with torch. Weights are decoded beforehand.
//! The peak is that of the `gemm` crate on large matrices, one for each thread.

#![allow(clippy::print_stdout, clippy::expect_used)]

use std::time::Instant;

use llm_quantize::forward::{Batch, BlockWeights, Forward, Spent, load_norm, load_vector};
use llm_quantize::graph::Graph;
use llm_quantize::job::Threads;
use llm_quantize::source::SourceModel;
use llm_quantize_plugin_api::kernels::gram::add_gram;
use llm_quantize_plugin_api::kernels::product::{Before, linear, multiply};
use llm_quantize_plugin_api::{Inputs as _, ModelView};
use ndarray::{Array2, ArrayView2};
use serde_json::json;

fn main() {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tiny-llama");
    let model = std::env::var("LLM_QUANTIZE_BENCH_MODEL").unwrap_or_else(|_| tiny.into());
    let source = SourceModel::open(&model, &[], ModelView::HuggingFace).expect("a model");
    let graph = Graph::of(source.model()).expect("a graph");
    let threads = Threads::new(number("THREADS", 2)).expect("threads");
    let bench = Bench::new(&graph, &source, &threads);
    let runs: Vec<Figures> = (0..number("RUNS", 3)).map(|_| bench.run()).collect();
    let peak = peak(&threads);
    println!("{}", bench.report(&runs, peak));
}

fn number(name: &str, default: usize) -> usize {
    let value = std::env::var(format!("LLM_QUANTIZE_BENCH_{name}"));
    value.map_or(default, |value| value.parse().expect("a number"))
}

struct Bench<'a> {
    graph: &'a Graph,
    source: &'a SourceModel,
    threads: &'a Threads,
    blocks: Vec<BlockWeights>,
    norm: Vec<f32>,
    head: Vec<f32>,
    tokens: Vec<u32>,
    length: usize,
}

/// Seconds of one run.
struct Figures {
    forward: f64,
    head: f64,
    gram: f64,
    spent: Spent,
}

impl<'a> Bench<'a> {
    fn new(graph: &'a Graph, source: &'a SourceModel, threads: &'a Threads) -> Self {
        let length = number("LENGTH", 512);
        let count = length * number("SAMPLES", 4);
        let load = |block| BlockWeights::load(graph, block, source, threads).expect("weights");
        Self {
            graph,
            source,
            threads,
            blocks: (0..graph.blocks.len()).map(load).collect(),
            norm: load_norm(source, graph.final_norm).expect("a norm"),
            head: load_vector(source, graph.head.weight).expect("a head"),
            tokens: (0..count)
                .map(|i| (i * 7919 % graph.vocabulary) as u32)
                .collect(),
            length,
        }
    }

    fn run(&self) -> Figures {
        let forward = Forward::new(self.graph, self.length, self.threads);
        let mut batch = Batch::new(self.length);
        let (mut gram, start) = (0.0, Instant::now());
        batch
            .residual
            .resize(self.tokens.len() * self.graph.hidden, 0.0);
        let embedded = forward.embed(self.source, &self.tokens, &mut batch.residual);
        embedded.expect("tokens");
        for (block, weights) in self.graph.blocks.iter().zip(&self.blocks) {
            forward.enter(weights, &mut batch);
            for stage in 0..block.stages.len() {
                gram += self.gram(&batch, block.stages[stage].inputs());
                forward.advance(weights, stage, &mut batch);
            }
        }
        let seconds = start.elapsed().as_secs_f64() - gram;
        let start = Instant::now();
        forward.finish(&self.norm, &mut batch.residual);
        self.logits(&batch.residual);
        Figures {
            forward: seconds,
            head: start.elapsed().as_secs_f64(),
            gram,
            spent: forward.spent(),
        }
    }

    /// Seconds that the Gram matrix of a stage's input takes; its memory is there before.
    fn gram(&self, batch: &Batch, inputs: usize) -> f64 {
        let x = ArrayView2::from_shape((self.tokens.len(), inputs), &batch.input[..]);
        let mut gram = Array2::zeros((inputs, inputs));
        gram.fill(1.0);
        let start = Instant::now();
        add_gram(self.threads, x.expect("an input"), gram.view_mut());
        start.elapsed().as_secs_f64()
    }

    fn logits(&self, residual: &[f32]) {
        let (hidden, vocabulary) = (self.graph.hidden, self.graph.vocabulary);
        let x = ArrayView2::from_shape((self.tokens.len(), hidden), residual).expect("rows");
        let head = ArrayView2::from_shape((vocabulary, hidden), &self.head[..]).expect("a head");
        let mut logits = Array2::zeros((self.tokens.len(), vocabulary));
        linear(
            self.threads,
            x,
            head,
            None,
            Before::Forget,
            logits.view_mut(),
        );
    }

    fn report(&self, runs: &[Figures], peak: f64) -> serde_json::Value {
        let middle = |of: &dyn Fn(&Figures) -> f64| median(runs.iter().map(of).collect());
        let blocks = self.graph.blocks.iter();
        let linears = blocks
            .flat_map(|block| &block.stages)
            .flat_map(|stage| &stage.linears);
        let weights: usize = linears.map(|linear| linear.inputs * linear.outputs).sum();
        let linear = middle(&|figures| figures.spent.linear.as_secs_f64());
        let speed = 2e-9 * (weights * self.tokens.len()) as f64 / linear;
        json!({
            "tokens": self.tokens.len(),
            "forward_s": middle(&|figures| figures.forward),
            "linear_s": linear,
            "attention_s": middle(&|figures| figures.spent.attention.as_secs_f64()),
            "rest_s": middle(&|figures| figures.spent.rest.as_secs_f64()),
            "head_s": middle(&|figures| figures.head),
            "gram_s": middle(&|figures| figures.gram),
            "linear_gflops": speed,
            "gemm_peak_gflops": peak,
            "linear_percent_of_peak": 100.0 * speed / peak,
        })
    }
}

/// GFLOP/s of large products, one for each thread, in the best of some runs.
fn peak(threads: &Threads) -> f64 {
    const SIZE: usize = 1024;
    let a = Array2::from_shape_fn((SIZE, SIZE), |(r, c)| (r + c) as f32 * 1e-3);
    let run = |_| {
        let start = Instant::now();
        threads.parallel_for(threads.count(), &|_| {
            let mut c = Array2::zeros((SIZE, SIZE));
            for _ in 0..4 {
                multiply(a.view(), a.t(), 1.0, Before::Forget, c.view_mut());
            }
        });
        let products = (4 * threads.count()) as f64;
        2e-9 * products * (SIZE as f64).powi(3) / start.elapsed().as_secs_f64()
    };
    (0..8).map(run).fold(0.0, f64::max)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
