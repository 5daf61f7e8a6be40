//! All samples on their way through the model.
//!
//! They stand before a stage, and go on to a later one of the same block, or out of it, a batch
//! at a time. What the next stage reads is worked out again where it is a norm of the residual
//! stream, and kept where it is not.

use std::collections::BTreeMap;
use std::path::Path;

use super::accumulate::Accumulator;
use super::{Activations, Calibration};
use crate::error::Result;
use crate::forward::{Batch, Forward, StageWeights, WeightSource, load_norm};
use crate::graph::{Block, Graph, Norm, Site, Stage, Then};
use crate::job::Context;

/// What is summed up, by site.
pub type Sums = BTreeMap<Site, Accumulator>;

/// The samples.
pub struct Samples<'a> {
    calibration: &'a Calibration<'a>,
    context: &'a Context<'a>,
    forward: Forward<'a>,
    /// The residual stream before [`stage`](Self::stage).
    residual: Activations,
    /// What that stage reads, if it is no norm of the residual stream.
    inputs: Option<Activations>,
    /// Room that such inputs had before: new memory costs time.
    spare: Option<Activations>,
    /// What goes through the stages together, for the same reason.
    batch: Batch,
    /// The block in which they are, or the number of blocks.
    block: usize,
    stage: usize,
    /// Tokens of this block that progress was told of.
    told: u64,
}

/// A part of a block that the samples go through.
struct Passage<'g> {
    graph: &'g Block,
    from: usize,
    to: usize,
    weights: Vec<StageWeights>,
    /// Weight of the norm that the first stage reads, if it reads one.
    norm: Option<Vec<f32>>,
}

impl<'a> Samples<'a> {
    /// Room for the samples, or for none if they are not `needed`.
    ///
    /// # Errors
    /// If there is not enough of it.
    pub fn new(
        calibration: &'a Calibration<'a>,
        needed: bool,
        spill: Option<&Path>,
        context: &'a Context<'a>,
    ) -> Result<Self> {
        let (graph, windows) = (&calibration.graph, &calibration.windows);
        let rows = if needed { windows.tokens.len() } else { 0 };
        Ok(Self {
            forward: Forward::new(graph, windows.length, context.threads),
            calibration,
            context,
            residual: Activations::new(rows, graph.hidden, calibration.batch_tokens(), spill)?,
            inputs: None,
            spare: None,
            batch: Batch::new(windows.length),
            block: 0,
            stage: 0,
            told: 0,
        })
    }

    /// The block in which they are; after the last one the number of blocks.
    pub fn block(&self) -> usize {
        self.block
    }

    /// The stage before which they are.
    pub fn stage(&self) -> usize {
        self.stage
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.residual.rows()
    }

    /// What enters the block, while they are before its first stage.
    pub fn entering(&self) -> &Activations {
        &self.residual
    }

    /// Puts them before a block; `fill` fills in what enters it and says which it is. If it does
    /// not know, they begin with the embeddings.
    ///
    /// # Errors
    /// If an embedding cannot be decoded or stored.
    pub fn begin(&mut self, fill: impl FnOnce(&mut Activations) -> Option<usize>) -> Result<()> {
        match fill(&mut self.residual) {
            Some(block) => self.block = block,
            None => self.embed()?,
        }
        Ok(())
    }

    fn embed(&mut self) -> Result<()> {
        let calibration = self.calibration;
        let (hidden, step) = (calibration.graph.hidden, calibration.batch_tokens());
        let mut rows = Vec::new();
        for (index, tokens) in calibration.windows.tokens.chunks(step).enumerate() {
            rows.resize(tokens.len() * hidden, 0.0);
            self.forward.embed(calibration.model(), tokens, &mut rows)?;
            self.residual.write(index * step, &rows)?;
        }
        Ok(())
    }

