//! The blocks of a model, one after the other over all windows.

use super::{Run, Subject, of};
use crate::error::{Error, Result};
use crate::forward::{Batch, BlockWeights, Forward, load_norm};

/// What the output head of a model reads: for each batch of windows tokens × hidden.
pub(super) type States = Vec<Vec<f32>>;

impl Run<'_> {
    /// The normed hidden states of all windows.
    pub(super) fn states(&self, model: &Subject, layers_done: &mut usize) -> Result<States> {
        let result = self.run_model(model, layers_done);
        // What was mapped of the weights is not needed again, but for the head.
        model.source.release();
        result.map_err(|error| of(&model.name, error))
    }

    fn run_model(&self, model: &Subject, layers_done: &mut usize) -> Result<States> {
        let (graph, source) = (&model.graph, &model.source);
        let threads = self.context.threads;
        let forward = Forward::new(graph, self.windows.length, threads);
        let mut states: States = Vec::new();
        for tokens in self.batches() {
            self.context.cancel.check()?;
            let mut residual = vec![0.0; tokens.len() * graph.hidden];
            forward.embed(source, tokens, &mut residual)?;
            states.push(residual);
        }
        let mut batch = Batch::new(self.windows.length);
        for block in 0..graph.blocks.len() {
            let weights = BlockWeights::load(graph, block, source, threads)?;
            for residual in &mut states {
                self.context.cancel.check()?;
                std::mem::swap(&mut batch.residual, residual);
                forward.enter(&weights, &mut batch);
                for stage in 0..graph.blocks[block].stages.len() {
                    forward.advance(&weights, stage, &mut batch);
                }
                std::mem::swap(&mut batch.residual, residual);
                check_finite(residual, block)?;
                let tokens = (residual.len() / graph.hidden) as u64;
                self.context.progress.tokens(tokens);
            }
            source.release();
            *layers_done += 1;
            self.context.progress.layer(*layers_done, self.layers);
        }
        let norm = load_norm(source, graph.final_norm)?;
        for residual in &mut states {
            forward.finish(&norm, residual);
        }
        Ok(states)
    }
}

fn check_finite(numbers: &[f32], block: usize) -> Result<()> {
    // A sum of zeros, unless one of the numbers is infinite or none.
    let sum: f32 = numbers.iter().map(|number| number * 0.0).sum();
    if sum == 0.0 {
        return Ok(());
    }
    Err(Error::validation(format!(
        "block {block} computes numbers that are infinite or not numbers at all"
    ))
    .suggest("the model's weights are damaged, or were quantized from damaged ones"))
}
