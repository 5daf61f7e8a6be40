//! The forward pass against a plain one, and against transformers.

mod models;
mod reference;

use std::ops::Range;
use std::path::Path;

use llm_quantize_plugin_api::TensorInfo;

use super::*;
use models::{Shape, random};

/// The final norm's output: tokens × hidden, for samples of `length` tokens.
fn run(
    graph: &Graph,
    source: &SourceModel,
    tokens: &[u32],
    length: usize,
    threads: usize,
) -> Vec<f32> {
    let threads = Threads::new(threads).unwrap();
    let forward = Forward::new(graph, length, &threads);
    let mut batch = Batch::new(length);
    run_batch(&forward, source, tokens, &mut batch);
    batch.residual
}

fn run_batch(forward: &Forward<'_>, source: &SourceModel, tokens: &[u32], batch: &mut Batch) {
    let graph = forward.graph;
    batch.residual.resize(tokens.len() * graph.hidden, 0.0);
    forward.embed(source, tokens, &mut batch.residual).unwrap();
    for block in 0..graph.blocks.len() {
        let weights = BlockWeights::load(graph, block, source, forward.threads).unwrap();
        forward.enter(&weights, batch);
        for (stage, described) in graph.blocks[block].stages.iter().enumerate() {
            assert_eq!(batch.input.len(), tokens.len() * described.inputs());
            forward.advance(&weights, stage, batch);
        }
    }
    let norm = load_norm(source, graph.final_norm).unwrap();
    forward.finish(&norm, &mut batch.residual);
}

#[test]
fn a_batch_can_be_used_again_and_stays_within_its_bytes() {
    let (graph, source) = models::tiny_llama();
    let (threads, tokens) = (Threads::new(2).unwrap(), tokens(6 * 40, &graph));
    let forward = Forward::new(&graph, 40, &threads);
    let mut batch = Batch::new(40);
    for samples in [6, 2, 4, 6] {
        let tokens = &tokens[..samples * 40];
        run_batch(&forward, &source, tokens, &mut batch);
        assert_eq!(batch.residual, run(&graph, &source, tokens, 40, 2));
        assert!(batch.bytes() <= scratch_bytes(&graph, 6 * 40));
    }
}

fn tokens(count: usize, graph: &Graph) -> Vec<u32> {
    let mut seed = 7;
    let token = |_| ((random(&mut seed) + 1.0) * 0.4999 * graph.vocabulary as f32) as u32;
    (0..count).map(token).collect()
}

fn check(shape: &Shape, length: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (graph, source) = shape.write(folder.path());
    let tokens = tokens(3 * length, &graph);
    let found = run(&graph, &source, &tokens, length, 2);
    for (sample, found) in tokens
        .chunks(length)
        .zip(found.chunks(length * graph.hidden))
    {
        let exact = reference::run(&graph, &source, sample);
        for (place, (exact, found)) in exact.iter().flatten().zip(found).enumerate() {
            let error = (f64::from(*found) - exact).abs();
            assert!(
                error < 2e-5,
                "{shape:?} {length} at {place}: {found}, not {exact}"
            );
        }
    }
}

#[test]
fn llamas() {
    for length in [1, 2, 7, 64, 150] {
        check(&Shape::small(), length);
    }
}

#[test]
fn windows() {
    for (window, length) in [(1, 5), (3, 70), (64, 130), (65, 200), (500, 90)] {
        let window = Some(window);
        check(
            &Shape {
                window,
                ..Shape::small()
            },
            length,
        );
    }
}

#[test]
fn biases_norms_of_heads_and_no_positions() {
    let small = Shape::small;
    check(
        &Shape {
            bias: true,
            ..small()
        },
        20,
    );
    check(
        &Shape {
            head_norms: true,
            ..small()
        },
        20,
    );
    check(
        &Shape {
            rotary: false,
            ..small()
        },
        20,
    );
    check(
        &Shape {
            rotary: false,
            head_norms: true,
            bias: true,
            ..small()
        },
        20,
    );
}

#[test]
fn every_head_has_its_own_keys_or_all_share_one() {
    for kv_heads in [1, 6] {
        check(
            &Shape {
                kv_heads,
                ..Shape::small()
            },
            20,
        );
    }
}

