//! Some rows of a weight, on their way to codes.

use ndarray::{ArrayView2, ArrayViewMut2};

use super::Factor;
use super::solution::Part;

/// Lanes are padded to a multiple of this, so that vectors need no rest: rows of zeros.
const PAD: usize = llm_quantize_plugin_api::kernels::simd::MAX_LANES;

/// Rows side by side: every matrix has a row for each place (or group), and a lane in it for each
/// row of the weight.
pub(super) struct Chunk {
    /// Numbers in a row of a matrix.
    pub(super) lanes: usize,
    /// Places × lanes: the weights `w`, and `w − ŵ` of places that are rounded.
    pub(super) errors: Vec<f32>,
    /// Places × lanes: what is added to the weights by corrections so far, and codes less zeros of
    /// places that are rounded.
    pub(super) steps: Vec<f32>,
    /// Groups × lanes.
    pub(super) choices: Choices,
}

/// Groups × lanes: the grids of groups.
pub(super) struct Choices {
    pub(super) scales: Vec<f32>,
    /// Their reciprocals.
    pub(super) inverses: Vec<f32>,
    pub(super) zeros: Vec<f32>,
}

impl Choices {
    pub(super) fn new(count: usize) -> Self {
        Self {
            scales: vec![1.0; count],
            inverses: vec![1.0; count],
            zeros: vec![0.0; count],
        }
    }
}

impl Chunk {
    /// Lays rows of a weight side by side, in the order of the factor.
    pub(super) fn new(factor: &Factor, weight: ArrayView2<'_, f32>, group: usize) -> Self {
        let (rows, columns) = weight.dim();
        let lanes = rows.next_multiple_of(PAD);
        let mut errors = vec![0.0; columns * lanes];
        transpose(factor, weight, lanes, &mut errors);
        Self {
            lanes,
            errors,
            steps: vec![0.0; columns * lanes],
            choices: Choices::new(columns / group * lanes),
        }
    }

    /// Writes the codes, scales and zeros of rounded rows.
    pub(super) fn write(&self, factor: &Factor, mut part: Part<'_>) {
        let group = part.codes.ncols() / part.scales.ncols();
        for ((row, g), scale) in part.scales.indexed_iter_mut() {
            *scale = self.choices.scales[g * self.lanes + row];
            part.zeros[[row, g]] = self.choices.zeros[g * self.lanes + row] as u8;
        }
        for (place, column) in factor.columns.iter().enumerate() {
            let zeros = &self.choices.zeros[column / group * self.lanes..];
            let steps = &self.steps[place * self.lanes..];
            for (row, code) in part.codes.column_mut(*column).iter_mut().enumerate() {
                *code = (steps[row] + zeros[row]) as u8;
            }
        }
    }
}

/// Copies rows of a weight to lanes of places.
pub(super) fn transpose(
    factor: &Factor,
    weight: ArrayView2<'_, f32>,
    lanes: usize,
    out: &mut [f32],
) {
    for (column, place) in factor.columns.iter().zip(out.chunks_exact_mut(lanes)) {
        for (lane, w) in place.iter_mut().zip(weight.column(*column)) {
            *lane = *w;
        }
    }
}

/// Rows of a matrix that lies in a slice.
pub(super) fn view(matrix: &[f32], lanes: usize) -> ArrayView2<'_, f32> {
    match ArrayView2::from_shape((matrix.len() / lanes, lanes), matrix) {
        Ok(view) => view,
        Err(error) => unreachable!("{error}"),
    }
}

/// As [`view`], to be written.
pub(super) fn view_mut(matrix: &mut [f32], lanes: usize) -> ArrayViewMut2<'_, f32> {
    match ArrayViewMut2::from_shape((matrix.len() / lanes, lanes), matrix) {
        Ok(view) => view,
        Err(error) => unreachable!("{error}"),
    }
}
