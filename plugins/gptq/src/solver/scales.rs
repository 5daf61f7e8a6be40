//! The choice of scales and zeros.
//!
//! A group's range is shrunk step by step, and each step's grid is held against the group's
//! numbers: each lane of a vector does that for another row.

use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, MAX_LANES, Vector};

use super::chunk::Choices;
use super::descent::nearest;
use super::grid::SCALES;
use super::{Grid, ScaleSearch};

/// A grid in each lane.
#[derive(Clone, Copy)]
pub(super) struct Lanes<V> {
    pub(super) scale: V,
    pub(super) inverse: V,
    pub(super) zero: V,
}

impl<V: Vector> Lanes<V> {
    /// With the storable scale nearest to `scale`.
    #[inline(always)]
    pub(super) fn new<I: Isa<F32 = V>>(isa: I, scale: V, zero: V) -> Self {
        let scale = storable(isa, scale);
        Self {
            scale,
            inverse: isa.splat(1.0) / scale,
            zero,
        }
    }

    #[inline(always)]
    pub(super) fn load<I: Isa<F32 = V>>(isa: I, choices: &Choices, at: usize) -> Self {
        Self {
            scale: isa.load(&choices.scales[at..]),
            inverse: isa.load(&choices.inverses[at..]),
            zero: isa.load(&choices.zeros[at..]),
        }
    }

    #[inline(always)]
    pub(super) fn store(self, choices: &mut Choices, at: usize) {
        self.scale.store(&mut choices.scales[at..]);
        self.inverse.store(&mut choices.inverses[at..]);
        self.zero.store(&mut choices.zeros[at..]);
    }

    #[inline(always)]
    pub(super) fn select(mask: V::Mask, yes: Self, no: Self) -> Self {
        Self {
            scale: V::select(mask, yes.scale, no.scale),
            inverse: V::select(mask, yes.inverse, no.inverse),
            zero: V::select(mask, yes.zero, no.zero),
        }
    }

    /// With scales of the other sign.
    #[inline(always)]
    fn negated<I: Isa<F32 = V>>(self, isa: I) -> Self {
        let zero = isa.splat(0.0);
        Self {
            scale: zero - self.scale,
            inverse: zero - self.inverse,
            zero: self.zero,
        }
    }

    /// With other zeros, as far as the grid allows.
    #[inline(always)]
    fn shifted<I: Isa<F32 = V>>(self, isa: I, grid: Grid, shift: f32) -> Self {
        let [first, last] = grid.zeros().map(|zero| isa.splat(f32::from(zero)));
        let zero = (self.zero + isa.splat(shift)).larger(first).smaller(last);
        Self { zero, ..self }
    }

    /// Smallest and largest code, less the zero.
    #[inline(always)]
    pub(super) fn bounds<I: Isa<F32 = V>>(self, isa: I, grid: Grid) -> [V; 2] {
        let low = isa.splat(0.0) - self.zero;
        [low, low + isa.splat(f32::from(grid.highest()))]
    }
}

/// The numbers of half precision nearest to scales, whose magnitude is held within half
/// precision's, from the smallest on.
#[inline(always)]
fn storable<I: Isa>(isa: I, scale: I::F32) -> I::F32 {
    let magnitude = scale.abs().larger(isa.splat(SCALES[0]));
    let magnitude = magnitude.smaller(isa.splat(SCALES[1]));
    let mut stored = [[0; 2]; MAX_LANES];
    magnitude.store_f16(&mut stored);
    let magnitude = isa.load_f16(&stored);
    let zero = isa.splat(0.0);
    I::F32::select(scale.lt(zero), zero - magnitude, magnitude)
}

/// Chooses the grid of a group in all lanes, as if its numbers were rounded one by one.
pub(super) struct Search<'a> {
    pub(super) grid: Grid,
    pub(super) settings: ScaleSearch,
    pub(super) lanes: usize,
    /// Columns of the group × lanes.
    pub(super) numbers: &'a [f32],
    /// What a squared error costs, by column.
    pub(super) costs: &'a [f32],
    /// First place in `choices`.
    pub(super) at: usize,
    pub(super) choices: &'a mut Choices,
}

/// The best grid so far.
struct Best<V> {
    grid: Lanes<V>,
    cost: V,
}

impl<V: Vector> Best<V> {
    #[inline(always)]
    fn new<I: Isa<F32 = V>>(isa: I, grid: Lanes<V>) -> Self {
        let cost = isa.splat(f32::INFINITY);
        Self { grid, cost }
    }
}

