//! Calibration: runs a model on text and gathers statistics of the inputs of its linear layers.
//!
//! A [`Calibration`] is a model's graph and the windows of text to run it on. The job engine asks
//! it for the statistics that a plan wants, a wave at a time ([`Run`]): a block, or a stage of one
//! ([`schedule`]). The weights up to there are decoded, from the source or from what the plugin
//! made of them ([`encoded`]), all samples pass ([`samples`]), what enters each stage is summed up
//! ([`Accumulator`](accumulate::Accumulator)), and where they stop is kept ([`Activations`]).
//! After each block the activations are on the disk ([`checkpoint`]), so that a killed run goes on
//! there; statistics of the original may be kept for later runs ([`cache`]).

mod accumulate;
mod activations;
mod cache;
mod checkpoint;
mod encoded;
mod memory;
mod run;
mod samples;
mod schedule;
mod sites;
mod statistics;
mod wants;

use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::{CalibrationText, Inputs, ModelView, Plan};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::graph::{Graph, Site};
use crate::job::{Calibrator, Context, FileMark, Statistics, TensorSource};
use crate::output::hex;
use crate::source::SourceModel;
use crate::text::{Choice, Corpus, Count, Tokenizer, Windows, cut, naming};

pub use activations::Activations;
pub use run::Run;
pub use statistics::{SiteStatistics, Wanted};
pub use wants::Wants;

use cache::Cache;
use checkpoint::Checkpoint;
use schedule::Schedule;

/// Samples if the user does not say how many.
const SAMPLES: usize = 256;
/// Tokens in a sample if the user does not say how many, and the model has as long a context.
const LENGTH: usize = 2048;
/// Tokens that go through a block together: enough for products at full speed, few enough for
/// what lies between two products to stay small. It must not depend on the machine, as sums in
/// single precision depend on it.
const BATCH_TOKENS: usize = 2048;
/// What an unfit text is cut by.
const OPTIONS: &str = "--calibration-samples, --calibration-length, --calibration-data";
/// What the statistics of a cache depend on besides model and text.
const VERSION: &str = "calibration 1";

/// What the user wants.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// The text; the built-in one if there is none.
    pub data: Option<PathBuf>,
    /// Number of samples.
    pub samples: Option<usize>,
    /// Tokens in a sample.
    pub length: Option<usize>,
    /// Which samples are chosen.
    pub seed: u64,
    /// Where statistics are kept for later runs.
    pub cache: Option<PathBuf>,
    /// Keep Gram matrices there, whether this run needs them or not.
    pub keep_gram: bool,
}

/// A model and the text to run it on.
pub struct Calibration<'a> {
    model: Model<'a>,
    graph: Graph,
    windows: Windows,
    order: Order,
    /// The folder for activations that do not fit into memory.
    scratch: PathBuf,
    built_in: bool,
}

/// A model as a Hugging Face one.
enum Model<'a> {
    /// The source is seen so anyway.
    Source(&'a SourceModel),
    /// The source is seen as its format has it; this is another look at it.
    View(Box<SourceModel>),
}

impl<'a> Calibration<'a> {
    /// Reads the text and cuts it into samples.
    ///
    /// # Errors
    /// If the model's architecture or tokenizer is not supported, the text cannot be read, or
    /// there is too little of it.
    pub fn prepare(source: &'a SourceModel, order: &Order, scratch: &Path) -> Result<Self> {
        let model = match source.view() {
            ModelView::HuggingFace => Model::Source(source),
            ModelView::Native => Model::View(Box::new(source.as_hugging_face()?)),
        };
        let graph = Graph::of(model.get().model())?;
        let tokenizer = Tokenizer::of(model.get())?;
        let corpus = match &order.data {
            Some(path) => Corpus::open(path)?,
            None => Corpus::calibration(),
        };
        let length = order.length.unwrap_or(LENGTH.min(graph.context));
        if length > graph.context {
            return Err(Error::invalid_arguments(format!(
                "samples of {length} tokens are longer than the model's context, {}",
                graph.context
            ))
            .suggest("choose a shorter --calibration-length"));
        }
        // Nobody can lengthen the built-in text.
        let count = match (order.samples, corpus.built_in) {
            (None, true) => Count::UpTo(SAMPLES),
            (samples, _) => Count::Exactly(samples.unwrap_or(SAMPLES)),
        };
        let choice = Choice::Sampled { seed: order.seed };
        let windows = cut(&corpus, &tokenizer, length, count, choice, graph.vocabulary);
        let windows = windows.map_err(|error| naming(error, OPTIONS))?;
        Ok(Self {
            model,
            graph,
            windows,
            order: order.clone(),
            scratch: scratch.to_owned(),
            built_in: corpus.built_in,
        })
    }

