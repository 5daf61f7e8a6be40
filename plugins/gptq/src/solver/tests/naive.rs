//! GPTQ as the paper has it, in double precision: invert, factor the inverse, update columns.

use llm_quantize_plugin_api::kernels::float16::{f16_to_f32, f32_to_f16};
use ndarray::Array2;

use crate::solver::{Order, Settings};

/// The inverse of a positive definite matrix, by Gauss and Jordan.
fn inverse(matrix: &Array2<f64>) -> Array2<f64> {
    let n = matrix.nrows();
    let (mut a, mut b) = (matrix.clone(), Array2::eye(n));
    for k in 0..n {
        let pivot = a[[k, k]];
        for j in 0..n {
            a[[k, j]] /= pivot;
            b[[k, j]] /= pivot;
        }
        for i in (0..n).filter(|i| *i != k) {
            let factor = a[[i, k]];
            for j in 0..n {
                a[[i, j]] -= factor * a[[k, j]];
                b[[i, j]] -= factor * b[[k, j]];
            }
        }
    }
    b
}

/// The upper `U` of `Uᵀ U`.
fn upper_cholesky(matrix: &Array2<f64>) -> Array2<f64> {
    let n = matrix.nrows();
    let mut upper = Array2::<f64>::zeros((n, n));
    for i in 0..n {
        for j in i..n {
            let sum: f64 = (0..i).map(|k| upper[[k, i]] * upper[[k, j]]).sum();
            let rest = matrix[[i, j]] - sum;
            upper[[i, j]] = if i == j {
                rest.sqrt()
            } else {
                rest / upper[[i, i]]
            };
        }
    }
    upper
}

/// Codes and scales of symmetric grids over whole ranges.
pub(super) fn gptq(
    weight: &Array2<f32>,
    gram: &Array2<f32>,
    settings: &Settings,
) -> (Array2<u8>, Array2<f32>) {
    let (rows, inputs) = weight.dim();
    let group = settings.group;
    let mut h = gram.mapv(f64::from);
    let diagonal = h.diag().to_vec();
    let mean = diagonal.iter().sum::<f64>() / inputs as f64;
    for k in 0..inputs {
        h[[k, k]] += settings.damping * mean;
    }
    let columns = settings.order.columns(&diagonal, group);
    let permuted = Array2::from_shape_fn(h.dim(), |(i, j)| h[[columns[i], columns[j]]]);
    let upper = upper_cholesky(&inverse(&permuted));
    let highest = f32::from(settings.grid.highest());
    let middle = f64::from(settings.grid.middle());

    let mut codes = Array2::zeros((rows, inputs));
    let mut scales = Array2::zeros((rows, inputs / group));
    for row in 0..rows {
        let mut w: Vec<f64> = columns
            .iter()
            .map(|c| f64::from(weight[[row, *c]]))
            .collect();
        let original = w.clone();
        for k in 0..inputs {
            let g = columns[k] / group;
            if scales[[row, g]] == 0.0 {
                let from = if settings.order == Order::Static {
                    &original
                } else {
                    &w
                };
                let members = (0..inputs).filter(|j| columns[*j] / group == g);
                let extreme = members.map(|j| from[j].abs()).fold(0.0, f64::max);
                let scale = (extreme as f32) * (2.0 / highest);
                scales[[row, g]] = f16_to_f32(f32_to_f16(scale));
            }
            let scale = f64::from(scales[[row, g]]);
            let code = (w[k] / scale + middle)
                .clamp(0.0, f64::from(highest))
                .round();
            codes[[row, columns[k]]] = code as u8;
            let error = (w[k] - scale * (code - middle)) / upper[[k, k]];
            for j in k..inputs {
                w[j] -= error * upper[[k, j]];
            }
        }
    }
    (codes, scales)
}
