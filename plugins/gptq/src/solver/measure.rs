//! How large the outputs of numbers are: `Σ x H xᵀ`.

use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use ndarray::{Array2, s};

use super::Factor;
use super::chunk::{view, view_mut};

/// Columns of a block.
const BLOCK: usize = 128;

/// `x H xᵀ` without damping for each lane of places × lanes, by the factor: half of the work of
/// the product with `H`.
pub(super) fn squares(factor: &Factor, numbers: &[f32], lanes: usize) -> Vec<f64> {
    let columns = factor.columns.len();
    let mut sums = damping(factor, numbers, lanes);
    sums.iter_mut().for_each(|sum| *sum = -*sum);
    let part = |from: usize, to: usize| view(&numbers[from * lanes..to * lanes], lanes);
    let mut outputs = vec![0.0; BLOCK.min(columns) * lanes];
    for from in (0..columns).step_by(BLOCK) {
        let to = (from + BLOCK).min(columns);
        let own = Array2::from_shape_fn((to - from, to - from), |(k, j)| {
            if j > k {
                factor.matrix[[from + j, from + k]]
            } else {
                f32::from(u8::from(j == k))
            }
        });
        let outputs = &mut outputs[..(to - from) * lanes];
        let mut out = view_mut(outputs, lanes);
        multiply(
            own.view(),
            part(from, to),
            1.0,
            Before::Forget,
            out.view_mut(),
        );
        if to < columns {
            let behind = factor.matrix.slice(s![to.., from..to]).reversed_axes();
            multiply(behind, part(to, columns), 1.0, Before::Add, out);
        }
        for (row, pivot) in outputs.chunks_exact(lanes).zip(&factor.pivots[from..to]) {
            add_squares(&mut sums, row, f64::from(*pivot));
        }
    }
    sums
}

/// What damping adds to [`squares`].
pub(super) fn damping(factor: &Factor, numbers: &[f32], lanes: usize) -> Vec<f64> {
    let mut sums = vec![0.0; lanes];
    for row in numbers.chunks_exact(lanes) {
        add_squares(&mut sums, row, factor.damping());
    }
    sums
}

fn add_squares(sums: &mut [f64], row: &[f32], cost: f64) {
    for (sum, x) in sums.iter_mut().zip(row) {
        *sum += cost * f64::from(*x) * f64::from(*x);
    }
}
