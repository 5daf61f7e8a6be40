//! Tests of the whole solver.

use super::*;
use llm_quantize_plugin_api::kernels::Serial;
use ndarray::Array2;

/// Numbers like weights, or like activations with channels that differ.
pub(super) fn numbers(rows: usize, columns: usize, seed: u64) -> Array2<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    Array2::from_shape_fn((rows, columns), |_| next() + next() + next())
}

/// Inputs whose channels depend on each other, and are of different sizes.
pub(super) fn inputs(tokens: usize, columns: usize, seed: u64) -> Array2<f32> {
    let hidden = numbers(tokens, columns / 2 + 1, seed);
    let mix = numbers(columns / 2 + 1, columns, seed + 1);
    let mut x = hidden.dot(&mix) + 0.3 * numbers(tokens, columns, seed + 2);
    for (c, mut column) in x.columns_mut().into_iter().enumerate() {
        column *= 0.2 + (c * 7 % 11) as f32 / 5.0;
    }
    x
}

fn error(weight: &Array2<f32>, solution: &Solution, x: &Array2<f32>) -> f64 {
    let delta = weight - &solution.dequantize();
    let square = |y: Array2<f32>| y.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>();
    square(delta.dot(&x.t())) / square(weight.dot(&x.t()))
}

#[test]
fn beats_rounding_to_nearest_and_reports_its_error() {
    let (weight, x) = (numbers(20, 64, 1), inputs(300, 64, 2));
    let gram = x.t().dot(&x);
    for order in [Order::InOrder, Order::GroupAware, Order::Static] {
        let grid = Grid {
            bits: 4,
            symmetric: true,
            lowest_zero: 1,
        };
        let settings = Settings {
            order,
            ..Settings::new(grid, 16)
        };
        let factor = Factor::new(&Serial, gram.view(), 300, &settings).unwrap();
        let (solution, reported) =
            solve(&Serial, &factor, weight.view(), &settings, &|| false).unwrap();
        let nearest = round_to_nearest(&Serial, weight.view(), &settings);
        let error_of = error(&weight, &solution, &x);
        assert!(
            (error_of / reported - 1.0).abs() < 1e-3,
            "{error_of} {reported}"
        );
        assert!(error_of < 0.6 * error(&weight, &nearest, &x));
    }
}
