//! What rounding costs at a layer's outputs.
//!
//! For a weight `W` and what is stored in its place, `Ŵ`, the outputs change by `x (W - Ŵ)ᵀ`. The
//! sum of the squares over all calibration tokens is `Σ δ G δᵀ` over the rows `δ` of `W - Ŵ`, with
//! the Gram matrix `G = Xᵀ X` of the inputs: exact, and no token has to be run again.

use llm_quantize_plugin_api::kernels::product::Prepared;
use llm_quantize_plugin_api::kernels::simd::Level;
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView2, Axis, Zip};

use crate::rounding::round_in_place;

/// Rows of a task.
const ROWS: usize = 128;

/// The squares of what a weight, or a change of one, gives at the outputs, summed over all tokens:
/// `Σ w G wᵀ`.
#[must_use]
pub fn squares_of(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    gram: &Prepared<'_>,
) -> f64 {
    sum(parallel, weight, |rows| squares(rows.view(), gram))
}

/// What rounding changes of a layer's outputs, if its inputs are divided by `factors` and its
/// weights are multiplied with them before: squares, summed over all tokens.
#[must_use]
pub fn loss(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    factors: &[f32],
    group: usize,
    gram: &Prepared<'_>,
) -> f64 {
    let level = Level::detect();
    sum(parallel, weight, |mut rows| {
        let exact = rows.clone();
        rows.outer_iter_mut().for_each(|mut row| {
            Zip::from(&mut row).and(factors).for_each(|w, f| *w *= f);
        });
        if let Some(numbers) = rows.as_slice_mut() {
            round_in_place(level, numbers, group, 1.0);
        }
        for (mut row, exact) in rows.outer_iter_mut().zip(exact.outer_iter()) {
            Zip::from(&mut row)
                .and(exact)
                .and(factors)
                .for_each(|w, exact, f| *w = exact - *w / f);
        }
        squares(rows.view(), gram)
    })
}

/// [`squares_of`] on the caller's thread.
#[must_use]
pub(super) fn squares(rows: ArrayView2<'_, f32>, gram: &Prepared<'_>) -> f64 {
    let mut product = Array2::zeros(rows.dim());
    // The matrix is its own transpose.
    gram.linear(rows, product.view_mut());
    let products = rows.iter().zip(&product);
    products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Adds up what `task` makes of some rows at a time, in their order whoever does them.
fn sum(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    task: impl Fn(Array2<f32>) -> f64 + Sync,
) -> f64 {
    let parts = weight.axis_chunks_iter(Axis(0), ROWS);
    let mut sums = vec![0.0; parts.len()];
    let work = parts.zip(&mut sums).collect();
    hand_out(parallel, work, |_, (rows, sum): (_, &mut f64)| {
        *sum = task(rows.to_owned());
    });
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::round_to_nearest;
    use llm_quantize_plugin_api::kernels::Serial;

    fn numbers(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
        let mut state = seed;
        Array2::from_shape_fn((rows, columns), |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8e6 - 1.0
        })
    }

    /// By running all tokens.
    #[test]
    fn the_loss_is_that_of_the_outputs() {
        let (weight, tokens) = (numbers(150, 64, 3), numbers(40, 64, 7));
        let gram = tokens.t().dot(&tokens);
        let gram = Prepared::new(&Serial, gram.view());
        let factors: Vec<f32> = (0..64).map(|i| 0.5 + i as f32 / 40.0).collect();
        let scaled = &weight * &ndarray::arr1(&factors);
        let solution = round_to_nearest(&Serial, scaled.view(), 32);
        let stored = solution.dequantize() / &ndarray::arr1(&factors);
        let outputs = tokens.dot(&(&weight - &stored).t());
        let expected: f64 = outputs.iter().map(|y| f64::from(*y).powi(2)).sum();
        let found = loss(&Serial, weight.view(), &factors, 32, &gram);
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
        let outputs = tokens.dot(&weight.t());
        let expected: f64 = outputs.iter().map(|y| f64::from(*y).powi(2)).sum();
        let found = squares_of(&Serial, weight.view(), &gram);
        assert!((found / expected - 1.0).abs() < 1e-3, "{found} {expected}");
    }
}
