//! Sweeps over a rounded weight: coordinate descent on scales and codes.
//!
//! Rounding is greedy: a column does not know how those after it will be rounded. A sweep goes over
//! all columns again and moves each to the best code, given all others as they are (QuantEase,
//! Behdin et al. 2023, arXiv 2309.01885). When it comes to a group, its scale is first fitted to
//! its codes, in closed form (the second stage of arXiv 2602.02126). No step makes the error of a
//! row larger.
//!
//! With `p = Δ H` the error of column `k` alone would be least at `ŵ_k + p_k / H_kk`, and a change
//! of its number by `−e_k` changes `p_j` by `e_k H_kj`. That is the form of [`super::descent`].

use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, Vector};
use ndarray::{Array2, s};

use super::Order;
use super::chunk::{Choices, Chunk, view, view_mut};
use super::descent::{Couplings, LEAF, Leaf};
use super::rows::Task;
use super::scales::Lanes;

/// Columns of a block where it is not a group.
const BLOCK: usize = 128;

/// Larger groups are no blocks, and keep their scales: a block has its part of `H` in a copy.
const WIDEST: usize = 512;

/// A sweep over the rows of a chunk.
pub(super) struct Sweep<'a>(pub(super) &'a Task<'a>);

/// Neighbouring places that a sweep is at.
struct Block {
    from: usize,
    to: usize,
    /// `H` of these places, damped.
    own: Array2<f32>,
    /// Places × lanes: `Δ H`, and codes less zeros of places that are done.
    gradient: Vec<f32>,
    /// Places × lanes: `ŵ`, and by how much it fell.
    numbers: Vec<f32>,
}

impl Sweep<'_> {
    /// Improves the rows of a chunk, and takes what it gained from `spent`.
    pub(super) fn run(&self, chunk: &mut Chunk, spent: &mut [f32]) {
        let group = self.0.settings.group;
        let by_group = self.0.settings.order != Order::Static && group <= WIDEST;
        let width = if by_group { group } else { BLOCK };
        let mut to = self.0.factor.columns.len();
        while to > 0 && !(self.0.cancelled)() {
            let from = to.saturating_sub(width);
            let mut block = self.enter(chunk, from, to);
            if by_group {
                self.fit_scale(chunk, &mut block, spent);
            }
            block.numbers = self.rounded(chunk, from, to);
            self.range(chunk, &mut block, 0, to - from, spent);
            self.leave(chunk, &block);
            to = from;
        }
    }

    fn damped(&self, place: usize) -> f32 {
        self.0.factor.diagonal[place] + self.0.factor.damping() as f32
    }

    fn enter(&self, chunk: &Chunk, from: usize, to: usize) -> Block {
        let (lanes, matrix) = (chunk.lanes, &self.0.factor.matrix);
        let own = Array2::from_shape_fn((to - from, to - from), |(j, k)| {
            let (low, high) = (from + j.min(k), from + j.max(k));
            if j == k {
                self.damped(low)
            } else {
                matrix[[low, high]]
            }
        });
        let mut gradient = vec![0.0; (to - from) * lanes];
        let mut add = |part: ndarray::ArrayView2<'_, f32>, first: usize, last: usize| {
            if first < last {
                let errors = view(&chunk.errors[first * lanes..last * lanes], lanes);
                multiply(
                    part,
                    errors,
                    1.0,
                    Before::Add,
                    view_mut(&mut gradient, lanes),
                );
            }
        };
        add(own.view(), from, to);
        add(matrix.slice(s![..from, from..to]).reversed_axes(), 0, from);
        add(matrix.slice(s![from..to, to..]), to, matrix.nrows());
        Block {
            from,
            to,
            own,
            gradient,
            numbers: Vec::new(),
        }
    }

    /// `ŵ` of some places.
    fn rounded(&self, chunk: &Chunk, from: usize, to: usize) -> Vec<f32> {
        let lanes = chunk.lanes;
        let mut numbers = chunk.steps[from * lanes..to * lanes].to_vec();
        for (column, numbers) in self.0.factor.columns[from..to]
            .iter()
            .zip(numbers.chunks_exact_mut(lanes))
        {
            let scales = &chunk.choices.scales[column / self.0.settings.group * lanes..];
            for (number, scale) in numbers.iter_mut().zip(scales) {
                *number *= scale;
            }
        }
        numbers
    }

    fn fit_scale(&self, chunk: &mut Chunk, block: &mut Block, spent: &mut [f32]) {
        let lanes = chunk.lanes;
        let range = block.from * lanes..block.to * lanes;
        let mut products = vec![0.0; block.gradient.len()];
        multiply(
            block.own.view(),
            view(&chunk.steps[range.clone()], lanes),
            1.0,
            Before::Forget,
            view_mut(&mut products, lanes),
        );
        self.0.level.dispatch(FitScale {
            lanes,
            steps: &chunk.steps[range.clone()],
            products: &products,
            gradient: &mut block.gradient,
            errors: &mut chunk.errors[range],
            at: self.0.factor.columns[block.from] / self.0.settings.group * lanes,
            choices: &mut chunk.choices,
            spent,
        });
    }

    /// Places `from..to` of the block.
    fn range(&self, chunk: &Chunk, block: &mut Block, from: usize, to: usize, spent: &mut [f32]) {
        let (width, lanes) = (to - from, chunk.lanes);
        if width <= LEAF {
            return self.leaf(chunk, block, from, to, spent);
        }
        let middle = from + (width / 2).next_multiple_of(LEAF);
        self.range(chunk, block, middle, to, spent);
        multiply(
            block.own.slice(s![from..middle, middle..to]),
            view(&block.numbers[middle * lanes..to * lanes], lanes),
            1.0,
            Before::Add,
            view_mut(&mut block.gradient[from * lanes..middle * lanes], lanes),
        );
        self.range(chunk, block, from, middle, spent);
    }

    fn leaf(&self, chunk: &Chunk, block: &mut Block, from: usize, to: usize, spent: &mut [f32]) {
        let lanes = chunk.lanes;
        let first = block.from + from;
        let columns = &self.0.factor.columns[first..block.from + to];
        let groups: Vec<usize> = columns
            .iter()
            .map(|column| column / self.0.settings.group)
            .collect();
        let costs: Vec<f32> = (first..block.from + to)
            .map(|place| self.damped(place))
            .collect();
        let own = &block.own;
        let couplings = Couplings::new(to - from, |j, k| own[[from + j, from + k]] / costs[k]);
        let corrections = &mut block.gradient[from * lanes..to * lanes];
        for (row, cost) in corrections.chunks_exact_mut(lanes).zip(&costs) {
            row.iter_mut().for_each(|x| *x /= cost);
        }
        self.0.level.dispatch(Leaf {
            grid: self.0.settings.grid,
            couplings: &couplings,
            groups: &groups,
            choices: &chunk.choices,
            lanes,
            numbers: &mut block.numbers[from * lanes..to * lanes],
            corrections,
            costs: &costs,
            relative: true,
            spent,
        });
    }

    fn leave(&self, chunk: &mut Chunk, block: &Block) {
        let range = block.from * chunk.lanes..block.to * chunk.lanes;
        chunk.steps[range.clone()].copy_from_slice(&block.gradient);
        for (error, fallen) in chunk.errors[range].iter_mut().zip(&block.numbers) {
            *error += fallen;
        }
    }
}

