//! The pass over the columns.

use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut1, Axis};

use super::grid::code;
use super::{Factor, Order, Settings, Solution, SolveError, Weighting, scales};

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
    if settings.group != factor.group || settings.order != factor.order {
        return Err(SolveError::Settings);
    }
    if let Some(((row, column), _)) = weight.indexed_iter().find(|(_, w)| !w.is_finite()) {
        return Err(SolveError::NotFinite { row, column });
    }
    let groups = columns / settings.group;
    let mut solution = Solution {
        codes: Array2::zeros((rows, columns)),
        scales: Array2::zeros((rows, groups)),
        zeros: Array2::zeros((rows, groups)),
    };
    let mut errors = vec![[0.0; 2]; rows];
    let tasks: Vec<_> = solution
        .codes
        .axis_iter_mut(Axis(0))
        .zip(solution.scales.axis_iter_mut(Axis(0)))
        .zip(solution.zeros.axis_iter_mut(Axis(0)))
        .zip(weight.axis_iter(Axis(0)))
        .zip(&mut errors)
        .collect();
    hand_out(
        parallel,
        tasks,
        |_, ((((codes, scales), zeros), weight), error)| {
            if !cancelled() {
                *error = row(factor, weight, settings, codes, scales, zeros);
            }
        },
    );
    if cancelled() {
        return Err(SolveError::Cancelled);
    }
    let [error, whole] = errors
        .iter()
        .fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
    Ok((solution, if whole > 0.0 { error / whole } else { 0.0 }))
}

/// Quantizes a row; returns its error and the square of its output.
fn row(
    factor: &Factor,
    weight: ArrayView1<'_, f32>,
    settings: &Settings,
    mut codes: ArrayViewMut1<'_, u8>,
    mut scales: ArrayViewMut1<'_, f32>,
    mut zeros: ArrayViewMut1<'_, u8>,
) -> [f64; 2] {
    let (grid, group) = (&settings.grid, settings.group);
    let mut current: Vec<f32> = factor.columns.iter().map(|c| weight[*c]).collect();
    let original = current.clone();
    let mut chosen = vec![false; scales.len()];
    let mut errors = [0.0; 2];
    for k in 0..current.len() {
        let g = factor.columns[k] / group;
        if !chosen[g] {
            chosen[g] = true;
            let places: Vec<usize> = if settings.order == Order::Static {
                (0..current.len())
                    .filter(|i| factor.columns[*i] / group == g)
                    .collect()
            } else {
                (k..k + group).collect()
            };
            let from = if settings.order == Order::Static {
                &original
            } else {
                &current
            };
            let numbers: Vec<f32> = places.iter().map(|i| from[*i]).collect();
            let costs: Vec<f32> = places
                .iter()
                .map(|i| match settings.scales.weighting {
                    Weighting::Uniform => 1.0,
                    Weighting::Diagonal => factor.diagonal[*i],
                    Weighting::Pivots => factor.pivots[*i],
                })
                .collect();
            (scales[g], zeros[g]) = scales::search(grid, &settings.scales, &numbers, &costs);
        }
        let code = code(current[k], scales[g], zeros[g], grid.highest());
        codes[factor.columns[k]] = code;
        let rounded = scales[g] * (f32::from(code) - f32::from(zeros[g]));
        let missed = f64::from(current[k] - rounded);
        let delta = original[k] - rounded;
        errors[0] += f64::from(factor.pivots[k]) * missed * missed
            - factor.lambda * f64::from(delta) * f64::from(delta);
        for (j, current) in current.iter_mut().enumerate().skip(k + 1) {
            *current += delta * factor.upper[[k, j]];
        }
    }
    for k in 0..original.len() {
        let mut output = f64::from(original[k]);
        for (j, other) in original.iter().enumerate().take(k) {
            output += f64::from(*other) * f64::from(factor.upper[[j, k]]);
        }
        errors[1] += f64::from(factor.pivots[k]) * output * output
            - factor.lambda * f64::from(original[k]).powi(2);
    }
    errors
}
