//! Which factors are tried for the channels of a layer's inputs.
//!
//! Channels with large inputs matter more. Their weights are multiplied with a factor before they
//! are rounded, and the inputs divided by it, so that their part of the rounding error shrinks
//! (Lin et al. 2023, arXiv 2306.00978). Factors are `xᵃ / wᵇ`, of the inputs' mean magnitude `x`
//! and the weights' mean magnitude `w` relative to their group's largest: the paper's are those
//! with `b = 0`, the released code's ("duo scaling") those with `b = 1 - a`.

use ndarray::{ArrayView2, Axis};

/// Factors are not smaller, nor larger than its inverse: half precision has to hold scales.
const LEAST: f64 = 1.0 / 128.0;
/// Magnitudes count as at least this part of their mean.
const LEAST_MAGNITUDE: f64 = 1e-4;

/// Exponents of the magnitudes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exponents {
    /// Of the inputs' magnitudes.
    pub inputs: f64,
    /// Of the weights' magnitudes.
    pub weights: f64,
}

impl Exponents {
    /// No factors.
    pub const NONE: Self = Self {
        inputs: 0.0,
        weights: 0.0,
    };
}

/// The logarithms of a site's magnitudes, one for each factor.
#[derive(Debug, Clone, PartialEq)]
pub struct Magnitudes {
    inputs: Vec<f64>,
    weights: Vec<f64>,
}

impl Magnitudes {
    /// Of mean magnitudes of channels.
    #[must_use]
    pub fn new(inputs: &[f64], weights: &[f64]) -> Self {
        Self {
            inputs: logarithms(inputs),
            weights: logarithms(weights),
        }
    }

    /// Factors, centred so that the smallest and the largest are each other's inverse.
    #[must_use]
    pub fn factors(&self, exponents: Exponents) -> Vec<f32> {
        let pairs = self.inputs.iter().zip(&self.weights);
        let logarithms = pairs.map(|(x, w)| exponents.inputs * x - exponents.weights * w);
        let logarithms: Vec<f64> = logarithms.collect();
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for logarithm in &logarithms {
            (low, high) = (low.min(*logarithm), high.max(*logarithm));
        }
        let centre = (low + high) / 2.0;
        let factor = |logarithm: &f64| (logarithm - centre).exp().clamp(LEAST, 1.0 / LEAST) as f32;
        logarithms.iter().map(factor).collect()
    }
}

/// Logarithms; of what is zero, those of a small part of the mean. All are finite, whatever a
/// model computes.
fn logarithms(magnitudes: &[f64]) -> Vec<f64> {
    let mean = magnitudes.iter().sum::<f64>() / magnitudes.len().max(1) as f64;
    let least = (mean * LEAST_MAGNITUDE).max(f64::MIN_POSITIVE);
    let bounded = |x: &f64| x.max(least).min(f64::MAX);
    magnitudes.iter().map(|x| bounded(x).ln()).collect()
}

/// Adds up, for each channel, the magnitudes of a weight relative to their group's largest.
pub fn add_weight_magnitudes(weight: ArrayView2<'_, f32>, group: usize, sums: &mut [f64]) {
    for row in weight.outer_iter() {
        let groups = row.axis_chunks_iter(Axis(0), group);
        for (numbers, sums) in groups.into_iter().zip(sums.chunks_mut(group)) {
            let largest = numbers.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            if largest > 0.0 {
                let inverse = 1.0 / largest;
                for (sum, w) in sums.iter_mut().zip(numbers) {
                    *sum += f64::from(w.abs() * inverse);
                }
            }
        }
    }
}

/// Means over the channels that share a factor: `shared_by` heads of `head` channels, one after
/// the other.
#[must_use]
pub fn shared(magnitudes: &[f64], head: usize, shared_by: usize) -> Vec<f64> {
    let mut means = Vec::with_capacity(magnitudes.len() / shared_by.max(1));
    for heads in magnitudes.chunks((head * shared_by).max(1)) {
        for channel in 0..head.min(heads.len()) {
            let all = heads.iter().skip(channel).step_by(head.max(1));
            let count = all.clone().count();
            means.push(all.sum::<f64>() / count as f64);
        }
    }
    means
}

/// A factor for each channel, from those of channels that share one.
#[must_use]
pub fn spread(factors: &[f32], head: usize, shared_by: usize) -> Vec<f32> {
    let heads = factors.chunks(head.max(1));
    heads.flat_map(|head| head.repeat(shared_by)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn factors_are_powers_of_magnitudes() {
        let magnitudes = Magnitudes::new(&[1.0, 4.0, 16.0], &[1.0, 1.0, 4.0]);
        let paper = magnitudes.factors(Exponents {
            inputs: 0.5,
            weights: 0.0,
        });
        for (found, expected) in paper.iter().zip([0.5, 1.0, 2.0]) {
            assert!((found - expected).abs() < 1e-6, "{paper:?}");
        }
        let duo = magnitudes.factors(Exponents {
            inputs: 0.5,
            weights: 0.5,
        });
        // 1, 2, 2, centred.
        assert!((duo[1] / duo[0] - 2.0).abs() < 1e-6 && (duo[2] / duo[1] - 1.0).abs() < 1e-6);
        assert_eq!(magnitudes.factors(Exponents::NONE), [1.0; 3]);
    }

    #[test]
    fn channels_without_inputs_have_finite_factors() {
        let magnitudes = Magnitudes::new(&[0.0, 1.0], &[0.0, 0.0]);
        let factors = magnitudes.factors(Exponents {
            inputs: 1.0,
            weights: 1.0,
        });
        assert!(factors.iter().all(|f| f.is_finite() && *f > 0.0));
    }

    #[test]
    fn heads_that_share_values_share_factors() {
        // Two heads of values of two channels, each for two heads of channels.
        let magnitudes = [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0];
        let means = shared(&magnitudes, 2, 2);
        assert_eq!(means, [2.0, 3.0, 20.0, 30.0]);
        let spread = spread(&[1.0, 2.0, 3.0, 4.0], 2, 2);
        assert_eq!(spread, [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
    }

    #[test]
    fn weights_count_relative_to_their_group() {
        let weight = array![[1.0, -2.0, 0.5, 0.25], [0.0, 0.0, 4.0, -1.0]];
        let mut sums = vec![0.0; 4];
        add_weight_magnitudes(weight.view(), 2, &mut sums);
        assert_eq!(sums, [0.5, 1.0, 2.0, 0.75]);
    }
}
