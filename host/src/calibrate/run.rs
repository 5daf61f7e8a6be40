//! A calibration run: the model, block by block, over all samples.

use std::collections::BTreeMap;

use llm_quantize_plugin_api::{StatisticRequest, StatisticView};

use super::accumulate::Accumulator;
use super::cache::{Cache, WaveStatistics, covers};
use super::checkpoint::Checkpoint;
use super::{Activations, Calibration, Wants};
use crate::error::{Error, ExitCode, Result};
use crate::forward::{Batch, BlockWeights, Forward, load_vector};
use crate::graph::Site;
use crate::job::{Context, Statistics, Work, WorkUnit};

/// A run at work.
pub struct Run<'a> {
    calibration: &'a Calibration<'a>,
    context: &'a Context<'a>,
    forward: Forward<'a>,
    wants: Wants,
    waves: Vec<usize>,
    /// What enters block [`position`](Self::position).
    activations: Activations,
    position: usize,
    checkpoint: Option<Checkpoint>,
    cache: Option<Cache>,
    gathered: WaveStatistics,
}

impl<'a> Run<'a> {
    /// Begins a run for some waves, where an earlier one has left off if it can.
    pub(super) fn start(
        calibration: &'a Calibration<'a>,
        wants: Wants,
        waves: &[usize],
        checkpoint: Option<Checkpoint>,
        context: &'a Context<'a>,
    ) -> Result<Self> {
        let graph = &calibration.graph;
        let cache = calibration.open_cache()?;
        let known = |wave: &usize| {
            let wanted = wants.of_wave(*wave, graph);
            let cache = cache.as_ref();
            cache.is_some_and(|cache| cache.has(*wave, &wanted, graph))
        };
        let to_run: Vec<usize> = waves.iter().copied().filter(|wave| !known(wave)).collect();
        let tokens = calibration.windows.tokens.len();
        let rows = if to_run.is_empty() { 0 } else { tokens };
        let spill = calibration.spill(context, &wants);
        let activations = Activations::new(rows, graph.hidden, spill)?;
        let mut run = Self {
            forward: Forward::new(graph, calibration.windows.length, context.threads),
            calibration,
            context,
            wants,
            waves: to_run,
            activations,
            position: 0,
            checkpoint,
            cache,
            gathered: WaveStatistics::new(),
        };
        run.find_position()?;
        Ok(run)
    }

    /// Takes over what an earlier run kept, or begins with the embeddings.
    fn find_position(&mut self) -> Result<()> {
        let Some(first) = self.waves.first() else {
            return Ok(());
        };
        let hidden = self.calibration.graph.hidden;
        let kept = self.checkpoint.as_ref();
        let kept = kept.and_then(|kept| kept.load(*first, &mut self.activations, hidden));
        match kept {
            Some(block) => self.position = block,
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
            self.activations.write(index * step, &rows)?;
        }
        Ok(())
    }

    /// Runs the blocks before a wave of which nothing is to be gathered.
    fn catch_up(&mut self, wave: usize) -> Result<()> {
        while self.position < wave {
            self.block(&mut BTreeMap::new())?;
        }
        Ok(())
    }

    /// Runs the block at the position over all samples and adds what enters its stages.
    fn block(&mut self, sums: &mut BTreeMap<Site, Accumulator>) -> Result<()> {
        let calibration = self.calibration;
        let (graph, block) = (&calibration.graph, self.position);
        let weights = BlockWeights::load(graph, block, calibration.model(), self.context.threads)?;
        calibration.model().release();
        let stages = graph.blocks[block].stages.len();
        let step = calibration.batch_tokens();
        let mut batch = Batch::new(calibration.windows.length);
        for first in (0..self.activations.rows()).step_by(step) {
            self.context.cancel.check()?;
            let count = step.min(self.activations.rows() - first);
            batch.residual.resize(count * graph.hidden, 0.0);
            self.activations.read(first, &mut batch.residual)?;
            self.forward.enter(&weights, &mut batch);
            for stage in 0..stages {
                if let Some(sums) = sums.get_mut(&Site::Block { block, stage }) {
                    sums.add(&batch.input, self.context.threads)?;
                }
                self.forward.advance(&weights, stage, &mut batch);
            }
            self.activations.write(first, &batch.residual)?;
            self.context.progress.tokens(count as u64);
        }
        self.position += 1;
        Ok(())
    }

