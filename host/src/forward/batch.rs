//! What goes through a block together.

use crate::graph::Graph;

/// Samples of the same length that go through a block together; rows are tokens, sample after
/// sample. The buffers keep their memory from use to use.
#[derive(Debug, Default)]
pub struct Batch {
    /// Tokens of a sample.
    pub length: usize,
    /// The residual stream: tokens × hidden. Fill it (and set its length) to begin.
    pub residual: Vec<f32>,
    /// What the next stage's layers read: tokens × their inputs.
    pub input: Vec<f32>,
    /// What the last stage's layers wrote, side by side: tokens × all outputs.
    pub(super) outputs: Vec<f32>,
}

impl Batch {
    /// An empty batch of samples of `length` tokens.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self {
            length,
            ..Self::default()
        }
    }

    pub(super) fn tokens(&self, hidden: usize) -> usize {
        self.residual.len() / hidden
    }
}

/// Bytes of all buffers that running a batch of so many tokens takes, whatever the length of its
/// samples: the batch's own (the residual stream included) and what attention needs.
#[must_use]
pub fn scratch_bytes(graph: &Graph, tokens: usize) -> u64 {
    let stages = || graph.blocks.iter().flat_map(|block| &block.stages);
    let inputs = stages().map(super::super::graph::Stage::inputs).max();
    let outputs = stages()
        .map(|stage| stage.linears.iter().map(|linear| linear.outputs).sum())
        .max();
    let width = [Some(graph.hidden), inputs, outputs]
        .iter()
        .map(|width| width.unwrap_or(0) as u64)
        .fold(0, u64::saturating_add);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let scores = (threads * super::attention::QUERIES) as u64;
    (tokens as u64)
        .saturating_mul(width.saturating_add(scores))
        .saturating_mul(size_of::<f32>() as u64)
}
