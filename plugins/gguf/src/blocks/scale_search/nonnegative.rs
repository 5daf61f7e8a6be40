//! A scale for numbers that are not negative: scales and minimums of the
//! sub-blocks of a super-block, when there are importance weights.

use super::NEGLIGIBLE;
use crate::blocks::scalars::{map_array, round_wrapping};

const TRIALS: [i8; 8] = [-4, -3, -2, -1, 1, 2, 3, 4];

/// Passes over the numbers at most; ggml's limit.
const PASSES: usize = 5;

/// `make_qp_quants` of ggml: the scale and the codes 0..=`max_code`.
///
/// Codes wrap to a byte where a number is negative after all, as ggml's do.
#[inline(always)]
pub(in crate::blocks) fn fit_nonnegative<const N: usize>(
    x: &[f32; N],
    weight: &[f32; N],
    max_code: i32,
) -> (f32, [u8; N]) {
    let mut largest = 0.0;
    for &x in x {
        // Not `f32::max`: a NaN has to take over until the next number, as in
        // ggml's comparison.
        largest = if largest > x { largest } else { x };
    }
    if largest < NEGLIGIBLE {
        return (0.0, [0; N]);
    }
    let rate = best_rate(x, weight, largest, max_code);
    let mut codes = [0; N];
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for i in 0..N {
        let code = round_wrapping(rate * x[i]).min(max_code);
        codes[i] = code as u8;
        sum_lx += weight[i] * x[i] * code as f32;
        sum_l2 += weight[i] * code as f32 * code as f32;
    }

    for _ in 0..PASSES {
        let mut changed = false;
        for i in 0..N {
            let (w, code) = (weight[i], f32::from(codes[i]));
            let mut lx: f32 = sum_lx - w * x[i] * code;
            let mut l2: f32 = sum_l2 - w * code * code;
            if !(lx > 0.0 && l2 > 0.0) {
                continue;
            }
            let moved = round_wrapping(x[i] * l2 / lx).min(max_code);
            if moved == i32::from(codes[i]) {
                continue;
            }
            let moved_float = moved as f32;
            lx += w * x[i] * moved_float;
            l2 += w * moved_float * moved_float;
            if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                codes[i] = moved as u8;
                (sum_lx, sum_l2) = (lx, l2);
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }, codes)
}

/// The rate, among the plain one and eight trials around it, with the least
/// weighted squared error.
#[inline(always)]
fn best_rate<const N: usize>(x: &[f32; N], weight: &[f32; N], largest: f32, max_code: i32) -> f32 {
    let plain = max_code as f32 / largest;
    let plain_scale = 1.0 / plain;
    let mut plain_error = 0.0;
    for (&x, &w) in x.iter().zip(weight) {
        let code = round_wrapping(plain * x) as u8;
        let diff = x - plain_scale * f32::from(code);
        plain_error += w * diff * diff;
    }

    let rates = map_array(&TRIALS, |trial| {
        (0.1 * f32::from(trial) + max_code as f32) / largest
    });
    let scales = map_array(&rates, |rate| 1.0 / rate);
    let mut errors = [0.0_f32; TRIALS.len()];
    for (&x, &w) in x.iter().zip(weight) {
        for t in 0..TRIALS.len() {
            let code = round_wrapping(rates[t] * x).min(max_code) as f32;
            let diff = x - scales[t] * code;
            errors[t] += w * diff * diff;
        }
    }
    let (mut rate, mut error) = (plain, plain_error);
    for t in 0..TRIALS.len() {
        if errors[t] < error {
            (rate, error) = (rates[t], errors[t]);
        }
    }
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_grids_are_recovered() {
        let x: [f32; 16] = std::array::from_fn(|i| i as f32 * 0.25);
        let (scale, codes) = fit_nonnegative(&x, &[1.0; 16], 15);
        assert!((scale - 0.25).abs() < 1e-6);
        assert!(codes.iter().enumerate().all(|(i, &c)| usize::from(c) == i));
    }

    #[test]
    fn importance_pulls_the_scale() {
        let x = [1.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3];
        let mut weight = [1e-4; 8];
        let (_, plain) = fit_nonnegative(&x, &weight, 2);
        weight[1..].fill(100.0);
        let (scale, weighted) = fit_nonnegative(&x, &weight, 2);
        assert_eq!((plain[1], weighted[0]), (1, 2));
        assert!((scale - 0.3).abs() < 1e-3, "{scale}");
    }

    #[test]
    fn negligible_numbers_have_no_scale() {
        assert_eq!(fit_nonnegative(&[1e-16; 8], &[1.0; 8], 63), (0.0, [0; 8]));
        assert_eq!(fit_nonnegative(&[-1.0; 8], &[1.0; 8], 63), (0.0, [0; 8]));
    }
}