    /// They go on to the stage `to` of this block, or out of it if it has none of that number.
    /// What enters the stages that are in `sums` is added there, `to` included.
    ///
    /// # Errors
    /// If the weights cannot be decoded or the activations stored, or the user interrupts.
    pub fn go(&mut self, to: usize, weights: &dyn WeightSource, sums: &mut Sums) -> Result<()> {
        let passage = self.passage(to, weights)?;
        let stages = &passage.graph.stages;
        let leaves = to >= stages.len();
        let mut next = match leaves || reads_norm(passage.graph, to) {
            true => None,
            false => Some(self.room(stages[to].inputs())?),
        };
        let change = stages[passage.from..passage.to].iter().any(adds);
        self.pass(&passage, sums, Self::take, |residual, first, batch| {
            residual.put(first, &mut batch.residual, change)?;
            match &mut next {
                Some(next) => next.put(first, &mut batch.input, true),
                None => Ok(()),
            }
        })?;
        let left = std::mem::replace(&mut self.inputs, next);
        self.spare = left.or(self.spare.take());
        match leaves {
            true => (self.block, self.stage, self.told) = (self.block + 1, 0, 0),
            false => self.stage = to,
        }
        Ok(())
    }

    /// Room for a number of so many columns for each token.
    fn room(&mut self, cols: usize) -> Result<Activations> {
        match self.spare.take() {
            Some(spare) => spare.reshaped(cols),
            None => self.residual.like(cols),
        }
    }

    /// As [`go`](Self::go), but they come back.
    ///
    /// # Errors
    /// As that.
    pub fn look(&mut self, to: usize, weights: &dyn WeightSource, sums: &mut Sums) -> Result<()> {
        let passage = self.passage(to, weights)?;
        self.pass(&passage, sums, Self::read, |_, _, _| Ok(()))
    }

    /// Adds what enters the output head, after the last block.
    ///
    /// # Errors
    /// As [`go`](Self::go).
    pub fn head(&mut self, sums: &mut Accumulator) -> Result<()> {
        let graph = &self.calibration.graph;
        let norm = load_norm(self.calibration.model(), graph.final_norm)?;
        let step = self.calibration.batch_tokens();
        let mut rows = Vec::new();
        for first in (0..self.tokens()).step_by(step) {
            self.context.cancel.check()?;
            let count = step.min(self.tokens() - first);
            rows.resize(count * graph.hidden, 0.0);
            self.residual.read(first, &mut rows)?;
            self.forward.finish(&norm, &mut rows);
            sums.add(&rows, self.context.threads)?;
        }
        Ok(())
    }

