//! From a weight to its solution, chunk by chunk of rows.

use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use llm_quantize_plugin_api::kernels::simd::Level;
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView2, Axis, s};

use super::chunk::{Chunk, view, view_mut};
use super::feedback::Pass;
use super::refine::Sweep;
use super::{Factor, Settings, Solution, SolveError};

/// Rows of a chunk: few enough that many threads get some, many enough for fast products.
fn rows_of_chunk(rows: usize) -> usize {
    (rows / 24).next_multiple_of(32).clamp(64, 256)
}

/// See [`super::solve`].
pub(super) fn solve(
    parallel: &dyn Parallel,
    factor: &Factor,
    weight: ArrayView2<'_, f32>,
    settings: &Settings,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<(Solution, f64), SolveError> {
    let (rows, columns) = weight.dim();
    if columns != factor.columns.len() {
        return Err(SolveError::Inputs {
            weight: columns,
            factor: factor.columns.len(),
        });
    }
    if !factor.fits(settings) {
        return Err(SolveError::Settings);
    }
    if let Some(((row, column), _)) = weight.indexed_iter().find(|(_, w)| !w.is_finite()) {
        return Err(SolveError::NotFinite { row, column });
    }
    let mut solution = Solution::zeros(rows, columns, columns / settings.group);
    let size = rows_of_chunk(rows);
    let mut sums = vec![[0.0; 2]; rows.div_ceil(size)];
    let parts = solution
        .parts(size)
        .zip(weight.axis_chunks_iter(Axis(0), size))
        .zip(&mut sums);
    hand_out(parallel, parts.collect(), |_, ((part, weight), sums)| {
        let mut chunk = Chunk::new(factor, weight, settings.group);
        let level = Level::detect();
        sums[1] = square_of_outputs(factor, &chunk);
        let pass = Pass {
            level,
            factor,
            settings,
            cancelled,
        };
        let mut spent = pass.run(&mut chunk);
        for _ in 0..settings.refine.rounds {
            Sweep {
                level,
                factor,
                settings,
                cancelled,
            }
            .run(&mut chunk, &mut spent);
        }
        sums[0] = undamped(factor, &chunk, &spent);
        chunk.write(factor, part);
    });
    if cancelled() {
        return Err(SolveError::Cancelled);
    }
    let [error, whole] = sums
        .iter()
        .fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    Ok((solution, if whole > 0.0 { error / whole } else { 0.0 }))
}

fn undamped(factor: &Factor, chunk: &Chunk, spent: &[f32]) -> f64 {
    let damped: f64 = spent.iter().map(|x| f64::from(*x)).sum();
    let squares: f64 = chunk.errors.iter().map(|x| f64::from(x * x)).sum();
    (damped - factor.damping() * squares).max(0.0)
}

/// `tr(W H Wᵀ)`, undamped, of weights that are not rounded yet.
fn square_of_outputs(factor: &Factor, chunk: &Chunk) -> f64 {
    const BLOCK: usize = 128;
    let (columns, lanes) = (factor.columns.len(), chunk.lanes);
    let mut sum = 0.0;
    for from in (0..columns).step_by(BLOCK) {
        let to = (from + BLOCK).min(columns);
        let own = Array2::from_shape_fn((to - from, to - from), |(j, k)| {
            if j == k {
                1.0
            } else if j > k {
                factor.matrix[[from + j, from + k]]
            } else {
                0.0
            }
        });
        let mut outputs = vec![0.0; (to - from) * lanes];
        let numbers = |from: usize, to: usize| view(&chunk.errors[from * lanes..to * lanes], lanes);
        multiply(
            own.view().reversed_axes(),
            numbers(from, to),
            1.0,
            Before::Forget,
            view_mut(&mut outputs, lanes),
        );
        if to < columns {
            let behind = factor.matrix.slice(s![to.., from..to]);
            multiply(
                behind.reversed_axes(),
                numbers(to, columns),
                1.0,
                Before::Add,
                view_mut(&mut outputs, lanes),
            );
        }
        for (row, pivot) in outputs.chunks_exact(lanes).zip(&factor.pivots[from..to]) {
            sum += f64::from(*pivot) * row.iter().map(|x| f64::from(x * x)).sum::<f64>();
        }
    }
    let squares: f64 = chunk.errors.iter().map(|x| f64::from(x * x)).sum();
    (sum - factor.damping() * squares).max(0.0)
}
