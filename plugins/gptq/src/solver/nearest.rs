//! Rounding to nearest: the base line, and what is left without statistics.

use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{ArrayView2, Axis, s};

use super::grid::{code, storable};
use super::{Grid, Solution};

/// Rows of a task.
const ROWS: usize = 64;

/// See [`super::round_to_nearest`].
pub(super) fn round_to_nearest(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    grid: Grid,
    group: usize,
) -> Solution {
    let (rows, columns) = weight.dim();
    assert!(
        group > 0 && columns.is_multiple_of(group),
        "sizes of groups"
    );
    let mut solution = Solution::zeros(rows, columns, columns / group);
    let parts = solution
        .parts(ROWS)
        .zip(weight.axis_chunks_iter(Axis(0), ROWS));
    hand_out(parallel, parts.collect(), |_, (mut part, weight)| {
        for ((row, g), scale) in part.scales.indexed_iter_mut() {
            let from = g * group;
            let weights = weight.slice(s![row, from..from + group]);
            // Zero is in every range; comparisons with NaN are false.
            let numbers = || weights.iter().map(|w| if w.is_finite() { *w } else { 0.0 });
            let low = numbers().fold(0.0, f32::min);
            let high = numbers().fold(0.0, f32::max);
            let (chosen, zero) = span(grid, low, high);
            *scale = chosen;
            part.zeros[[row, g]] = zero;
            for (i, number) in numbers().enumerate() {
                part.codes[[row, from + i]] = code(number, chosen, zero, grid.highest());
            }
        }
    });
    solution
}

/// The scale and the zero for numbers from `low` to `high`.
fn span(grid: Grid, low: f32, high: f32) -> (f32, u8) {
    let highest = f32::from(grid.highest());
    if grid.symmetric {
        return (storable(2.0 * (high.max(-low) / highest)), grid.middle());
    }
    let scale = storable(high / highest - low / highest);
    let [first, last] = grid.zeros().map(f32::from);
    let zero = (-low / scale).max(first).min(last).round_ties_even();
    // Where the zero had to move, the numbers above it must still fit.
    let room = (highest - zero).max(1.0);
    (storable(scale.max(high / room)), zero as u8)
}
