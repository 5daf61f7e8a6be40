//! A block run stage by stage: all samples stop at every site, and the layers there may be
//! replaced before any token passes them.
//!
//! So a solver sees what the layers before it, already quantized, really give it, and that costs
//! one forward pass in all ("true sequential" quantization, as in Frantar et al., GPTQ, 2023).

use super::accumulate::Accumulator;
use super::{Activations, SiteStatistics, Wanted};
use crate::error::Result;
use crate::forward::{Batch, BlockWeights, Forward};
use crate::graph::{Graph, Site};
use crate::job::Threads;

/// Someone who looks at the inputs of a stage's layers and may put others in their place.
pub trait Visitor {
    /// What to gather at a site.
    fn wanted(&self, site: Site) -> Wanted;

    /// All tokens entered the site. What is in `weights` when this returns is what they pass.
    ///
    /// # Errors
    /// Whatever ends the run.
    fn visit(
        &mut self,
        site: Site,
        statistics: SiteStatistics,
        weights: &mut BlockWeights,
    ) -> Result<()>;
}

/// What a block is run with.
pub struct Stages<'a> {
    /// The model.
    pub graph: &'a Graph,
    /// Its operations.
    pub forward: &'a Forward<'a>,
    /// Tokens of a sample.
    pub length: usize,
    /// Tokens that go through together; whole samples.
    pub batch_tokens: usize,
    /// Decides which rows a sample of them has.
    pub seed: u64,
    /// The threads.
    pub threads: &'a Threads,
}

impl Stages<'_> {
    /// Runs a block over all activations, which become what leaves it.
    ///
    /// # Errors
    /// The visitor's; activations that are not finite, or cannot be stored.
    pub fn run(
        &self,
        block: usize,
        weights: &mut BlockWeights,
        activations: &mut Activations,
        visitor: &mut dyn Visitor,
    ) -> Result<()> {
        let stages = self.graph.blocks[block].stages.len();
        let mut inputs = self.enter(block, weights, activations, visitor)?;
        for stage in 0..stages {
            inputs = self.advance(block, stage, weights, activations, &inputs, visitor)?;
        }
        Ok(())
    }

    /// Up to the first site.
    fn enter(
        &self,
        block: usize,
        weights: &mut BlockWeights,
        activations: &Activations,
        visitor: &mut dyn Visitor,
    ) -> Result<Activations> {
        let mut site = self.site(block, 0, activations, visitor)?;
        let mut batch = Batch::new(self.length);
        let rows = activations.rows();
        for first in (0..rows).step_by(self.batch_tokens) {
            let count = self.batch_tokens.min(rows - first);
            batch.residual.resize(count * self.graph.hidden, 0.0);
            activations.read(first, &mut batch.residual)?;
            self.forward.enter(weights, &mut batch);
            site.add(first, &batch.input, self.threads)?;
        }
        site.done(weights, visitor)
    }

    /// Through the layers of a stage up to the next site, or out of the block.
    fn advance(
        &self,
        block: usize,
        stage: usize,
        weights: &mut BlockWeights,
        activations: &mut Activations,
        inputs: &Activations,
        visitor: &mut dyn Visitor,
    ) -> Result<Activations> {
        let stages = &self.graph.blocks[block].stages;
        let channels = stages[stage].inputs();
        let mut next = match stage + 1 < stages.len() {
            true => Some(self.site(block, stage + 1, activations, visitor)?),
            false => None,
        };
        let rows = activations.rows();
        let mut batch = Batch::new(self.length);
        for first in (0..rows).step_by(self.batch_tokens) {
            let count = self.batch_tokens.min(rows - first);
            batch.residual.resize(count * self.graph.hidden, 0.0);
            batch.input.resize(count * channels, 0.0);
            activations.read(first, &mut batch.residual)?;
            inputs.read(first, &mut batch.input)?;
            self.forward.advance(weights, stage, &mut batch);
            activations.write(first, &batch.residual)?;
            if let Some(next) = &mut next {
                next.add(first, &batch.input, self.threads)?;
            }
        }
        match next {
            Some(next) => next.done(weights, visitor),
            None => Activations::new(0, 0, None),
        }
    }

    fn site(
        &self,
        block: usize,
        stage: usize,
        activations: &Activations,
        visitor: &dyn Visitor,
    ) -> Result<Stop> {
        let site = Site::Block { block, stage };
        let channels = self.graph.blocks[block].stages[stage].inputs();
        let rows = activations.rows();
        let wanted = visitor.wanted(site);
        Ok(Stop {
            site,
            sums: Accumulator::new(channels, wanted, rows, self.seed),
            inputs: activations.like(channels)?,
        })
    }
}

/// A site at which the samples stop.
struct Stop {
    site: Site,
    sums: Accumulator,
    inputs: Activations,
}

impl Stop {
    fn add(&mut self, first: usize, rows: &[f32], threads: &Threads) -> Result<()> {
        self.sums.add(rows, threads)?;
        self.inputs.write(first, rows)
    }

    fn done(self, weights: &mut BlockWeights, visitor: &mut dyn Visitor) -> Result<Activations> {
        visitor.visit(self.site, self.sums.finish()?, weights)?;
        Ok(self.inputs)
    }
}

#[cfg(test)]
mod tests;