#[test]
fn activations() {
    for activation in [Activation::Gelu, Activation::GeluTanh] {
        check(
            &Shape {
                activation,
                ..Shape::small()
            },
            20,
        );
    }
}

#[test]
fn magnitudes_scale_sines_and_cosines() {
    let folder = tempfile::tempdir().unwrap();
    let (mut graph, source) = Shape::small().write(folder.path());
    graph.rotary.magnitude = 1.25;
    let tokens = tokens(20, &graph);
    let found = run(&graph, &source, &tokens, 20, 1);
    let exact = reference::run(&graph, &source, &tokens);
    for (exact, found) in exact.iter().flatten().zip(found) {
        assert!((f64::from(found) - exact).abs() < 2e-5);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (graph, source) = models::tiny_llama();
    let tokens = tokens(3 * 100, &graph);
    let one = run(&graph, &source, &tokens, 100, 1);
    for threads in [2, 5] {
        assert_eq!(run(&graph, &source, &tokens, 100, threads), one);
    }
}

#[test]
fn samples_do_not_see_each_other() {
    let (graph, source) = models::tiny_llama();
    let tokens = tokens(2 * 70, &graph);
    let both = run(&graph, &source, &tokens, 70, 2);
    let second = run(&graph, &source, &tokens[70..], 70, 2);
    for (a, b) in both[70 * graph.hidden..].iter().zip(second) {
        assert!((a - b).abs() < 1e-4 * b.abs().max(1.0));
    }
}

#[test]
fn the_next_token_is_what_transformers_says() {
    let (graph, source) = models::tiny_llama();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/reference.json");
    let text = std::fs::read_to_string(path).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = &document["tiny-llama"];
    let ids = expected["prompt_ids"].as_array().unwrap();
    let tokens: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let last =
        run(&graph, &source, &tokens, tokens.len(), 2).split_off((tokens.len() - 1) * graph.hidden);
    let head = load_vector(&source, graph.head.weight).unwrap();
    let logit = |row: &[f32]| row.iter().zip(&last).map(|(w, x)| w * x).sum::<f32>();
    let logits: Vec<f32> = head.chunks(graph.hidden).map(logit).collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let top: Vec<serde_json::Value> = order[..5].iter().map(|id| (*id).into()).collect();
    assert_eq!(expected["top5_next"], serde_json::Value::from(top));
}

/// A model with ones in the place of one tensor.
struct Ones<'a>(&'a SourceModel, usize);

impl WeightSource for Ones<'_> {
    fn tensor(&self, tensor: usize) -> Option<&TensorInfo> {
        WeightSource::tensor(self.0, tensor)
    }

    fn decode_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        match tensor == self.1 {
            true => out.fill(1.0),
            false => self.0.decode_rows(tensor, rows, out)?,
        }
        Ok(())
    }
}

#[test]
fn weights_may_come_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let (graph, source) = Shape::small().write(folder.path());
    let threads = Threads::new(1).unwrap();
    let stage = &graph.blocks[1].stages[0];
    let [query, key, value] = [0, 1, 2].map(|layer| stage.linears[layer].weight);
    let loaded = StageWeights::load(stage, &Ones(&source, key), &threads).unwrap();
    let [query, value] = [query, value].map(|tensor| load_vector(&source, tensor).unwrap());
    let ones = vec![1.0; stage.linears[1].inputs * stage.linears[1].outputs];
    assert_eq!(loaded.weight, [query, ones, value].concat());
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut graph, source) = Shape::small().write(folder.path());
    let threads = Threads::new(1).unwrap();
    let forward = Forward::new(&graph, 4, &threads);
    let mut out = vec![0.0; 2 * graph.hidden];
    let error = forward.embed(&source, &[1, 31], &mut out).unwrap_err();
    assert!(error.to_string().contains("token 31"), "{error}");
    graph.blocks[0].stages[2].linears[1].outputs += 1;
    let error = BlockWeights::load(&graph, 0, &source, &threads).unwrap_err();
    assert!(error.to_string().contains("mlp.up_proj"), "{error}");
}
