//! The forward pass: runs a [`Graph`] block by block on the CPU, in single precision.
//!
//! Linear layers are products on the `gemm` crate, everything else row kernels of the plugin
//! interface's crate. Work is cut into tasks by shapes alone, so any number of threads gives the
//! same bits.

mod attention;
mod batch;
mod heads;
mod spent;
mod weights;

use llm_quantize_plugin_api::kernels::product::{self, Before};
use llm_quantize_plugin_api::kernels::{Parallel, activation, hand_out, norm, try_hand_out};
use ndarray::{ArrayView2, ArrayViewMut2};

pub use batch::{Batch, scratch_bytes};
pub use spent::Spent;
pub use weights::{BlockWeights, StageWeights, WeightSource, load_norm, load_vector};

use crate::error::{Error, Result};
use crate::graph::{Activation, Graph, Stage, Then};
use crate::job::Threads;
use crate::source::SourceModel;
use attention::Scores;
use heads::Angles;
use spent::{Clock, Work};

/// Rows of a task of the row kernels.
const ROWS: usize = 64;

/// A graph that is ready to be run on sequences of one length.
pub struct Forward<'a> {
    graph: &'a Graph,
    threads: &'a Threads,
    angles: Angles,
    scores: Scores,
    clock: Clock,
}

impl<'a> Forward<'a> {
    /// Prepares for sequences of up to `length` tokens: works out their positions' angles.
    pub fn new(graph: &'a Graph, length: usize, threads: &'a Threads) -> Self {
        Self {
            graph,
            threads,
            angles: Angles::new(&graph.rotary, length),
            scores: Scores::default(),
            clock: Clock::default(),
        }
    }

    /// Rows of the embedding for tokens, scaled: tokens × hidden. Only those rows are decoded.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or a row cannot be decoded.
    ///
    /// # Panics
    /// If `out` has another size.
    pub fn embed(&self, source: &SourceModel, tokens: &[u32], out: &mut [f32]) -> Result<()> {
        let hidden = self.graph.hidden;
        assert_eq!(out.len(), tokens.len() * hidden);
        let work = tokens.chunks(ROWS).zip(out.chunks_mut(ROWS * hidden));
        try_hand_out(self.threads, work.collect(), |_, (tokens, out)| {
            for (&token, out) in tokens.iter().zip(out.chunks_exact_mut(hidden)) {
                if token as usize >= self.graph.vocabulary {
                    return Err(Error::validation(format!(
                        "token {token} is not in the model's vocabulary of {}",
                        self.graph.vocabulary
                    )));
                }
                let row = u64::from(token);
                source.decode_rows(self.graph.embedding, row..row + 1, out)?;
                let scale = self.graph.embedding_scale;
                if scale != 1.0 {
                    out.iter_mut().for_each(|number| *number *= scale);
                }
            }
            Ok(())
        })
    }

    /// Begins a block: the input of its first stage is the norm of the residual stream.
    ///
    /// # Panics
    /// If the batch's residual stream is no whole number of samples.
    pub fn enter(&self, weights: &BlockWeights, batch: &mut Batch) {
        self.norm_input(&weights.norm, batch);
    }

    /// Makes the norm of the residual stream, with this weight, the batch's input.
    ///
    /// # Panics
    /// As [`enter`](Self::enter).
    pub fn norm_input(&self, weight: &[f32], batch: &mut Batch) {
        let tokens = batch.tokens(self.graph.hidden);
        assert!(tokens.is_multiple_of(batch.length), "whole samples");
        self.norm(weight, batch);
    }

    /// Runs a stage: its linear layers on the batch's input, and what follows them. Afterwards
    /// the input is the next stage's, or the block ended and the residual stream is its output.
    ///
    /// # Panics
    /// If the input is not this stage's, the block has no such stage, or samples are longer than
    /// the pass was prepared for.
    pub fn advance(&self, weights: &BlockWeights, stage: usize, batch: &mut Batch) {
        let graph = &self.graph.blocks[weights.block].stages[stage];
        self.advance_stage(graph, &weights.stages[stage], batch);
    }

