//! How much memory a measurement needs, and how many windows go through a block together.

use llm_quantize_plugin_api::Inputs as _;

use super::Subject;
use super::heads::TILE;
use crate::error::{Error, ExitCode, Result};
use crate::forward::{BlockWeights, scratch_bytes};
use crate::graph::Linear;
use crate::output::bytes as human;
use crate::text::Windows;

/// Memory of the program itself, its libraries and tables, and what a tokenizer leaves behind.
const BASE_BYTES: u64 = 96 << 20;

/// Tokens that go through a block together, if memory allows: enough for all threads.
const BATCH_TOKENS: usize = 2048;

const NUMBER: u64 = size_of::<f32>() as u64;

/// The most windows at once that fit into the budget.
///
/// # Errors
/// [`ExitCode::OutOfMemory`] if one does not, with both figures.
pub(super) fn batch(
    original: &Subject,
    quantized: &[Subject],
    windows: &Windows,
    budget: u64,
) -> Result<usize> {
    let mut batch = (BATCH_TOKENS / windows.length).clamp(1, windows.count().max(1));
    loop {
        let needed = needed(original, quantized, windows, batch);
        if needed <= budget {
            return Ok(batch);
        }
        if batch == 1 {
            return Err(Error::new(
                ExitCode::OutOfMemory,
                format!(
                    "this comparison needs {} of memory, the budget is {}",
                    human(needed),
                    human(budget)
                ),
            )
            .suggest("raise --max-memory, use fewer --windows, or free memory"));
        }
        batch /= 2;
    }
}

/// The most memory that is needed at once.
fn needed(original: &Subject, quantized: &[Subject], windows: &Windows, batch: usize) -> u64 {
    let tokens = batch.saturating_mul(windows.length);
    let states = |model: &Subject| product(&[windows.tokens.len(), model.graph.hidden]);
    let blocks = |model| largest_block(model).saturating_add(scratch_bytes(&model.graph, tokens));
    let head = |model| head_bytes(model, tokens);
    let alone = states(original).saturating_add(blocks(original).max(head(original)));
    let pairs = quantized.iter().map(|model| {
        let heads = head(original).saturating_add(head(model));
        let both = states(original).saturating_add(states(model));
        both.saturating_add(blocks(model).max(heads))
    });
    pairs.fold(alone, u64::max).saturating_add(BASE_BYTES)
}

/// The largest block, decoded and as it is stored: mapped files are in memory while they are
/// read.
fn largest_block(model: &Subject) -> u64 {
    let blocks = model.graph.blocks.iter().enumerate().map(|(index, block)| {
        let linears = block.stages.iter().flat_map(|stage| &stage.linears);
        let stored = linears.map(|linear| stored(model, linear));
        stored.fold(
            BlockWeights::bytes(&model.graph, index),
            u64::saturating_add,
        )
    });
    blocks.max().unwrap_or(0)
}

/// A tile of the head, decoded, what comes out of it, and the head as it is stored.
fn head_bytes(model: &Subject, tokens: usize) -> u64 {
    let tile = TILE.min(model.graph.vocabulary);
    product(&[tile, model.graph.hidden])
        .saturating_add(product(&[tile, tokens]))
        .saturating_add(stored(model, &model.graph.head))
}

fn stored(model: &Subject, linear: &Linear) -> u64 {
    let tensor = model.source.model().tensors.get(linear.weight);
    tensor.map_or(0, |tensor| tensor.bytes)
}

/// Bytes of so many numbers.
fn product(sizes: &[usize]) -> u64 {
    let sizes = sizes.iter().map(|size| *size as u64);
    sizes.fold(NUMBER, u64::saturating_mul)
}
