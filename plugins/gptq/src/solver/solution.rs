//! What comes out.

use ndarray::Array2;

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

impl Solution {
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
