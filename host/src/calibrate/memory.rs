//! What a calibration run takes of memory.

use std::path::Path;

use super::samples::kept;
use super::schedule::Schedule;
use super::{Calibration, Wants};
use crate::forward::{BlockWeights, StageWeights, scratch_bytes};
use crate::job::Context;

impl Calibration<'_> {
    /// Where activations go if they do not fit into memory beside everything else.
    pub(super) fn spill(&self, context: &Context<'_>, wants: &Wants) -> Option<&Path> {
        let needed = self
            .least_memory(wants)
            .saturating_add(self.activation_bytes(wants));
        (needed > context.max_memory).then_some(&self.scratch)
    }

    /// Memory of a run whose activations lie in a file.
    pub(super) fn least_memory(&self, wants: &Wants) -> u64 {
        // The source's pages are there while its weights are decoded.
        let weights = self.weight_bytes(wants).saturating_mul(2);
        weights
            .saturating_add(scratch_bytes(&self.graph, self.batch_tokens()))
            .saturating_add(wants.most_bytes(&self.graph))
    }

    /// Weights that are decoded at the same time.
    fn weight_bytes(&self, wants: &Wants) -> u64 {
        let graph = &self.graph;
        let blocks = 0..graph.blocks.len();
        let most = match wants.schedule() {
            Schedule::Original | Schedule::Blocks => {
                blocks.map(|block| BlockWeights::bytes(graph, block)).max()
            }
            Schedule::Stages => {
                let passages = blocks.flat_map(|block| {
                    let stages = &graph.blocks[block].stages;
                    let passages = self.passages(wants, block).into_iter();
                    passages.map(|(from, to)| {
                        let bytes = stages[from..to].iter().map(StageWeights::bytes);
                        bytes.fold(0, u64::saturating_add)
                    })
                });
                passages.max()
            }
        };
        most.unwrap_or(0)
    }

    /// The residual stream of all samples, and what is kept before the stages between which they
    /// are.
    fn activation_bytes(&self, wants: &Wants) -> u64 {
        let graph = &self.graph;
        let between = (0..graph.blocks.len()).flat_map(|block| {
            let passages = self.passages(wants, block).into_iter();
            passages.map(move |(from, to)| kept(graph, block, from) + kept(graph, block, to))
        });
        let width = graph.hidden + between.max().unwrap_or(0);
        let tokens = self.windows.tokens.len() as u64;
        tokens.saturating_mul(width as u64 * 4)
    }

    /// The parts that a block is passed in.
    fn passages(&self, wants: &Wants, block: usize) -> Vec<(usize, usize)> {
        let end = self.graph.blocks[block].stages.len();
        let mut stops = wants.stops(block, &self.graph);
        stops.insert(0, 0);
        stops.push(end);
        stops.windows(2).map(|pair| (pair[0], pair[1])).collect()
    }
}
