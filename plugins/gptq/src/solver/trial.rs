//! The choice of a group's grid by trying.
//!
//! A search that holds numbers against grids one by one does not know what the columns of the
//! group do for each other. So some grids around its result are tried for good: the group is
//! rounded with each, and the one that costs least is taken.

use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, MAX_LANES, Vector};

use super::Grid;
use super::chunk::Choices;
use super::descent::{Couplings, corrected, nearest};
use super::scales::Lanes;

/// Larger groups are not tried: that is work of their square.
pub(super) const LARGEST: usize = 128;

/// What the scale is multiplied by.
const TRIES: [f32; 4] = [0.94, 0.97, 1.03, 1.06];

/// Tries grids for a group.
pub(super) struct Trial<'a> {
    pub(super) grid: Grid,
    pub(super) couplings: &'a Couplings,
    /// What a squared difference between a target and what it was rounded to costs, by place.
    pub(super) costs: &'a [f32],
    pub(super) lanes: usize,
    /// Places of the group × lanes, as for [`super::descent::Leaf`].
    pub(super) numbers: &'a [f32],
    pub(super) corrections: &'a [f32],
    /// First place in `choices`, where the search left its result.
    pub(super) at: usize,
    pub(super) choices: &'a mut Choices,
}

impl Trial<'_> {
    /// What a grid costs.
    #[inline(always)]
    fn cost<I: Isa>(&self, isa: I, lane: usize, grid: Lanes<I::F32>, errors: &mut [f32]) -> I::F32 {
        let bounds = grid.bounds(isa, self.grid);
        let mut spent = isa.splat(0.0);
        for k in (0..self.costs.len()).rev() {
            let at = k * self.lanes + lane;
            let number = isa.load(&self.numbers[at..]);
            let target = number + isa.load(&self.corrections[at..]);
            let target = corrected(isa, target, self.couplings.of(k), k, errors, I::LANES);
            let rounded = nearest(target, grid.inverse, bounds) * grid.scale;
            let missed = target - rounded;
            spent = spent + isa.splat(self.costs[k]) * (missed * missed);
            (number - rounded).store(&mut errors[k * I::LANES..]);
        }
        spent
    }
}

impl Kernel for Trial<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut errors = [0.0; LARGEST * MAX_LANES];
        for lane in (0..self.lanes).step_by(I::LANES) {
            let start = Lanes::load(isa, self.choices, self.at + lane);
            let mut best = start;
            let mut least = self.cost(isa, lane, start, &mut errors);
            for factor in TRIES {
                let candidate = Lanes::new(isa, start.scale * isa.splat(factor), start.zero);
                let cost = self.cost(isa, lane, candidate, &mut errors);
                let better = cost.lt(least);
                best = Lanes::select(better, candidate, best);
                least = I::F32::select(better, cost, least);
            }
            best.store(self.choices, self.at + lane);
        }
    }
}
