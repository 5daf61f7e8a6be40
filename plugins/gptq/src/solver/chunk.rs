//! Some rows of a weight, on their way to codes.

use ndarray::{ArrayView2, ArrayViewMut2};

use llm_quantize_plugin_api::kernels::grouped::Part;

/// Lanes are padded to a multiple of this, so that vectors need no rest: rows of zeros.
const PAD: usize = llm_quantize_plugin_api::kernels::simd::MAX_LANES;

/// Rows side by side: every matrix has a row for each place (or group), and a lane in it for each
/// row of the weight.
pub(super) struct Chunk {
    /// Numbers in a row of a matrix.
    pub(super) lanes: usize,
    /// Columns of a group.
    pub(super) group: usize,
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
    /// Lays rows of a weight side by side; `columns` has the column of each place. Numbers that are
    /// not finite become zeros.
    pub(super) fn new(columns: &[usize], weight: ArrayView2<'_, f32>, group: usize) -> Self {
        let lanes = weight.nrows().next_multiple_of(PAD);
        let size = columns.len() * lanes;
        let mut errors = vec![0.0; size];
        for (column, place) in columns.iter().zip(errors.chunks_exact_mut(lanes)) {
            for (lane, w) in place.iter_mut().zip(weight.column(*column)) {
                *lane = if w.is_finite() { *w } else { 0.0 };
            }
        }
        Self {
            lanes,
            group,
            errors,
            steps: vec![0.0; size],
            choices: Choices::new(size / group),
        }
    }

    /// Takes a row over from another chunk.
    pub(super) fn copy_lane(&mut self, from: &Self, lane: usize) {
        let copy = |to: &mut [f32], from: &[f32]| {
            for at in (lane..from.len()).step_by(self.lanes) {
                to[at] = from[at];
            }
        };
        copy(&mut self.errors, &from.errors);
        copy(&mut self.steps, &from.steps);
        copy(&mut self.choices.scales, &from.choices.scales);
        copy(&mut self.choices.inverses, &from.choices.inverses);
        copy(&mut self.choices.zeros, &from.choices.zeros);
    }

    /// Writes the codes, scales and zeros of rounded rows.
    pub(super) fn write(&self, columns: &[usize], mut part: Part<'_>) {
        for ((row, g), scale) in part.scales.indexed_iter_mut() {
            *scale = self.choices.scales[g * self.lanes + row];
            part.zeros[[row, g]] = self.choices.zeros[g * self.lanes + row] as u8;
        }
        for (place, column) in columns.iter().enumerate() {
            let zeros = &self.choices.zeros[column / self.group * self.lanes..];
            let steps = &self.steps[place * self.lanes..];
            for (row, code) in part.codes.column_mut(*column).iter_mut().enumerate() {
                *code = (steps[row] + zeros[row]) as u8;
            }
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