/// Fits the scales of a group to its codes.
struct FitScale<'a> {
    lanes: usize,
    /// Places of the group × lanes: codes less zeros, and their products with `H`.
    steps: &'a [f32],
    products: &'a [f32],
    gradient: &'a mut [f32],
    errors: &'a mut [f32],
    /// First place in `choices`.
    at: usize,
    choices: &'a mut Choices,
    spent: &'a mut [f32],
}

impl Kernel for FitScale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let zero = isa.splat(0.0);
        for lane in (0..self.lanes).step_by(I::LANES) {
            let (mut slope, mut curve) = (zero, zero);
            for at in (lane..self.steps.len()).step_by(self.lanes) {
                let steps = isa.load(&self.steps[at..]);
                slope = slope + steps * isa.load(&self.gradient[at..]);
                curve = curve + steps * isa.load(&self.products[at..]);
            }
            let old = Lanes::load(isa, self.choices, self.at + lane);
            let new = Lanes::new(isa, old.scale + slope / curve, old.zero);
            let change = new.scale - old.scale;
            // What the error falls by; false for NaN, where all codes are zero.
            let gain = change * (slope + slope - change * curve);
            let better = gain.gt(zero);
            let change = I::F32::select(better, change, zero);
            let gain = I::F32::select(better, gain, zero);
            Lanes::select(better, new, old).store(self.choices, self.at + lane);
            (isa.load(&self.spent[lane..]) - gain).store(&mut self.spent[lane..]);
            for at in (lane..self.steps.len()).step_by(self.lanes) {
                let error = isa.load(&self.errors[at..]) - change * isa.load(&self.steps[at..]);
                error.store(&mut self.errors[at..]);
                let gradient = isa.load(&self.gradient[at..]);
                let gradient = gradient - change * isa.load(&self.products[at..]);
                gradient.store(&mut self.gradient[at..]);
            }
        }
    }
}
