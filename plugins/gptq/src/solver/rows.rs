//! From a weight to its solution, chunk by chunk of rows.

use llm_quantize_plugin_api::kernels::simd::Level;
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{ArrayView2, Axis};

use super::chunk::Chunk;
use super::feedback::Pass;
use super::measure::{damping, squares};
use super::nearest::round_chunk;
use super::refine::Sweep;
use super::{Factor, Settings, Solution, SolveError};

/// Rows of a chunk: few enough that many threads get some, many enough for fast products.
pub(super) fn rows_of_chunk(rows: usize) -> usize {
    (rows / 24).next_multiple_of(32).clamp(96, 256)
}

/// See [`super::solve`].
pub(super) fn solve(
    parallel: &dyn Parallel,
    factor: &Factor,
    weight: ArrayView2<'_, f32>,
    settings: &Settings,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<(Solution, f64), SolveError> {
    check(factor, weight, settings)?;
    let (rows, columns) = weight.dim();
    let task = Task {
        level: Level::detect(),
        factor,
        settings,
        cancelled,
    };
    let mut solution = Solution::zeros(rows, columns, columns / settings.group);
    let size = rows_of_chunk(rows);
    let mut sums = vec![[0.0; 2]; rows.div_ceil(size)];
    let weights = weight.axis_chunks_iter(Axis(0), size);
    let parts = solution.parts(size).zip(weights).zip(&mut sums);
    hand_out(parallel, parts.collect(), |_, ((part, weight), sums)| {
        if !cancelled() {
            let chunk;
            (chunk, *sums) = task.rows(weight);
            chunk.write(&factor.columns, part);
        }
    });
    if cancelled() {
        return Err(SolveError::Cancelled);
    }
    let add = |a: [f64; 2], b: &[f64; 2]| [a[0] + b[0], a[1] + b[1]];
    let [error, whole] = sums.iter().fold([0.0; 2], add);
    let measured = whole > 0.0 && factor.diagonal.iter().any(|x| *x > 0.0);
    Ok((solution, if measured { error / whole } else { 0.0 }))
}

fn check(
    factor: &Factor,
    weight: ArrayView2<'_, f32>,
    settings: &Settings,
) -> Result<(), SolveError> {
    if weight.ncols() != factor.columns.len() {
        return Err(SolveError::Inputs {
            weight: weight.ncols(),
            factor: factor.columns.len(),
        });
    }
    if !factor.fits(settings) {
        return Err(SolveError::Settings);
    }
    for (row, weights) in weight.rows().into_iter().enumerate() {
        if let Some(column) = weights.iter().position(|w| !w.is_finite()) {
            return Err(SolveError::NotFinite { row, column });
        }
    }
    Ok(())
}

/// What all chunks share.
pub(super) struct Task<'a> {
    pub(super) level: Level,
    pub(super) factor: &'a Factor,
    pub(super) settings: &'a Settings,
    pub(super) cancelled: &'a (dyn Fn() -> bool + Sync),
}

impl Task<'_> {
    /// Quantizes some rows; with their squared error and the square of their outputs.
    fn rows(&self, weight: ArrayView2<'_, f32>) -> (Chunk, [f64; 2]) {
        let (factor, group) = (self.factor, self.settings.group);
        let mut chunk = Chunk::new(&factor.columns, weight, group);
        let lanes = chunk.lanes;
        let outputs = squares(factor, &chunk.errors, lanes);
        let mut plain = Chunk::new(&factor.columns, weight, group);
        round_chunk(self.level, self.settings.grid, &factor.columns, &mut plain);
        let limits = squares(factor, &plain.errors, lanes);

        let mut spent = Pass(self).run(&mut chunk);
        for _ in 0..self.settings.refine.rounds {
            Sweep(self).run(&mut chunk, &mut spent);
        }
        let added = damping(factor, &chunk.errors, lanes);
        let mut errors = 0.0;
        for lane in 0..weight.nrows() {
            let error = f64::from(spent[lane]) - added[lane];
            // False for NaN: numbers too large for single precision.
            let good = error <= limits[lane];
            if !good {
                chunk.copy_lane(&plain, lane);
            }
            errors += if good { error } else { limits[lane] }.max(0.0);
        }
        let outputs = outputs[..weight.nrows()].iter().sum::<f64>();
        (chunk, [errors, outputs.max(0.0)])
    }
}
