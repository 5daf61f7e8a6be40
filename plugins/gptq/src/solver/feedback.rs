//! The pass over the columns.
//!
//! A range of columns is halved: the half that comes first is rounded, its errors go to the other
//! half in one product, and then that is rounded. So nearly all of the work is in products of large
//! matrices, and at the bottom of the recursion few columns are left for a kernel.

use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use llm_quantize_plugin_api::kernels::simd::Level;
use ndarray::s;

use super::chunk::{Chunk, view, view_mut};
use super::descent::{Couplings, LEAF, Leaf};
use super::scales::Search;
use super::trial::{LARGEST, Trial};
use super::{Factor, Order, Settings, Weighting};

/// The pass for the rows of a chunk.
pub(super) struct Pass<'a> {
    pub(super) level: Level,
    pub(super) factor: &'a Factor,
    pub(super) settings: &'a Settings,
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Pass<'_> {
    /// Rounds all columns; returns what it cost, by lane, damping included.
    pub(super) fn run(&self, chunk: &mut Chunk) -> Vec<f32> {
        let mut spent = vec![0.0; chunk.lanes];
        let columns = self.factor.columns.len();
        if self.settings.order == Order::Static {
            self.choose_all(chunk);
        }
        self.range(chunk, 0, columns, &mut spent);
        spent
    }

    /// Whether groups are neighbours, and choose their grids when they are reached.
    fn by_group(&self) -> bool {
        self.settings.order != Order::Static
    }

    fn range(&self, chunk: &mut Chunk, from: usize, to: usize, spent: &mut [f32]) {
        if (self.cancelled)() {
            return;
        }
        let (width, group) = (to - from, self.settings.group);
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
        let factor = self.factor.matrix.slice(s![middle..to, from..middle]);
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
        let group = self.settings.group;
        let columns = &self.factor.columns[from..to];
        let groups: Vec<usize> = columns.iter().map(|column| column / group).collect();
        self.level.dispatch(Leaf {
            grid: self.settings.grid,
            couplings: &self.couplings(from, to),
            groups: &groups,
            choices: &chunk.choices,
            lanes,
            numbers: &mut chunk.errors[from * lanes..to * lanes],
            corrections: &mut chunk.steps[from * lanes..to * lanes],
            costs: &self.factor.pivots[from..to],
            relative: false,
            spent,
        });
    }

    fn couplings(&self, from: usize, to: usize) -> Couplings {
        let matrix = &self.factor.matrix;
        Couplings::new(to - from, |j, k| matrix[[from + j, from + k]])
    }

    /// Chooses the grids of the group that has these places.
    fn choose(&self, chunk: &mut Chunk, from: usize, to: usize) {
        let lanes = chunk.lanes;
        let at = self.factor.columns[from] / self.settings.group * lanes;
        let range = from * lanes..to * lanes;
        let targets = chunk.errors[range.clone()]
            .iter()
            .zip(&chunk.steps[range.clone()]);
        let targets: Vec<f32> = targets.map(|(w, c)| w + c).collect();
        let costs: Vec<f32> = (from..to).map(|place| self.cost(place)).collect();
        self.search(chunk, &targets, &costs, at);
        if to - from <= LARGEST && !self.settings.scales.tries.is_empty() {
            self.level.dispatch(Trial {
                grid: self.settings.grid,
                tries: self.settings.scales.tries,
                couplings: &self.couplings(from, to),
                costs: &self.factor.pivots[from..to],
                lanes,
                numbers: &chunk.errors[range.clone()],
                corrections: &chunk.steps[range],
                at,
                choices: &mut chunk.choices,
            });
        }
    }

    /// Chooses all grids, from the weights as they are.
    fn choose_all(&self, chunk: &mut Chunk) {
        let (lanes, group) = (chunk.lanes, self.settings.group);
        let mut places = vec![0; self.factor.columns.len()];
        for (place, column) in self.factor.columns.iter().enumerate() {
            places[*column] = place;
        }
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
        self.level.dispatch(Search {
            grid: self.settings.grid,
            settings: self.settings.scales,
            lanes: chunk.lanes,
            numbers,
            costs,
            at,
            choices: &mut chunk.choices,
        });
    }

    /// What a squared error of a column counts in the search.
    fn cost(&self, place: usize) -> f32 {
        match self.settings.scales.weighting {
            Weighting::Uniform => 1.0,
            Weighting::Diagonal => self.factor.diagonal[place],
            Weighting::Pivots => self.factor.pivots[place],
        }
    }
}
