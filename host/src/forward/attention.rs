//! Causal attention, a block of queries at a time.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use llm_quantize_plugin_api::kernels::hand_out;
use llm_quantize_plugin_api::kernels::product::{Before, Tile, cuts, multiply, tiles};
use llm_quantize_plugin_api::kernels::softmax::softmax_rows;
use ndarray::{ArrayView2, s};

use super::weights::StageWeights;
use super::{Batch, Forward, matrix, matrix_mut};
use crate::graph::Attention;

/// Queries of a task: its scores are as many rows of the keys that they see.
pub(super) const QUERIES: usize = 128;

/// Buffers of scores that no task uses at the moment.
#[derive(Default)]
pub(super) struct Scores(Mutex<Vec<Vec<f32>>>);

impl Scores {
    fn with(&self, count: usize, body: impl FnOnce(&mut [f32])) {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = free().pop().unwrap_or_default();
        if buffer.len() < count {
            buffer.resize(count, 0.0);
        }
        body(&mut buffer[..count]);
        free().push(buffer);
    }
}

/// Fills the batch's input with what each query gathers from the values that it sees; the
/// batch's outputs are queries, keys and values, heads side by side.
pub(super) fn attend(
    forward: &Forward<'_>,
    attention: &Attention,
    stage: &StageWeights,
    batch: &mut Batch,
) {
    let graph = forward.graph;
    let (tokens, length) = (batch.tokens(graph.hidden), batch.length);
    let gathered = graph.heads * graph.head_dim;
    batch.resize_input(tokens * gathered);
    let (outputs, input) = batch.outputs_and_input(tokens * stage.outputs);
    let outputs = matrix(outputs, tokens, stage.outputs);
    let tiles = tiles(
        matrix_mut(input, tokens, gathered),
        &query_blocks(tokens, length),
        &vec![graph.head_dim; graph.heads],
    );
    hand_out(forward.threads, tiles, |_, tile| {
        gather(forward, attention, length, outputs, tile);
    });
}

/// Blocks of queries, none of which has two samples.
fn query_blocks(tokens: usize, length: usize) -> Vec<usize> {
    cuts(length, QUERIES).repeat(tokens / length)
}

/// The attention of one head and one block of queries.
fn gather(
    forward: &Forward<'_>,
    attention: &Attention,
    length: usize,
    outputs: ArrayView2<'_, f32>,
    tile: Tile<'_>,
) {
    let graph = forward.graph;
    let dim = graph.head_dim;
    let head = tile.column / dim;
    let kv_head = head / (graph.heads / graph.kv_heads);
    let queries = tile.row..tile.row + tile.view.nrows();
    let sample = tile.row - tile.row % length;
    let first = seen(attention, sample, queries.start).start;
    let visible = first..queries.end;
    let (q, k) = (head * dim, (graph.heads + kv_head) * dim);
    let v = k + graph.kv_heads * dim;
    let q = outputs.slice(s![queries.clone(), q..q + dim]);
    let k = outputs.slice(s![visible.clone(), k..k + dim]);
    let v = outputs.slice(s![visible.clone(), v..v + dim]);
    let scale = 1.0 / (dim as f32).sqrt();
    forward
        .scores
        .with(queries.len() * visible.len(), |scores| {
            let size = (queries.len(), visible.len());
            let product = matrix_mut(scores, size.0, size.1);
            multiply(q, k.reversed_axes(), scale, Before::Forget, product);
            softmax_rows(scores, size.1, |row| {
                let seen = seen(attention, sample, queries.start + row);
                seen.start - first..seen.end - first
            });
            multiply(
                matrix(scores, size.0, size.1),
                v,
                1.0,
                Before::Forget,
                tile.view,
            );
        });
}

/// The tokens that a token sees.
fn seen(attention: &Attention, sample: usize, token: usize) -> Range<usize> {
    let first = match attention.window {
        Some(window) => (token + 1).saturating_sub(window).max(sample),
        None => sample,
    };
    first..token + 1
}