    fn passage(&self, to: usize, weights: &dyn WeightSource) -> Result<Passage<'a>> {
        let graph = &self.calibration.graph.blocks[self.block];
        let (from, to) = (self.stage, to.min(graph.stages.len()));
        let norm = match norm_before(graph, from) {
            Some(norm) => Some(load_norm(self.calibration.model(), norm)?),
            None => None,
        };
        let stages = graph.stages[from..to].iter();
        let loaded = stages
            .map(|stage| StageWeights::load(stage, weights, self.context.threads))
            .collect::<Result<_>>()?;
        self.calibration.model().release();
        Ok(Passage {
            graph,
            from,
            to,
            weights: loaded,
            norm,
        })
    }

    /// Takes all samples through a passage, a batch at a time: `fetch` gets some tokens as they
    /// stand here, `keep` gets each batch at its end.
    fn pass(
        &mut self,
        passage: &Passage<'_>,
        sums: &mut Sums,
        fetch: impl Fn(&mut Self, usize, &mut Batch, usize) -> Result<()>,
        mut keep: impl FnMut(&mut Activations, usize, &mut Batch) -> Result<()>,
    ) -> Result<()> {
        let threads = self.context.threads;
        let step = self.calibration.batch_tokens();
        let block = self.block;
        let mut batch = std::mem::take(&mut self.batch);
        let mut add = |stage, batch: &Batch| match sums.get_mut(&Site::Block { block, stage }) {
            Some(sums) => sums.add(&batch.input, threads),
            None => Ok(()),
        };
        for first in (0..self.tokens()).step_by(step) {
            self.context.cancel.check()?;
            let count = step.min(self.tokens() - first);
            batch
                .residual
                .resize(count * self.calibration.graph.hidden, 0.0);
            let inputs = passage.graph.stages.get(passage.from).map(Stage::inputs);
            fetch(self, first, &mut batch, count * inputs.unwrap_or(0))?;
            if let Some(norm) = &passage.norm {
                self.forward.norm_input(norm, &mut batch);
            }
            for (stage, weights) in (passage.from..).zip(&passage.weights) {
                add(stage, &batch)?;
                let graph = &passage.graph.stages[stage];
                self.forward.advance_stage(graph, weights, &mut batch);
            }
            if passage.to < passage.graph.stages.len() {
                add(passage.to, &batch)?;
            }
            keep(&mut self.residual, first, &mut batch)?;
            self.tell(passage, first + count);
        }
        self.batch = batch;
        Ok(())
    }

    /// Some tokens as they stand here, with so many inputs if those are kept. They are not here
    /// any more then.
    fn take(&mut self, first: usize, batch: &mut Batch, inputs: usize) -> Result<()> {
        self.residual.take(first, &mut batch.residual)?;
        match &mut self.inputs {
            Some(kept) => {
                batch.resize_input(inputs);
                kept.take(first, &mut batch.input)
            }
            None => Ok(()),
        }
    }

    /// As [`take`](Self::take), but they stay.
    fn read(&mut self, first: usize, batch: &mut Batch, inputs: usize) -> Result<()> {
        self.residual.read(first, &mut batch.residual)?;
        match &self.inputs {
            Some(kept) => {
                batch.resize_input(inputs);
                kept.read(first, &mut batch.input)
            }
            None => Ok(()),
        }
    }

    /// Tells progress how far the block is, if that is further than before.
    fn tell(&mut self, passage: &Passage<'_>, tokens: usize) {
        let graph = passage.graph;
        let before = share(graph, 0..passage.from, self.tokens());
        let now = match passage.to == graph.stages.len() && tokens == self.tokens() {
            true => tokens as u64,
            false => before + share(graph, passage.from..passage.to, tokens),
        };
        if let Some(more) = now.checked_sub(self.told) {
            self.context.progress.tokens(more);
            self.told = now;
        }
    }
}

/// What going through some of a block's stages with some tokens is in tokens that go through the
/// whole: by the sizes of the stages' weights.
pub fn share(block: &Block, stages: std::ops::Range<usize>, tokens: usize) -> u64 {
    let bytes = |stages: &[Stage]| stages.iter().map(StageWeights::bytes).sum::<u64>();
    let (part, all) = (bytes(&block.stages[stages]), bytes(&block.stages));
    (tokens as u128 * u128::from(part) / u128::from(all.max(1))) as u64
}

/// Numbers that are kept for each token before a stage, besides the residual stream.
pub fn kept(graph: &Graph, block: usize, stage: usize) -> usize {
    let block = &graph.blocks[block];
    match block.stages.get(stage) {
        Some(stage_graph) if !reads_norm(block, stage) => stage_graph.inputs(),
        _ => 0,
    }
}

/// Whether a stage reads a norm of the residual stream.
fn reads_norm(block: &Block, stage: usize) -> bool {
    norm_before(block, stage).is_some()
}

/// The norm that a stage reads, if it reads one.
fn norm_before(block: &Block, stage: usize) -> Option<Norm> {
    let Some(before) = stage.checked_sub(1) else {
        return Some(block.norm);
    };
    match block.stages.get(before)?.then {
        Then::AddAndNorm(norm) => Some(norm),
        Then::Attention(_) | Then::Gate(_) | Then::Add => None,
    }
}

/// Whether a stage adds to the residual stream.
fn adds(stage: &Stage) -> bool {
    matches!(stage.then, Then::AddAndNorm(_) | Then::Add)
}
