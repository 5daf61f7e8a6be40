//! The search for factors and ranges that make rounding cost least (AWQ; Lin et al. 2023,
//! arXiv 2306.00978).
//!
//! * [`factors`]: what is tried for the channels of a layer's inputs;
//! * [`loss`]: what that costs at the outputs;
//! * [`clip`]: how much of a group's range is covered.

pub mod clip;
pub mod factors;
pub mod loss;

use llm_quantize_plugin_api::kernels::Parallel;
use llm_quantize_plugin_api::kernels::product::Prepared;
use ndarray::ArrayView2;

use factors::{Exponents, Magnitudes};
use loss::{loss, squares_of};

/// What layers that share an input have in common.
pub struct Inputs<'a> {
    /// `XᵀX` of the inputs, `K × K`.
    pub gram: Prepared<'a>,
    /// Their mean magnitudes, one for each channel.
    pub magnitudes: &'a [f32],
    /// Channels that share a group.
    pub group: usize,
}

/// How thoroughly to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Exponents that are tried at first, for each kind of factors.
    pub grid: u32,
    /// Whether weights' magnitudes count, too.
    pub duo: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The best exponents.
    pub exponents: Exponents,
    /// Their cost: the part of the layers' output energies that rounding changes, summed up.
    pub loss: f64,
    /// The cost without factors.
    pub before: f64,
}

/// Searches the factors with which rounding costs least, for layers that share an input. `spread`
/// makes a factor for each channel of those for [`Magnitudes`]. Once `cancelled` says so, nothing
/// more is tried, and what was found until then is of no use.
pub fn search(
    parallel: &dyn Parallel,
    layers: &[ArrayView2<'_, f32>],
    inputs: &Inputs<'_>,
    magnitudes: &Magnitudes,
    spread: &dyn Fn(Vec<f32>) -> Vec<f32>,
    effort: Effort,
    cancelled: &dyn Fn() -> bool,
) -> Found {
    let energies = layers
        .iter()
        .map(|w| squares_of(parallel, *w, &inputs.gram));
    let energies: Vec<f64> = energies.collect();
    let cost = |exponents: Exponents| {
        if cancelled() {
            return f64::INFINITY;
        }
        let factors = spread(magnitudes.factors(exponents));
        let mut sum = 0.0;
        for (weight, energy) in layers.iter().zip(&energies) {
            let loss = loss(parallel, *weight, &factors, inputs.group, &inputs.gram);
            sum += if *energy > 0.0 { loss / energy } else { 0.0 };
        }
        sum
    };
    let before = cost(Exponents::NONE);
    let mut best = Found {
        exponents: Exponents::NONE,
        loss: before,
        before,
    };
    let step = 1.0 / f64::from(effort.grid.max(1));
    for number in 0..effort.grid {
        let ratio = f64::from(number) * step;
        let paper = [ratio, 0.0];
        let duo = [ratio, 1.0 - ratio];
        for [inputs, weights] in [paper, duo].into_iter().take(1 + usize::from(effort.duo)) {
            best.try_one(Exponents { inputs, weights }, &cost);
        }
    }
    best.refine(step, effort.duo, &cost);
    best
}

impl Found {
    /// Keeps other exponents if they are better; whether they are.
    fn try_one(&mut self, exponents: Exponents, cost: &dyn Fn(Exponents) -> f64) -> bool {
        if exponents == self.exponents {
            return false;
        }
        let loss = cost(exponents);
        let better = loss < self.loss;
        if better {
            (self.exponents, self.loss) = (exponents, loss);
        }
        better
    }

    /// Goes to better neighbours, in steps that get smaller.
    fn refine(&mut self, step: f64, duo: bool, cost: &dyn Fn(Exponents) -> f64) {
        for step in [step / 2.0, step / 4.0] {
            let directions = [[step, 0.0], [-step, 0.0], [0.0, step], [0.0, -step]];
            let directions = &directions[..if duo { 4 } else { 2 }];
            for [inputs, weights] in directions {
                loop {
                    let Exponents {
                        inputs: a,
                        weights: b,
                    } = self.exponents;
                    let next = Exponents {
                        inputs: a + inputs,
                        weights: b + weights,
                    };
                    if next.inputs < 0.0 || next.weights < 0.0 || !self.try_one(next, cost) {
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
