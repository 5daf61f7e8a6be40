//! What comes out.

use ndarray::{Array2, ArrayViewMut2, Axis};

/// A quantized weight of `N` outputs and `K` inputs in `G` groups of equal size.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// N × K, columns in the order of the weight.
    pub codes: Array2<u8>,
    /// N × G, numbers of half precision; finite and never zero, but perhaps negative.
    pub scales: Array2<f32>,
    /// N × G.
    pub zeros: Array2<u8>,
}

/// Some rows of a solution.
pub(super) struct Part<'a> {
    pub(super) codes: ArrayViewMut2<'a, u8>,
    pub(super) scales: ArrayViewMut2<'a, f32>,
    pub(super) zeros: ArrayViewMut2<'a, u8>,
}

impl Solution {
    /// One to be filled.
    pub(super) fn zeros(outputs: usize, inputs: usize, groups: usize) -> Self {
        Self {
            codes: Array2::zeros((outputs, inputs)),
            scales: Array2::ones((outputs, groups)),
            zeros: Array2::zeros((outputs, groups)),
        }
    }

    /// Cuts it into parts of up to so many rows.
    pub(super) fn parts(&mut self, rows: usize) -> impl Iterator<Item = Part<'_>> {
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
}
