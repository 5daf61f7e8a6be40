//! The pass over the columns.
//!
//! A range of columns is halved: the half that comes first is rounded, its errors go to the other
//! half in one product, and then that is rounded. So nearly all of the work is in products of large
//! matrices, and at the bottom of the recursion few columns are left for a kernel.

use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use ndarray::s;

use super::chunk::{Chunk, view, view_mut};
use super::descent::{Couplings, Free, LEAF, Leaf};
use super::nearest::places;
use super::rows::Task;
use super::scales::Search;
use super::trial::{LARGEST, Trial};
use super::{Order, Weighting};

/// The pass for the rows of a chunk.
pub(super) struct Pass<'a>(pub(super) &'a Task<'a>);

impl Pass<'_> {
    /// Rounds all columns; returns what it cost, by lane, damping included.
    pub(super) fn run(&self, chunk: &mut Chunk) -> Vec<f32> {
        let mut spent = vec![0.0; chunk.lanes];
        let columns = self.0.factor.columns.len();
        if self.0.settings.order == Order::Static {
            self.choose_all(chunk);
        }
        self.range(chunk, 0, columns, &mut spent);
        spent
    }

    /// Whether groups are neighbours, and choose their grids when they are reached.
    fn by_group(&self) -> bool {
        self.0.settings.order != Order::Static
    }

    fn range(&self, chunk: &mut Chunk, from: usize, to: usize, spent: &mut [f32]) {
        if (self.0.cancelled)() {
            return;
        }
        let (width, group) = (to - from, self.0.settings.group);
        if self.by_group() && width == group {
            self.choose(chunk, from, to);
        }
        let whole = self.by_group() && width > group;
        if width <= LEAF && !whole {
            return self.leaf(chunk, from, to, spent);
        }
        let unit = if whole { group } else { LEAF };
        let middle = from + (width / 2).next_multiple_of(unit).min(width - 1) / unit * unit;
        let middle = if middle == from { from + unit } else { middle };
        self.range(chunk, middle, to, spent);
        self.correct(chunk, from, middle, to);
        self.range(chunk, from, middle, spent);
    }

    /// Adds what the errors of columns from `middle` on do to the columns before.
    fn correct(&self, chunk: &mut Chunk, from: usize, middle: usize, to: usize) {
        let lanes = chunk.lanes;
        let factor = self.0.factor.matrix.slice(s![middle..to, from..middle]);
        multiply(
            factor.reversed_axes(),
            view(&chunk.errors[middle * lanes..to * lanes], lanes),
            1.0,
            Before::Add,
            view_mut(&mut chunk.steps[from * lanes..middle * lanes], lanes),
        );
    }

    fn leaf(&self, chunk: &mut Chunk, from: usize, to: usize, spent: &mut [f32]) {
        let lanes = chunk.lanes;
        let group = self.0.settings.group;
        let columns = &self.0.factor.columns[from..to];
        let groups: Vec<usize> = columns.iter().map(|column| column / group).collect();
        self.0.level.dispatch(Leaf {
            grid: self.0.settings.grid,
            couplings: &self.couplings(from, to),
            groups: &groups,
            choices: &chunk.choices,
            lanes,
            numbers: &mut chunk.errors[from * lanes..to * lanes],
            corrections: &mut chunk.steps[from * lanes..to * lanes],
            costs: &self.0.factor.pivots[from..to],
            relative: false,
            spent,
        });
    }

    fn couplings(&self, from: usize, to: usize) -> Couplings {
        let matrix = &self.0.factor.matrix;
        Couplings::new(to - from, |j, k| matrix[[from + j, from + k]])
    }

    /// Chooses the grids of the group that has these places.
    fn choose(&self, chunk: &mut Chunk, from: usize, to: usize) {
        let lanes = chunk.lanes;
        let at = self.0.factor.columns[from] / self.0.settings.group * lanes;
        let range = from * lanes..to * lanes;
        let costs: Vec<f32> = (from..to).map(|place| self.cost(place)).collect();
        let numbers = self.free(chunk, from, to);
        self.search(chunk, &numbers, &costs, at);
        if to - from <= LARGEST && self.0.settings.scales.trials {
            self.0.level.dispatch(Trial {
                grid: self.0.settings.grid,
                couplings: &self.couplings(from, to),
                costs: &self.0.factor.pivots[from..to],
                lanes,
                numbers: &chunk.errors[range.clone()],
                corrections: &chunk.steps[range],
                at,
                choices: &mut chunk.choices,
            });
        }
    }

    /// What the weights of some places would be if nothing from here on had to be rounded: the
    /// current weights of the textbook's form, which ranges are taken from.
    ///
    /// Corrections know only the errors of places that are rounded; a place that moves by as much
    /// as it likes makes an error, too, which those after it make up for.
    fn free(&self, chunk: &Chunk, from: usize, to: usize) -> Vec<f32> {
        let lanes = chunk.lanes;
        let weights = &chunk.errors[from * lanes..to * lanes];
        let corrections = &chunk.steps[from * lanes..to * lanes];
        let targets = weights.iter().zip(corrections).map(|(w, c)| w + c);
        let mut targets: Vec<f32> = targets.collect();
        let mut errors = vec![0.0; targets.len()];
        let mut end = to;
        while end > from {
            let start = end.saturating_sub(LARGEST).max(from);
            let block = (start - from) * lanes..(end - from) * lanes;
            if end < to {
                let factor = self.0.factor.matrix.slice(s![end..to, start..end]);
                multiply(
                    factor.reversed_axes(),
                    view(&errors[block.end..], lanes),
                    1.0,
                    Before::Add,
                    view_mut(&mut targets[block.clone()], lanes),
                );
            }
            self.0.level.dispatch(Free {
                couplings: &self.couplings(start, end),
                lanes,
                weights: &weights[block.clone()],
                targets: &mut targets[block.clone()],
                errors: &mut errors[block],
            });
            end = start;
        }
        targets
    }

    /// Chooses all grids, from the weights as they are.
    fn choose_all(&self, chunk: &mut Chunk) {
        let (lanes, group) = (chunk.lanes, self.0.settings.group);
        let places = places(&self.0.factor.columns);
        for (g, places) in places.chunks_exact(group).enumerate() {
            let mut weights = Vec::with_capacity(group * lanes);
            for place in places {
                weights.extend_from_slice(&chunk.errors[place * lanes..(place + 1) * lanes]);
            }
            let costs: Vec<f32> = places.iter().map(|place| self.cost(*place)).collect();
            self.search(chunk, &weights, &costs, g * lanes);
        }
    }

    fn search(&self, chunk: &mut Chunk, numbers: &[f32], costs: &[f32], at: usize) {
        self.0.level.dispatch(Search {
            grid: self.0.settings.grid,
            settings: self.0.settings.scales,
            lanes: chunk.lanes,
            numbers,
            costs,
            at,
            choices: &mut chunk.choices,
        });
    }

    /// What a squared error of a column counts in the search.
    fn cost(&self, place: usize) -> f32 {
        match self.0.settings.scales.weighting {
            Weighting::Uniform => 1.0,
            Weighting::Diagonal => self.0.factor.diagonal[place],
            Weighting::Pivots => self.0.factor.pivots[place],
        }
    }
}
