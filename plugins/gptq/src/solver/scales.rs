//! The choice of scales and zeros.

use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView2, Axis, s};

use super::grid::{code, storable};
use super::{Grid, ScaleSearch, Solution};

/// Rows of a task.
const ROWS: usize = 64;

/// The scale and the zero for numbers from `low` to `high`.
fn span(grid: &Grid, low: f32, high: f32) -> (f32, u8) {
    let highest = f32::from(grid.highest());
    if grid.symmetric {
        return (storable(2.0 * low.abs().max(high) / highest), grid.middle());
    }
    let (low, high) = (low.min(0.0), high.max(0.0));
    let [first, last] = grid.zeros().map(f32::from);
    let scale = (high - low) / highest;
    let zero = (-low / scale).round_ties_even().max(first).min(last);
    // Where the zero had to move, the larger side still fits.
    let scale = scale.max(high / (highest - zero).max(1.0));
    (storable(scale), zero as u8)
}

/// The best scale and zero for some numbers, whose errors count as `costs` says.
pub(super) fn search(
    grid: &Grid,
    settings: &ScaleSearch,
    numbers: &[f32],
    costs: &[f32],
) -> (f32, u8) {
    let low = numbers.iter().copied().fold(0.0, f32::min);
    let high = numbers.iter().copied().fold(0.0, f32::max);
    let mut best = (f32::INFINITY, span(grid, low, high));
    let mut offer = |(scale, zero): (f32, u8)| {
        let mut cost = 0.0;
        for (w, d) in numbers.iter().zip(costs) {
            let steps = f32::from(code(*w, scale, zero, grid.highest())) - f32::from(zero);
            let error = w - scale * steps;
            cost += d * error * error;
        }
        if cost < best.0 {
            best = (cost, (scale, zero));
        }
    };
    for step in 0..=settings.steps {
        let part = step as f32 / settings.steps.max(1) as f32;
        let shrink = 1.0 - (1.0 - settings.smallest) * part;
        let (scale, zero) = span(grid, low * shrink, high * shrink);
        offer((scale, zero));
        if grid.symmetric && settings.signed {
            let sign = if high > -low { -1.0 } else { 1.0 };
            let full = high.max(-low) / f32::from(grid.middle());
            offer((storable(sign * full * shrink), zero));
        }
    }
    best.1
}

/// See [`super::round_to_nearest`].
pub(super) fn round_to_nearest(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    grid: &Grid,
    group: usize,
) -> Solution {
    let (rows, columns) = weight.dim();
    assert!(
        group > 0 && columns.is_multiple_of(group),
        "sizes of groups"
    );
    let mut solution = Solution {
        codes: Array2::zeros((rows, columns)),
        scales: Array2::zeros((rows, columns / group)),
        zeros: Array2::zeros((rows, columns / group)),
    };
    let tasks: Vec<_> = solution
        .codes
        .axis_chunks_iter_mut(Axis(0), ROWS)
        .zip(solution.scales.axis_chunks_iter_mut(Axis(0), ROWS))
        .zip(solution.zeros.axis_chunks_iter_mut(Axis(0), ROWS))
        .zip(weight.axis_chunks_iter(Axis(0), ROWS))
        .collect();
    hand_out(
        parallel,
        tasks,
        |_, (((mut codes, mut scales), mut zeros), weight)| {
            let mut numbers = vec![0.0; group];
            for ((row, g), scale) in scales.indexed_iter_mut() {
                let from = g * group;
                let weights = weight.slice(s![row, from..from + group]);
                for (number, w) in numbers.iter_mut().zip(weights) {
                    *number = if w.is_finite() { *w } else { 0.0 };
                }
                let low = numbers.iter().copied().fold(0.0, f32::min);
                let high = numbers.iter().copied().fold(0.0, f32::max);
                let zero;
                (*scale, zero) = span(grid, low, high);
                zeros[[row, g]] = zero;
                for (i, number) in numbers.iter().enumerate() {
                    codes[[row, from + i]] = code(*number, *scale, zero, grid.highest());
                }
            }
        },
    );
    solution
}
