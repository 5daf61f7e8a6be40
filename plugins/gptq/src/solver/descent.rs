//! Rounding of neighbouring columns, one after the other.
//!
//! Both procedures that round weights, the pass and the sweeps after it, have this form: column
//! `k` has a number `x_k` and rounds `x_k + c_k + Σ_j e_j A_jk`, where `e_j = x_j − x̂_j` are the
//! errors of columns that came before. They differ in what these are.

use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, Vector};

use super::Grid;
use super::chunk::Choices;

/// Columns that a kernel does at once; between them products do the work.
pub(super) const LEAF: usize = 32;

/// The coefficients `A` of neighbouring places, without those of the diagonal.
pub(super) struct Couplings {
    size: usize,
    /// Row `k` has `A_jk` for all `j > k`.
    rows: Vec<f32>,
}

impl Couplings {
    /// From a function of `j` and `k`.
    pub(super) fn new(size: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let mut rows = vec![0.0; size * size];
        for k in 0..size {
            for j in k + 1..size {
                rows[k * size + j] = at(j, k);
            }
        }
        Self { size, rows }
    }

    #[inline(always)]
    pub(super) fn of(&self, k: usize) -> &[f32] {
        &self.rows[k * self.size..(k + 1) * self.size]
    }
}

/// `x + Σ_j e_j A_jk` over the places behind `k`, whose errors lie `stride` apart.
#[inline(always)]
pub(super) fn corrected<I: Isa>(
    isa: I,
    x: I::F32,
    couplings: &[f32],
    k: usize,
    errors: &[f32],
    stride: usize,
) -> I::F32 {
    // Two sums, so that additions can overlap.
    let mut sums = [x, isa.splat(0.0)];
    for (i, coupling) in couplings[k + 1..].iter().enumerate() {
        let error = isa.load(&errors[(k + 1 + i) * stride..]);
        sums[i % 2] = sums[i % 2] + error * isa.splat(*coupling);
    }
    sums[0] + sums[1]
}

/// The nearest code less the zero.
#[inline(always)]
pub(super) fn nearest<V: Vector>(x: V, inverse: V, bounds: [V; 2]) -> V {
    (x * inverse).larger(bounds[0]).smaller(bounds[1]).round()
}

/// Rounds up to [`LEAF`] places.
pub(super) struct Leaf<'a> {
    pub(super) grid: Grid,
    pub(super) couplings: &'a Couplings,
    /// Group of each place.
    pub(super) groups: &'a [usize],
    pub(super) choices: &'a Choices,
    pub(super) lanes: usize,
    /// In: `x`. Out: `e`.
    pub(super) numbers: &'a mut [f32],
    /// In: `c`. Out: codes less zeros.
    pub(super) corrections: &'a mut [f32],
    /// What a squared difference between a target and what it was rounded to costs, by place.
    pub(super) costs: &'a [f32],
    /// Whether only what differs from leaving the number as it is counts.
    pub(super) relative: bool,
    /// Sums of these costs, by lane.
    pub(super) spent: &'a mut [f32],
}

impl Kernel for Leaf<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let lanes = self.lanes;
        let highest = isa.splat(f32::from(self.grid.highest()));
        for lane in (0..lanes).step_by(I::LANES) {
            let mut spent = isa.load(&self.spent[lane..]);
            for k in (0..self.groups.len()).rev() {
                let choice = self.groups[k] * lanes + lane;
                let scale = isa.load(&self.choices.scales[choice..]);
                let inverse = isa.load(&self.choices.inverses[choice..]);
                let low = isa.splat(0.0) - isa.load(&self.choices.zeros[choice..]);
                let at = k * lanes + lane;
                let number = isa.load(&self.numbers[at..]);
                let target = number + isa.load(&self.corrections[at..]);
                let behind = &self.numbers[lane..];
                let target = corrected(isa, target, self.couplings.of(k), k, behind, lanes);
                let steps = nearest(target, inverse, [low, low + highest]);
                let rounded = steps * scale;
                let (missed, moved) = (target - rounded, target - number);
                let mut square = missed * missed;
                if self.relative {
                    square = square - moved * moved;
                }
                spent = spent + isa.splat(self.costs[k]) * square;
                (number - rounded).store(&mut self.numbers[at..]);
                steps.store(&mut self.corrections[at..]);
            }
            spent.store(&mut self.spent[lane..]);
        }
    }
}

/// Takes targets as they are, without rounding.
pub(super) struct Free<'a> {
    pub(super) couplings: &'a Couplings,
    pub(super) lanes: usize,
    /// Places × lanes: `x`.
    pub(super) weights: &'a [f32],
    /// In: `x + c`. Out: with what errors of places behind add.
    pub(super) targets: &'a mut [f32],
    /// Out: `e`.
    pub(super) errors: &'a mut [f32],
}

impl Kernel for Free<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let lanes = self.lanes;
        for lane in (0..lanes).step_by(I::LANES) {
            for k in (0..self.weights.len() / lanes).rev() {
                let at = k * lanes + lane;
                let target = isa.load(&self.targets[at..]);
                let behind = &self.errors[lane..];
                let target = corrected(isa, target, self.couplings.of(k), k, behind, lanes);
                target.store(&mut self.targets[at..]);
                (isa.load(&self.weights[at..]) - target).store(&mut self.errors[at..]);
            }
        }
    }
}