    /// As [`advance`](Self::advance), with the weights of that stage alone.
    ///
    /// # Panics
    /// As that.
    pub fn advance_stage(&self, graph: &Stage, stage: &StageWeights, batch: &mut Batch) {
        match &graph.then {
            Then::Attention(attention) => {
                self.apply(stage, batch);
                self.clock
                    .time(Work::Rest, || heads::prepare(self, attention, stage, batch));
                self.clock.time(Work::Attention, || {
                    attention::attend(self, attention, stage, batch)
                });
            }
            Then::Gate(activation) => {
                self.apply(stage, batch);
                self.clock
                    .time(Work::Rest, || self.gate(*activation, stage, batch));
            }
            Then::AddAndNorm(_) => {
                self.add(stage, batch);
                self.norm(&stage.norm, batch);
            }
            Then::Add => self.add(stage, batch),
        }
    }

    /// Where the time went that stages took so far.
    #[must_use]
    pub fn spent(&self) -> Spent {
        self.clock.spent()
    }

    /// The norm before the output head, in place, on rows of `hidden`.
    ///
    /// # Panics
    /// If there is no whole number of rows.
    pub fn finish(&self, final_norm: &[f32], residual: &mut [f32]) {
        let rows = residual.chunks_mut(ROWS * self.graph.hidden).collect();
        hand_out(self.threads, rows, |_, rows| {
            norm::rms_norm_in_place(rows, final_norm, self.graph.norm_epsilon);
        });
    }

    /// The stage's layers side by side: tokens × all outputs.
    fn apply(&self, stage: &StageWeights, batch: &mut Batch) {
        let tokens = batch.tokens(self.graph.hidden);
        let (input, outputs) = batch.input_and_outputs(tokens * stage.outputs);
        self.linear(stage, input, Before::Forget, outputs);
    }

    /// Adds the stage's layer to the residual stream.
    fn add(&self, stage: &StageWeights, batch: &mut Batch) {
        self.linear(stage, &batch.input, Before::Add, &mut batch.residual);
    }

    fn linear(&self, stage: &StageWeights, input: &[f32], before: Before, output: &mut [f32]) {
        let tokens = input.len() / stage.inputs;
        let product = || {
            product::linear(
                self.threads,
                matrix(input, tokens, stage.inputs),
                matrix(&stage.weight, stage.outputs, stage.inputs),
                stage.bias.as_deref(),
                before,
                matrix_mut(output, tokens, stage.outputs),
            );
        };
        self.clock.time(Work::Linear, product);
    }

    /// `input` = norm of the rows of the residual stream.
    fn norm(&self, weight: &[f32], batch: &mut Batch) {
        batch.resize_input(batch.residual.len());
        let part = ROWS * self.graph.hidden;
        let work = batch
            .residual
            .chunks(part)
            .zip(batch.input.chunks_mut(part));
        self.clock.time(Work::Rest, || {
            hand_out(self.threads, work.collect(), |_, (residual, input)| {
                norm::rms_norm(residual, weight, self.graph.norm_epsilon, input);
            });
        });
    }

    /// `input` = activation of the first half of each row of outputs, times the second.
    fn gate(&self, activation: Activation, stage: &StageWeights, batch: &mut Batch) {
        let (tokens, width) = (batch.tokens(self.graph.hidden), stage.outputs / 2);
        batch.resize_input(tokens * width);
        let function = match activation {
            Activation::Silu => activation::silu_times,
            Activation::Gelu => activation::gelu_times,
            Activation::GeluTanh => activation::gelu_tanh_times,
        };
        let rows = ROWS * width;
        let (outputs, input) = batch.outputs_and_input(tokens * stage.outputs);
        let work = outputs.chunks(2 * rows).zip(input.chunks_mut(rows));
        hand_out(self.threads, work.collect(), |_, (outputs, input)| {
            for (outputs, input) in outputs.chunks(2 * width).zip(input.chunks_mut(width)) {
                let (gate, up) = outputs.split_at(width);
                function(gate, up, input);
            }
        });
    }
}

impl Parallel for Threads {
    fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.parallel_for(count, task);
    }
}

/// A buffer as a matrix.
fn matrix(numbers: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    match ArrayView2::from_shape((rows, columns), numbers) {
        Ok(matrix) => matrix,
        Err(error) => panic!(
            "{} numbers are no {rows} × {columns}: {error}",
            numbers.len()
        ),
    }
}

/// A buffer as a matrix that can be written to.
fn matrix_mut(numbers: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    let count = numbers.len();
    match ArrayViewMut2::from_shape((rows, columns), numbers) {
        Ok(matrix) => matrix,
        Err(error) => panic!("{count} numbers are no {rows} × {columns}: {error}"),
    }
}

#[cfg(test)]
mod tests;