    /// Adds what enters the output head.
    fn head(&mut self, sums: &mut Accumulator) -> Result<()> {
        let calibration = self.calibration;
        let graph = &calibration.graph;
        let norm = load_vector(calibration.model(), graph.final_norm)?;
        let step = calibration.batch_tokens();
        let mut rows = Vec::new();
        for first in (0..self.activations.rows()).step_by(step) {
            self.context.cancel.check()?;
            let count = step.min(self.activations.rows() - first);
            rows.resize(count * graph.hidden, 0.0);
            self.activations.read(first, &mut rows)?;
            self.forward.finish(&norm, &mut rows);
            sums.add(&rows, self.context.threads)?;
        }
        Ok(())
    }

    /// What the cache has for a wave.
    fn recall(&self, wave: usize) -> Result<WaveStatistics> {
        let graph = &self.calibration.graph;
        let wanted = self.wants.of_wave(wave, graph);
        let sites: Vec<Site> = wanted.keys().copied().collect();
        let cache = self.cache.as_ref();
        let known = cache.map(|cache| cache.load(wave, &sites, graph));
        let known = known.filter(|known| covers(known, &wanted));
        known.ok_or_else(|| {
            Error::validation(format!(
                "the calibration cache is damaged: block {wave} has not the numbers that were \
                 written"
            ))
            .suggest("remove this model's folder in the cache; it is made again")
        })
    }

    /// Names the block in which the activations are no numbers any more.
    fn explain(&self, wave: usize, error: Error) -> Error {
        match error.class {
            ExitCode::Validation => {
                let message = format!("block {wave}: {}", error.message);
                Error { message, ..error }
            }
            _ => error,
        }
    }

    fn run_wave(&mut self, wave: usize) -> Result<WaveStatistics> {
        let graph = &self.calibration.graph;
        let tokens = self.activations.rows();
        let mut sums: BTreeMap<Site, Accumulator> = BTreeMap::new();
        for (site, wanted) in self.wants.of_wave(wave, graph) {
            let seed = self.calibration.seed_of(site);
            let sum = Accumulator::new(site.channels(graph), wanted, tokens, seed);
            sums.insert(site, sum);
        }
        match sums.get_mut(&Site::Head) {
            Some(sums) => self.head(sums)?,
            None => self.block(&mut sums)?,
        }
        let finish = |(site, sums): (Site, Accumulator)| Ok((site, sums.finish()?));
        sums.into_iter().map(finish).collect()
    }
}

impl Statistics for Run<'_> {
    fn work(&self) -> Option<Work> {
        let blocks = self.calibration.graph.blocks.len();
        // The head comes after the last block, and takes next to nothing.
        let last = self.waves.last()?;
        let tokens = self.activations.rows() as u64;
        Some(Work {
            unit: WorkUnit::Tokens,
            amount: tokens * (last + 1).min(blocks) as u64,
            amount_done: tokens * self.position as u64,
            ..Work::default()
        })
    }

    fn gather(&mut self, wave: usize) -> Result<()> {
        let graph = &self.calibration.graph;
        self.gathered = WaveStatistics::new();
        if !self.waves.contains(&wave) {
            self.gathered = self.recall(wave)?;
            return Ok(());
        }
        self.catch_up(wave)?;
        let gathered = self.run_wave(wave);
        self.gathered = gathered.map_err(|error| self.explain(wave, error))?;
        match &self.cache {
            Some(cache) => cache.save(wave, &self.gathered, graph),
            None => Ok(()),
        }
    }

    fn view(&self, request: &StatisticRequest) -> Result<StatisticView<'_>> {
        let site = self.calibration.graph.site_of(&request.site);
        let statistics = site.and_then(|site| self.gathered.get(&site));
        let view = statistics.and_then(|statistics| statistics.view(&request.statistic));
        view.ok_or_else(|| {
            Error::other(format!(
                "{:?} of \"{}\" was not gathered",
                request.statistic, request.site
            ))
        })
    }

    fn finished(&mut self, wave: usize) -> Result<()> {
        self.gathered = WaveStatistics::new();
        let Some(checkpoint) = &self.checkpoint else {
            return Ok(());
        };
        if self.waves.last() == Some(&wave) {
            checkpoint.clear();
            return Ok(());
        }
        match self.position > wave {
            true => {
                let hidden = self.calibration.graph.hidden;
                checkpoint.save(self.position, &self.activations, hidden)
            }
            // The wave came from the cache.
            false => Ok(()),
        }
    }
}
