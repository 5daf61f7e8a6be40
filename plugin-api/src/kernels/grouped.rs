//! Weights as quantizers answer them: codes in groups, before they are packed.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis};

/// A quantized weight `scale · (code - zero)` of `N` outputs and `K` inputs in `G` groups of equal size.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// N × K, columns in the order of the weight.
    pub codes: Array2<u8>,
    /// N × G, numbers of half precision; finite and never zero, but perhaps negative.
    pub scales: Array2<f32>,
    /// N × G.
    pub zeros: Array2<u8>,
}

/// Some rows of a solution, to be filled.
#[derive(Debug)]
pub struct Part<'a> {
    /// `rows × K`.
    pub codes: ArrayViewMut2<'a, u8>,
    /// `rows × G`.
    pub scales: ArrayViewMut2<'a, f32>,
    /// `rows × G`.
    pub zeros: ArrayViewMut2<'a, u8>,
}

impl Solution {
    /// One to be filled.
    #[must_use]
    pub fn zeros(outputs: usize, inputs: usize, groups: usize) -> Self {
        Self {
            codes: Array2::zeros((outputs, inputs)),
            scales: Array2::ones((outputs, groups)),
            zeros: Array2::zeros((outputs, groups)),
        }
    }

    /// Cuts it into parts of up to so many rows.
    pub fn parts(&mut self, rows: usize) -> impl Iterator<Item = Part<'_>> {
        let codes = self.codes.axis_chunks_iter_mut(Axis(0), rows);
        let scales = self.scales.axis_chunks_iter_mut(Axis(0), rows);
        let zeros = self.zeros.axis_chunks_iter_mut(Axis(0), rows);
        let parts = codes.zip(scales).zip(zeros);
        parts.map(|((codes, scales), zeros)| Part {
            codes,
            scales,
            zeros,
        })
    }

    /// The weights that it stands for, N × K.
    #[must_use]
    pub fn dequantize(&self) -> Array2<f32> {
        let group = self.codes.ncols() / self.scales.ncols().max(1);
        Array2::from_shape_fn(self.codes.dim(), |(row, column)| {
            let place = [row, column / group];
            let steps = i16::from(self.codes[[row, column]]) - i16::from(self.zeros[place]);
            self.scales[place] * f32::from(steps)
        })
    }
    /// The part of a weight's energy that is lost, `|W - Ŵ|² / |W|²`; zero of a weight of zeros.
    ///
    /// # Panics
    /// If the weight has another shape.
    #[must_use]
    pub fn relative_error(&self, weight: ArrayView2<'_, f32>) -> f64 {
        assert_eq!(self.codes.dim(), weight.dim(), "the weight's shape");
        let group = (self.codes.ncols() / self.scales.ncols().max(1)).max(1);
        let (mut error, mut all) = (0.0, 0.0);
        for (row, (codes, weight)) in self.codes.outer_iter().zip(weight.outer_iter()).enumerate() {
            let codes = codes.axis_chunks_iter(Axis(0), group);
            let groups = codes.zip(weight.axis_chunks_iter(Axis(0), group));
            for (number, (codes, weight)) in groups.enumerate() {
                let scale = self.scales[[row, number]];
                let zero = f32::from(self.zeros[[row, number]]);
                for (code, exact) in codes.iter().zip(weight) {
                    error += f64::from(exact - scale * (f32::from(*code) - zero)).powi(2);
                    all += f64::from(*exact).powi(2);
                }
            }
        }
        if all > 0.0 { error / all } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn weights_are_those_of_their_groups() {
        let mut solution = Solution::zeros(2, 4, 2);
        for mut part in solution.parts(1) {
            part.codes.assign(&array![[0, 3, 8, 9]]);
            part.scales.assign(&array![[0.5, 2.0]]);
            part.zeros.assign(&array![[1, 8]]);
        }
        let expected = array![[-0.5, 1.0, 0.0, 2.0], [-0.5, 1.0, 0.0, 2.0]];
        assert_eq!(solution.dequantize(), expected);
        assert_eq!(solution.relative_error(expected.view()), 0.0);
        let mut other = expected;
        other[[1, 3]] = 1.0;
        // One of 1² + … is off by one.
        assert!((solution.relative_error(other.view()) - 1.0 / 7.5).abs() < 1e-12);
        assert_eq!(solution.relative_error(Array2::zeros((2, 4)).view()), 0.0);
    }
}
