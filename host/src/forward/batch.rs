//! What goes through a block together.

use crate::graph::Graph;

/// Widths of inputs, other than the present one, for which a batch keeps a buffer.
const WIDTHS: usize = 2;

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
    /// What the last stage's layers wrote, side by side: tokens × all outputs, and what is left
    /// of a wider stage.
    outputs: Vec<f32>,
    /// Former inputs of other widths: a buffer that changes its length is filled with zeros
    /// over and over.
    spare: Vec<Vec<f32>>,
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

    /// Bytes of all buffers.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        let own = [&self.residual, &self.input, &self.outputs];
        let buffers = own.into_iter().chain(&self.spare);
        buffers.map(|buffer| size_of_val(&buffer[..]) as u64).sum()
    }

    /// Gives the input another length; its numbers are anything.
    pub fn resize_input(&mut self, length: usize) {
        if self.input.len() == length {
            return;
        }
        let found = self.spare.iter().position(|spare| spare.len() == length);
        let next = match found {
            Some(found) => self.spare.remove(found),
            None => vec![0.0; length],
        };
        let last = std::mem::replace(&mut self.input, next);
        self.spare.push(last);
        // Those of a batch of another size go first.
        if self.spare.len() > WIDTHS {
            self.spare.remove(0);
        }
    }

    /// The input, and a buffer for so many outputs; its numbers are anything.
    pub(super) fn input_and_outputs(&mut self, count: usize) -> (&[f32], &mut [f32]) {
        if self.outputs.len() < count {
            self.outputs.resize(count, 0.0);
        }
        (&self.input, &mut self.outputs[..count])
    }

    /// So many outputs, and the input that is made of them.
    pub(super) fn outputs_and_input(&mut self, count: usize) -> (&[f32], &mut [f32]) {
        (&self.outputs[..count], &mut self.input)
    }
}

/// Bytes of all buffers that running a batch of so many tokens takes, whatever the length of its
/// samples: the batch's own (the residual stream included) and what attention needs.
#[must_use]
pub fn scratch_bytes(graph: &Graph, tokens: usize) -> u64 {
    let stages = || graph.blocks.iter().flat_map(|block| &block.stages);
    let inputs = stages().map(|stage| stage.inputs() * (1 + WIDTHS)).max();
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
