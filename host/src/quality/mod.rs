//! How much worse a quantized model is than its original, on the same text.
//!
//! Models run block by block over all windows, with the weights of one block in memory at a
//! time. Then the last hidden states of original and quantized model go through their output
//! heads together, tile by tile of the vocabulary: what is compared, distributions over all
//! tokens at every position, never exists as a whole.

mod figures;
mod heads;
mod memory;
mod pass;
mod per_token;
mod positions;

use llm_quantize_plugin_api::Inputs as _;

pub use figures::{Estimate, Figures};
pub use per_token::PerToken;

use crate::error::{Error, ExitCode, Result};
use crate::graph::{Graph, Linear};
use crate::job::{Context, Work, WorkUnit};
use crate::source::SourceModel;
use crate::text::Windows;

/// A model that is measured.
#[derive(Debug)]
pub struct Subject {
    /// What the user calls it.
    pub name: String,
    /// The model, in the Hugging Face view.
    pub source: SourceModel,
    /// What it computes.
    pub graph: Graph,
}

impl Subject {
    /// A model that can be run.
    ///
    /// # Errors
    /// As [`Graph::of`], with the model's name.
    pub fn new(name: impl Into<String>, source: SourceModel) -> Result<Self> {
        let name = name.into();
        let graph = Graph::of(source.model()).map_err(|error| of(&name, error))?;
        Ok(Self {
            name,
            source,
            graph,
        })
    }

    /// How many blocks take as long as the output head.
    fn head_blocks(&self) -> u64 {
        let weights = |linear: &Linear| linear.inputs as u64 * linear.outputs as u64;
        let stages = self.graph.blocks.iter().flat_map(|block| &block.stages);
        let all: u64 = stages.flat_map(|stage| &stage.linears).map(weights).sum();
        let block = all / self.graph.blocks.len().max(1) as u64;
        weights(&self.graph.head).div_ceil(block.max(1))
    }
}

/// Puts a model's name before a message, unless the error is the user's wish.
fn of(name: &str, mut error: Error) -> Error {
    if error.class != ExitCode::Interrupted {
        error.message = format!("{name}: {}", error.message);
    }
    error
}

/// Refuses models that cannot be compared on windows of `length` tokens.
///
/// # Errors
/// [`InvalidArguments`](crate::ExitCode::InvalidArguments) if a model has another vocabulary
/// than the original, or a shorter context than the windows.
pub fn check(original: &Subject, quantized: &[Subject], length: usize) -> Result<()> {
    for model in quantized {
        let (theirs, ours) = (original.graph.vocabulary, model.graph.vocabulary);
        if theirs != ours {
            return Err(Error::invalid_arguments(format!(
                "{} has {ours} tokens and {} has {theirs}: only models with the same tokens can \
                 be compared",
                model.name, original.name
            ))
            .suggest("name the model that was quantized as the original"));
        }
    }
    for model in std::iter::once(original).chain(quantized) {
        if length > model.graph.context {
            return Err(Error::invalid_arguments(format!(
                "windows of {length} tokens are longer than the context of {}, {}",
                model.name, model.graph.context
            ))
            .suggest(format!("use --context {}", model.graph.context)));
        }
    }
    Ok(())
}

/// What was measured of one model: a number for each scored position, window after window.
/// The first token of a window is not scored.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Natural logarithm of the probability of the token that is there.
    pub log_probabilities: Vec<f64>,
    /// Divergence from the original's distribution, KL(original ‖ this).
    pub divergences: Vec<f64>,
    /// Whether the likeliest token is the original's.
    pub agrees: Vec<bool>,
}

/// Measures the original and each quantized model; the original's numbers come first.
///
/// # Errors
/// As [`check`]; [`OutOfMemory`](crate::ExitCode::OutOfMemory) if the budget does not do;
/// [`Validation`](crate::ExitCode::Validation) if a model computes numbers that are not finite;
/// [`Interrupted`](crate::ExitCode::Interrupted); and what reading weights says.
pub fn measure(
    original: &Subject,
    quantized: &[Subject],
    windows: &Windows,
    context: &Context<'_>,
) -> Result<Vec<Measured>> {
    check(original, quantized, windows.length)?;
    let batch = memory::batch(original, quantized, windows, context.max_memory)?;
    let run = Run {
        windows,
        batch,
        context,
        layers: std::iter::once(original)
            .chain(quantized)
            .map(|model| model.graph.blocks.len())
            .sum(),
    };
    context.progress.begin(run.work(original, quantized));
    let mut layers_done = 0;
    let reference = run.states(original, &mut layers_done)?;
    let mut all = Vec::with_capacity(quantized.len() + 1);
    if quantized.is_empty() {
        let positions = run.compare((original, &reference), None)?;
        all.push(positions::original(&positions));
    }
    for model in quantized {
        let states = run.states(model, &mut layers_done)?;
        let positions = run.compare((original, &reference), Some((model, &states)))?;
        if all.is_empty() {
            all.push(positions::original(&positions));
        }
        all.push(positions::quantized(&positions));
    }
    context.progress.end();
    Ok(all)
}

/// What all parts of a measurement need.
struct Run<'a> {
    windows: &'a Windows,
    /// Windows that go through a block together.
    batch: usize,
    context: &'a Context<'a>,
    /// Blocks of all models.
    layers: usize,
}

impl Run<'_> {
    /// The tokens of each batch.
    fn batches(&self) -> impl Iterator<Item = &[u32]> {
        self.windows.tokens.chunks(self.batch * self.windows.length)
    }

    /// Tokens through blocks; heads count as blocks, the original's once a comparison.
    fn work(&self, original: &Subject, quantized: &[Subject]) -> Work {
        let heads: u64 = quantized.iter().map(Subject::head_blocks).sum();
        let comparisons = quantized.len().max(1) as u64;
        let blocks = self.layers as u64 + heads + comparisons * original.head_blocks();
        Work {
            layers: self.layers,
            unit: WorkUnit::Tokens,
            amount: blocks.saturating_mul(self.windows.tokens.len() as u64),
            ..Work::default()
        }
    }
}

#[cfg(test)]
mod tests;