    /// The text, as plans are told about it.
    pub fn text(&self) -> CalibrationText {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        CalibrationText {
            dataset: self.windows.dataset.clone(),
            samples: small(self.windows.count()),
            length: small(self.windows.length),
            fingerprint: self.windows.fingerprint(),
        }
    }

    /// Whether a cache was ordered that cannot serve this plan.
    pub fn ignores_cache(&self, plan: &Plan) -> bool {
        self.order.cache.is_some() && Schedule::of(plan).is_quantized()
    }

    /// What the user should know about the text.
    pub fn warning(&self) -> Option<String> {
        self.built_in.then(|| {
            format!(
                "no --calibration-data: the built-in mixed text is used ({} samples of {} \
                 tokens); text like that which the model will see is better",
                self.windows.count(),
                self.windows.length
            )
        })
    }

    fn model(&self) -> &SourceModel {
        self.model.get()
    }

    /// Whole samples that go through a block together, in tokens.
    fn batch_tokens(&self) -> usize {
        let length = self.windows.length;
        length * (BATCH_TOKENS / length).max(1)
    }

    /// Each site has its own sample of rows.
    fn seed_of(&self, site: Site) -> u64 {
        let number = match site {
            Site::Head => u64::MAX,
            Site::Block { block, stage } => (block as u64) << 16 | stage as u64,
        };
        self.order.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// What results are recognised by: the model's files and the text.
    fn key(&self) -> Result<String> {
        let mut hash = Sha256::new_with_prefix(VERSION);
        hash.update(self.windows.fingerprint());
        hash.update(self.order.seed.to_le_bytes());
        let origin = self.model().origin();
        for file in origin.weights {
            hash.update(serde_json::to_vec(&FileMark::by_time(file)?).unwrap_or_default());
        }
        for file in origin.side_files {
            let mark = FileMark::by_content(file, file.name());
            hash.update(serde_json::to_vec(&mark).unwrap_or_default());
        }
        Ok(hex(&hash.finalize()))
    }

    /// The same with the plan, where it decides about the activations.
    fn key_for(&self, plan: &Plan) -> Result<String> {
        let key = self.key()?;
        if !Schedule::of(plan).is_quantized() {
            return Ok(key);
        }
        let mut hash = Sha256::new_with_prefix(key);
        hash.update(serde_json::to_vec(plan).unwrap_or_default());
        Ok(hex(&hash.finalize()))
    }

    fn open_cache(&self) -> Result<Option<Cache>> {
        let Some(folder) = &self.order.cache else {
            return Ok(None);
        };
        Cache::open(folder, &self.model().model().name, &self.key()?).map(Some)
    }

    /// What to gather: what the plan asks for, and what the cache shall have besides.
    fn wants(&self, plan: &Plan) -> Result<Wants> {
        let mut wants = Wants::of(plan, &self.graph)?;
        if self.order.keep_gram {
            wants.everywhere(Wanted {
                gram: true,
                rows: 0,
            });
        }
        Ok(wants)
    }
}

impl Model<'_> {
    fn get(&self) -> &SourceModel {
        match self {
            Self::Source(source) => source,
            Self::View(view) => view,
        }
    }
}

impl Calibrator for Calibration<'_> {
    fn check(&self, plan: &Plan) -> Result<()> {
        let wants = self.wants(plan)?;
        match self.model {
            // What is encoded is known by its place in the source's own view.
            Model::View(_) if wants.schedule().is_quantized() => Err(Error::unsupported(
                "this plan lets the outputs of quantized layers flow on, which takes a model in \
                 the Hugging Face view",
            )),
            _ => Ok(()),
        }
    }

    fn wave(&self, plan: &Plan, site: &str) -> Option<usize> {
        let site = self.graph.site_of(site)?;
        Some(Schedule::of(plan).wave(site, &self.graph))
    }

    fn memory_needed(&self, plan: &Plan) -> u64 {
        self.wants(plan)
            .map_or(0, |wants| self.least_memory(&wants))
    }

    fn start<'a>(
        &'a self,
        plan: &Plan,
        waves: &[usize],
        folder: Option<&Path>,
        context: &'a Context<'a>,
    ) -> Result<Box<dyn Statistics + 'a>> {
        let wants = self.wants(plan)?;
        let checkpoint = match folder {
            Some(folder) => Some(Checkpoint::new(folder, &self.key_for(plan)?)?),
            None => None,
        };
        let run = Run::start(self, wants, waves, checkpoint, context)?;
        Ok(Box::new(run))
    }
}

#[cfg(test)]
mod tests;