impl Search<'_> {
    /// Tries a grid and its relatives: of the other sign, or with other zeros.
    #[inline(always)]
    fn step<I: Isa>(&self, isa: I, lane: usize, grid: Lanes<I::F32>, best: &mut Best<I::F32>) {
        self.offer(isa, lane, grid, best);
        if self.grid.symmetric {
            if self.settings.signed {
                self.offer(isa, lane, grid.negated(isa), best);
            }
        } else {
            for shift in [-1.0, 1.0] {
                self.offer(isa, lane, grid.shifted(isa, self.grid, shift), best);
            }
        }
    }

    #[inline(always)]
    fn offer<I: Isa>(&self, isa: I, lane: usize, grid: Lanes<I::F32>, best: &mut Best<I::F32>) {
        let cost = self.cost(isa, lane, grid);
        let better = cost.lt(best.cost);
        best.grid = Lanes::select(better, grid, best.grid);
        best.cost = I::F32::select(better, cost, best.cost);
    }

    /// The cost of a grid.
    #[inline(always)]
    fn cost<I: Isa>(&self, isa: I, lane: usize, grid: Lanes<I::F32>) -> I::F32 {
        let bounds = grid.bounds(isa, self.grid);
        let mut sum = isa.splat(0.0);
        for (numbers, cost) in self.numbers.chunks_exact(self.lanes).zip(self.costs) {
            let x = isa.load(&numbers[lane..]);
            let missed = x - nearest(x, grid.inverse, bounds) * grid.scale;
            sum = sum + isa.splat(*cost) * (missed * missed);
        }
        sum
    }

    /// The scale that fits best to the codes of a grid.
    #[inline(always)]
    fn fitted<I: Isa>(&self, isa: I, lane: usize, grid: Lanes<I::F32>) -> Lanes<I::F32> {
        let bounds = grid.bounds(isa, self.grid);
        let (mut above, mut below) = (isa.splat(0.0), isa.splat(0.0));
        for (numbers, cost) in self.numbers.chunks_exact(self.lanes).zip(self.costs) {
            let x = isa.load(&numbers[lane..]);
            let steps = nearest(x, grid.inverse, bounds);
            let weighted = isa.splat(*cost) * steps;
            above = above + weighted * x;
            below = below + weighted * steps;
        }
        let usable = below.gt(isa.splat(0.0));
        let fitted = Lanes::new(isa, above / below, grid.zero);
        Lanes::select(usable, fitted, grid)
    }

    /// The largest number and the smallest, or zero.
    #[inline(always)]
    fn range<I: Isa>(&self, isa: I, lane: usize) -> [I::F32; 2] {
        let (mut low, mut high) = (isa.splat(0.0), isa.splat(0.0));
        for numbers in self.numbers.chunks_exact(self.lanes) {
            let x = isa.load(&numbers[lane..]);
            low = x.smaller(low);
            high = x.larger(high);
        }
        [low, high]
    }
}

impl Kernel for Search<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for lane in (0..self.lanes).step_by(I::LANES) {
            let [low, high] = self.range(isa, lane);
            let mut best = Best::new(isa, whole(isa, self.grid, [low, high]));
            for step in 0..=self.settings.steps {
                let part = step as f32 / self.settings.steps.max(1) as f32;
                let shrink = isa.splat(1.0 - (1.0 - self.settings.smallest) * part);
                let range = [low * shrink, high * shrink];
                self.step(isa, lane, whole(isa, self.grid, range), &mut best);
            }
            if self.settings.steps > 0 {
                let fitted = self.fitted(isa, lane, best.grid);
                self.offer(isa, lane, fitted, &mut best);
            }
            best.grid.store(self.choices, self.at + lane);
        }
    }
}

/// The grid from end to end of a range that has zero in it.
#[inline(always)]
pub(super) fn whole<I: Isa>(isa: I, grid: Grid, range: [I::F32; 2]) -> Lanes<I::F32> {
    if grid.symmetric {
        symmetric(isa, grid, range)
    } else {
        asymmetric(isa, grid, range)
    }
}

/// Codes from end to end for the larger side.
#[inline(always)]
fn symmetric<I: Isa>(isa: I, grid: Grid, range: [I::F32; 2]) -> Lanes<I::F32> {
    let extreme = range[1].larger(range[0].abs());
    let scale = extreme * isa.splat(2.0 / f32::from(grid.highest()));
    Lanes::new(isa, scale, isa.splat(f32::from(grid.middle())))
}

/// Codes from end to end for both sides together.
#[inline(always)]
fn asymmetric<I: Isa>(isa: I, grid: Grid, range: [I::F32; 2]) -> Lanes<I::F32> {
    let [low, high] = range;
    let highest = isa.splat(f32::from(grid.highest()));
    let spread = Lanes::new(isa, (high - low) / highest, highest);
    let [first, last] = grid.zeros().map(|z| isa.splat(f32::from(z)));
    let steps = (isa.splat(0.0) - low) * spread.inverse;
    // Clamped first: only numbers of some size are rounded.
    let zero = steps.larger(first).smaller(last).round();
    // Where the zero had to move, the numbers above it must still fit.
    let room = (highest - zero).larger(isa.splat(1.0));
    Lanes::new(isa, spread.scale.larger(high / room), zero)
}
