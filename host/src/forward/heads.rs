//! What is done to queries and keys before they meet: norms of heads, and rotary positions.

use llm_quantize_plugin_api::kernels::hand_out;
use llm_quantize_plugin_api::kernels::rotary::{HeadPass, pass_heads};

use super::weights::StageWeights;
use super::{Batch, Forward, ROWS};
use crate::graph::{Attention, Rotary};

/// Cosines and sines of the angles of all positions: positions × pairs.
pub(super) struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl Angles {
    pub(super) fn new(rotary: &Rotary, length: usize) -> Self {
        let pairs = rotary.frequencies.len();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..length {
            for frequency in &rotary.frequencies {
                // The product is rounded to single precision, as the models were trained; its
                // functions are worked out in double.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32 * rotary.magnitude);
                sin.push(angle.sin() as f32 * rotary.magnitude);
            }
        }
        Self { cos, sin, pairs }
    }

    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.pairs..(position + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Norms and turns all heads of queries and keys among the batch's outputs.
pub(super) fn prepare(
    forward: &Forward<'_>,
    attention: &Attention,
    stage: &StageWeights,
    batch: &mut Batch,
) {
    if !attention.rotary && attention.q_norm.is_none() && attention.k_norm.is_none() {
        return;
    }
    let graph = forward.graph;
    let (queries, keys) = (
        graph.heads * graph.head_dim,
        graph.kv_heads * graph.head_dim,
    );
    let length = batch.length;
    let pass = |norm, token| HeadPass {
        norm: Option::map(norm, |weight| (weight, graph.norm_epsilon)),
        turn: attention.rotary.then(|| forward.angles.at(token % length)),
    };
    let tokens = batch.tokens(graph.hidden);
    let (_, outputs) = batch.input_and_outputs(tokens * stage.outputs);
    let rows = outputs.chunks_mut(ROWS * stage.outputs).collect();
    hand_out(forward.threads, rows, |index, rows: &mut [f32]| {
        for (row, outputs) in rows.chunks_exact_mut(stage.outputs).enumerate() {
            let token = index * ROWS + row;
            let (query, rest) = outputs.split_at_mut(queries);
            pass_heads(query, graph.head_dim, pass(stage.q_norm.as_deref(), token));
            let key = &mut rest[..keys];
            pass_heads(key, graph.head_dim, pass(stage.k_norm.as_deref(), token));
        }
    });
}
