//! The output heads of two models, tile by tile of their vocabulary.

use llm_quantize_plugin_api::kernels::product::{Before, linear};
use llm_quantize_plugin_api::kernels::{hand_out, try_hand_out};
use ndarray::{ArrayView2, ArrayViewMut2};

use super::pass::States;
use super::positions::Position;
use super::{Run, Subject, of};
use crate::error::{Error, Result};

/// Tokens of a tile of the vocabulary.
pub(super) const TILE: usize = 2048;

/// Rows of the head that a task decodes.
const DECODED_ROWS: usize = 64;

/// Positions of a task that compares.
const COMPARED: usize = 16;

/// A model and its hidden states.
type Side<'a> = (&'a Subject, &'a States);

impl Run<'_> {
    /// Runs the heads and compares the distributions at all positions that are scored. An
    /// original alone is compared with itself.
    pub(super) fn compare(
        &self,
        original: Side<'_>,
        quantized: Option<Side<'_>>,
    ) -> Result<Vec<Position>> {
        let mut positions = self.positions();
        let mut tiles = (Tile::new(original), quantized.map(Tile::new));
        let vocabulary = original.0.graph.vocabulary;
        let blocks =
            original.0.head_blocks() + quantized.map_or(0, |(model, _)| model.head_blocks());
        let work = blocks.saturating_mul(self.windows.tokens.len() as u64);
        let mut told = 0;
        for first in (0..vocabulary).step_by(TILE) {
            let rows = TILE.min(vocabulary - first);
            tiles.0.load(self, first, rows)?;
            if let Some(tile) = &mut tiles.1 {
                tile.load(self, first, rows)?;
            }
            let mut rest = &mut positions[..];
            for batch in 0..original.1.len() {
                self.context.cancel.check()?;
                let windows = tiles.0.multiply(self, batch, rows) / self.windows.length;
                if let Some(tile) = &mut tiles.1 {
                    tile.multiply(self, batch, rows);
                }
                let (scored, after) = rest.split_at_mut(windows * (self.windows.length - 1));
                rest = after;
                let a = &tiles.0.logits;
                let b = tiles.1.as_ref().map_or(a, |tile| &tile.logits);
                self.add(first, (a, b), rows, scored);
            }
            let done = work.saturating_mul((first + rows) as u64) / vocabulary as u64;
            self.context.progress.tokens(done - told);
            told = done;
        }
        for model in std::iter::once(original.0).chain(quantized.map(|(model, _)| model)) {
            model.source.release();
        }
        check_finite(&positions, original.0, quantized.map(|(model, _)| model))?;
        Ok(positions)
    }

    /// All that are scored: each token but the last of a window predicts the one behind it.
    fn positions(&self) -> Vec<Position> {
        let windows = (0..self.windows.count()).map(|index| self.windows.window(index));
        let targets = windows.flat_map(|window| &window[1..]);
        targets.map(|target| Position::new(*target)).collect()
    }

    /// Adds a tile's logits, tokens × rows, to the positions of a batch.
    fn add(&self, first: usize, (a, b): (&[f32], &[f32]), rows: usize, positions: &mut [Position]) {
        let scored = self.windows.length - 1;
        // Tokens are below the vocabulary's size, which is a count of 32 bits.
        let first = u32::try_from(first).unwrap_or(u32::MAX);
        let parts: Vec<_> = positions.chunks_mut(COMPARED).collect();
        hand_out(self.context.threads, parts, |part, positions| {
            for (index, position) in positions.iter_mut().enumerate() {
                let index = part * COMPARED + index;
                // The last token of each window is not scored.
                let token = index / scored * self.windows.length + index % scored;
                let logits = token * rows..(token + 1) * rows;
                position.add(first, &a[logits.clone()], &b[logits]);
            }
        });
    }
}

/// A tile of a head, and what comes out of it for a batch.
struct Tile<'a> {
    model: &'a Subject,
    states: &'a States,
    /// Rows × hidden.
    weight: Vec<f32>,
    /// Tokens × rows.
    logits: Vec<f32>,
}

impl<'a> Tile<'a> {
    fn new((model, states): Side<'a>) -> Self {
        Self {
            model,
            states,
            weight: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Decodes rows of the head.
    fn load(&mut self, run: &Run<'_>, first: usize, rows: usize) -> Result<()> {
        let (graph, source) = (&self.model.graph, &self.model.source);
        self.weight.resize(rows * graph.hidden, 0.0);
        let parts = self.weight.chunks_mut(DECODED_ROWS * graph.hidden);
        let parts: Vec<_> = parts.enumerate().collect();
        try_hand_out(run.context.threads, parts, |_, (part, numbers)| {
            let from = first + part * DECODED_ROWS;
            let to = from + numbers.len() / graph.hidden;
            source.decode_rows(graph.head.weight, from as u64..to as u64, numbers)
        })
        .map_err(|error| of(&self.model.name, error))
    }

    /// Multiplies the hidden states of a batch with the tile; returns the number of tokens.
    fn multiply(&mut self, run: &Run<'_>, batch: usize, rows: usize) -> usize {
        let hidden = self.model.graph.hidden;
        let states = &self.states[batch];
        let tokens = states.len() / hidden;
        self.logits.resize(tokens * rows, 0.0);
        let x = ArrayView2::from_shape((tokens, hidden), states);
        let weight = ArrayView2::from_shape((rows, hidden), &self.weight);
        let y = ArrayViewMut2::from_shape((tokens, rows), &mut self.logits);
        if let (Ok(x), Ok(weight), Ok(y)) = (x, weight, y) {
            linear(run.context.threads, x, weight, None, Before::Forget, y);
        }
        tokens
    }
}

fn check_finite(
    positions: &[Position],
    original: &Subject,
    quantized: Option<&Subject>,
) -> Result<()> {
    let broken = positions.iter().find_map(Position::original_is_broken);
    let Some(is_original) = broken else {
        return Ok(());
    };
    let model = quantized.filter(|_| !is_original).unwrap_or(original);
    Err(Error::validation(format!(
        "{}: the output head computes numbers that are infinite or not numbers at all",
        model.name
    ))
    .suggest("the model's weights are damaged, or were quantized from damaged ones"))
}
