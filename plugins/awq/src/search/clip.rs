//! How much of a group's range its grid should cover.
//!
//! A smaller range makes all steps finer, and cuts off the largest weights. For each group of each
//! row the range is taken that changes the outputs least, as far as this group alone changes them:
//! `δ G δᵀ` with the group's own part of the Gram matrix.

use llm_quantize_plugin_api::kernels::product::{Before, multiply};
use llm_quantize_plugin_api::kernels::simd::Level;
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView2, ArrayViewMut1, Axis, s};

use crate::rounding::round_in_place;

/// Rows of a task.
const ROWS: usize = 128;
/// Parts of the range that are tried, from the whole down to this.
const LEAST: f32 = 0.5;

/// The best part of each group's range (`N × G`) for a weight (`N × K`) whose inputs, with this
/// Gram matrix, are divided by `factors` and whose numbers have been multiplied with them. `steps`
/// parts below the whole are tried.
#[must_use]
pub fn clips(
    parallel: &dyn Parallel,
    scaled: ArrayView2<'_, f32>,
    factors: &[f32],
    group: usize,
    gram: ArrayView2<'_, f32>,
    steps: u32,
) -> Array2<f32> {
    let mut clips = Array2::ones((scaled.nrows(), scaled.ncols() / group));
    for (index, mut clips) in clips.axis_iter_mut(Axis(1)).enumerate() {
        let columns = index * group..(index + 1) * group;
        let factors = &factors[columns.clone()];
        let mut gram = gram.slice(s![columns.clone(), columns.clone()]).to_owned();
        for ((i, j), number) in gram.indexed_iter_mut() {
            *number /= factors[i] * factors[j];
        }
        let weights = scaled.slice(s![.., columns]);
        let parts = weights.axis_chunks_iter(Axis(0), ROWS);
        let parts = parts.zip(clips.axis_chunks_iter_mut(Axis(0), ROWS));
        hand_out(parallel, parts.collect(), |_, (rows, clips)| {
            best(rows, gram.view(), steps, clips);
        });
    }
    clips
}

/// The best parts for a group of some rows.
fn best(
    rows: ArrayView2<'_, f32>,
    gram: ArrayView2<'_, f32>,
    steps: u32,
    mut clips: ArrayViewMut1<'_, f32>,
) {
    let level = Level::detect();
    let group = rows.ncols();
    let mut least = vec![f64::INFINITY; rows.nrows()];
    let mut change = Array2::zeros(rows.dim());
    let mut product = Array2::zeros(rows.dim());
    for step in 0..=steps {
        let clip = 1.0 - (1.0 - LEAST) * step as f32 / steps.max(1) as f32;
        change.assign(&rows);
        if let Some(numbers) = change.as_slice_mut() {
            round_in_place(level, numbers, group, clip);
        }
        change -= &rows;
        multiply(change.view(), gram, 1.0, Before::Forget, product.view_mut());
        let pairs = change.outer_iter().zip(product.outer_iter());
        for ((least, clips), (a, b)) in least.iter_mut().zip(&mut clips).zip(pairs) {
            let loss: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum();
            if loss < *least {
                (*least, *clips) = (loss, clip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounding::round_clipped;
    use llm_quantize_plugin_api::kernels::Serial;
    use llm_quantize_plugin_api::kernels::product::Prepared;

    #[test]
    fn outliers_of_channels_without_inputs_are_cut_off() {
        let (rows, group) = (3, 32);
        let mut weight = Array2::from_shape_fn((rows, 2 * group), |(r, c)| {
            ((r * 37 + c * 11) % 29) as f32 / 29.0 - 0.4
        });
        weight[[1, 5]] = 1.3;
        weight[[1, group + 5]] = 1.3;
        // Channel 5 of the first group has next to no inputs.
        let mut gram = Array2::<f32>::eye(2 * group);
        gram[[5, 5]] = 1e-6;
        let factors: Vec<f32> = (0..2 * group).map(|i| 1.0 + (i % 3) as f32).collect();
        let scaled = &weight * &ndarray::arr1(&factors);
        let clips = clips(&Serial, scaled.view(), &factors, group, gram.view(), 20);
        assert!(clips[[1, 0]] < 0.9, "{clips}");
        let loss = |clips: &Array2<f32>| {
            let solution = round_clipped(&Serial, scaled.view(), group, clips.view());
            let change = solution.dequantize() / &ndarray::arr1(&factors) - &weight;
            super::super::loss::squares(change.view(), &Prepared::new(&Serial, gram.view()))
        };
        let whole = Array2::ones((rows, 2));
        assert!(loss(&clips) < loss(&whole), "{clips}");
    }
}
