//! A calibration run: the model, block by block, over all samples.

use llm_quantize_plugin_api::{StatisticRequest, StatisticView};

use super::accumulate::Accumulator;
use super::cache::{Cache, WaveStatistics, covers};
use super::checkpoint::Checkpoint;
use super::encoded::Encoded;
use super::samples::{Samples, Sums, share};
use super::schedule::Schedule;
use super::{Calibration, Wants};
use crate::error::{Error, ExitCode, Result};
use crate::forward::WeightSource;
use crate::graph::Site;
use crate::job::{Context, Decoder, Durable, Statistics, Work, WorkUnit};

/// A run at work.
pub struct Run<'a> {
    calibration: &'a Calibration<'a>,
    wants: Wants,
    /// The waves that must be run, in rising order.
    waves: Vec<usize>,
    samples: Samples<'a>,
    checkpoint: Option<Checkpoint>,
    /// Of what was encoded last.
    durable: Option<Durable>,
    /// The block whose activations are in the checkpoint.
    saved: usize,
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
        // What flows on from quantized layers belongs to this output alone.
        let cache = match wants.schedule().is_quantized() {
            true => None,
            false => calibration.open_cache()?,
        };
        let known = |wave: &usize| {
            let wanted = wants.of_wave(*wave, graph);
            let cache = cache.as_ref();
            cache.is_some_and(|cache| cache.has(*wave, &wanted, graph))
        };
        let to_run: Vec<usize> = waves.iter().copied().filter(|wave| !known(wave)).collect();
        let spill = calibration.spill(context, &wants);
        let mut samples = Samples::new(calibration, !to_run.is_empty(), spill, context)?;
        if let Some(first) = to_run.first() {
            let block = wants.schedule().block(*first, graph);
            let kept = checkpoint.as_ref();
            samples.begin(|into| kept?.load(block, into, graph.hidden))?;
        }
        Ok(Self {
            calibration,
            wants,
            waves: to_run,
            saved: samples.block(),
            samples,
            checkpoint,
            durable: None,
            cache,
            gathered: WaveStatistics::new(),
        })
    }

    /// Takes the samples to the block of a wave, and keeps there what a later run can go on from,
    /// once everything before is durable.
    fn enter(&mut self, block: usize, weights: &dyn WeightSource) -> Result<()> {
        let graph = &self.calibration.graph;
        while self.samples.block() < block {
            let end = graph.blocks[self.samples.block()].stages.len();
            self.go_to(end, weights, &mut Sums::new())?;
        }
        match &mut self.checkpoint {
            Some(checkpoint) if block > self.saved => {
                self.saved = block;
                let durable = self.durable.take();
                checkpoint.save(block, self.samples.entering(), graph.hidden, durable)
            }
            _ => Ok(()),
        }
    }

    /// Takes the samples to a stage of their block, or out of it. Wherever a plan stops, they
    /// stop, whether this run must gather anything there or not: so it takes the same memory.
    fn go_to(&mut self, stage: usize, weights: &dyn WeightSource, sums: &mut Sums) -> Result<()> {
        let stops = self
            .wants
            .stops(self.samples.block(), &self.calibration.graph);
        let (from, to) = (self.samples.stage(), stage);
        for stop in stops.into_iter().filter(|stop| from < *stop && *stop < to) {
            self.samples.go(stop, weights, &mut Sums::new())?;
        }
        self.samples.go(to, weights, sums)
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

    fn run_wave(&mut self, wave: usize, decoder: &dyn Decoder) -> Result<WaveStatistics> {
        let calibration = self.calibration;
        let (graph, model) = (&calibration.graph, calibration.model());
        let schedule = self.wants.schedule();
        let encoded = Encoded { model, decoder };
        let weights: &dyn WeightSource = match schedule.is_quantized() {
            true => &encoded,
            false => model,
        };
        self.enter(schedule.block(wave, graph), weights)?;
        let mut sums = self.sums(wave);
        let last = sums.last_key_value().map(|(site, _)| *site);
        match (last, schedule) {
            (Some(Site::Head), _) => {
                let mut head = sums.values_mut();
                head.try_for_each(|sums| self.samples.head(sums))?;
            }
            (Some(Site::Block { stage, .. }), Schedule::Stages) => {
                self.go_to(stage, weights, &mut sums)?;
            }
            (Some(Site::Block { stage, .. }), Schedule::Blocks) => {
                self.samples.look(stage, model, &mut sums)?;
            }
            (Some(Site::Block { block, .. }), Schedule::Original) => {
                let end = graph.blocks[block].stages.len();
                self.samples.go(end, weights, &mut sums)?;
            }
            (None, _) => {}
        }
        let finish = |(site, sums): (Site, Accumulator)| Ok((site, sums.finish()?));
        sums.into_iter().map(finish).collect()
    }

    /// Nothing summed yet at the sites of a wave.
    fn sums(&self, wave: usize) -> Sums {
        let graph = &self.calibration.graph;
        let tokens = self.samples.tokens();
        let wanted = self.wants.of_wave(wave, graph).into_iter();
        let new = |(site, wanted): (Site, _)| {
            let seed = self.calibration.seed_of(site);
            let sums = Accumulator::new(site.channels(graph), wanted, tokens, seed);
            (site, sums)
        };
        wanted.map(new).collect()
    }

    /// Tokens that go through blocks, each block counted, until a wave's statistics are there.
    fn tokens_until(&self, wave: usize) -> u64 {
        let graph = &self.calibration.graph;
        let schedule = self.wants.schedule();
        let tokens = self.samples.tokens();
        let block = schedule.block(wave, graph);
        let before = (tokens * block) as u64;
        // The head comes after the last block, and takes next to nothing.
        let Some(stages) = graph.blocks.get(block) else {
            return before;
        };
        let sites = self.wants.of_wave(wave, graph);
        let last = match (schedule, sites.last_key_value()) {
            (Schedule::Original, _) | (_, None | Some((Site::Head, _))) => stages.stages.len(),
            (_, Some((Site::Block { stage, .. }, _))) => *stage,
        };
        before + share(stages, 0..last, tokens)
    }
}

impl Statistics for Run<'_> {
    fn work(&self) -> Option<Work> {
        let last = self.waves.last()?;
        Some(Work {
            unit: WorkUnit::Tokens,
            amount: self.tokens_until(*last),
            amount_done: (self.samples.tokens() * self.samples.block()) as u64,
            ..Work::default()
        })
    }

    fn gather(&mut self, wave: usize, decoder: &dyn Decoder) -> Result<()> {
        let graph = &self.calibration.graph;
        self.gathered = WaveStatistics::new();
        if !self.waves.contains(&wave) {
            self.gathered = self.recall(wave)?;
            return Ok(());
        }
        let gathered = self.run_wave(wave, decoder);
        let block = self.wants.schedule().block(wave, graph);
        self.gathered = gathered.map_err(|error| explain(block, error))?;
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

    fn finished(&mut self, wave: usize, durable: Option<Durable>) -> Result<()> {
        self.gathered = WaveStatistics::new();
        self.durable = durable;
        match &mut self.checkpoint {
            Some(checkpoint) if self.waves.last() == Some(&wave) => {
                checkpoint.clear(self.durable.take())
            }
            _ => Ok(()),
        }
    }
}

/// Names the block in which the activations are no numbers any more.
fn explain(block: usize, error: Error) -> Error {
    match error.class {
        ExitCode::Validation => {
            let message = format!("block {block}: {}", error.message);
            Error { message, ..error }
        }
        _ => error,
    }
}
