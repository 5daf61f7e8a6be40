//! Root-mean-square norms of rows, and sums of rows.

use super::simd::{Isa, Kernel, Level, MAX_LANES, Vector};

/// `out = x · w / √(mean(x²) + ε)` for each row of as many numbers as `weight` has.
///
/// # Panics
/// If `rows` and `out` have different lengths, or no whole number of rows.
pub fn rms_norm(rows: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert_eq!(rows.len(), out.len());
    out.copy_from_slice(rows);
    rms_norm_in_place(out, weight, epsilon);
}

/// [`rms_norm`] in place.
///
/// # Panics
/// If `rows` has no whole number of rows.
pub fn rms_norm_in_place(rows: &mut [f32], weight: &[f32], epsilon: f32) {
    if rows.is_empty() {
        return;
    }
    assert!(rows.len().is_multiple_of(weight.len()));
    Level::detect().dispatch(RmsNorm {
        rows,
        weight,
        epsilon,
    });
}

struct RmsNorm<'a> {
    rows: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for row in self.rows.chunks_exact_mut(self.weight.len()) {
            norm_row(isa, row, self.weight, self.epsilon);
        }
    }
}

/// The norm of one row, in place; for kernels that do more with it.
#[inline(always)]
pub(super) fn norm_row<I: Isa>(isa: I, row: &mut [f32], weight: &[f32], epsilon: f32) {
    let whole = row.len() - row.len() % I::LANES;
    let mut sum = isa.splat(0.0);
    let mut i = 0;
    while i < whole {
        let x = isa.load(&row[i..]);
        sum = sum + x * x;
        i += I::LANES;
    }
    if whole < row.len() {
        let x = load_part(isa, &row[whole..], 0.0);
        sum = sum + x * x;
    }
    let scale = 1.0 / (sum.sum_lanes() / row.len() as f32 + epsilon).sqrt();
    let factor = isa.splat(scale);
    let mut i = 0;
    while i < whole {
        let x = isa.load(&row[i..]) * factor * isa.load(&weight[i..]);
        x.store(&mut row[i..]);
        i += I::LANES;
    }
    for (x, weight) in row[whole..].iter_mut().zip(&weight[whole..]) {
        *x = *x * scale * weight;
    }
}

/// A vector of fewer numbers than it has lanes; the others are `fill`.
#[inline(always)]
pub(super) fn load_part<I: Isa>(isa: I, numbers: &[f32], fill: f32) -> I::F32 {
    let mut lanes = [fill; MAX_LANES];
    lanes[..numbers.len()].copy_from_slice(numbers);
    isa.load(&lanes)
}

/// Writes as many numbers of a vector as there are places.
#[inline(always)]
pub(super) fn store_part<V: Vector>(numbers: V, out: &mut [f32]) {
    let mut lanes = [0.0; MAX_LANES];
    numbers.store(&mut lanes);
    out.copy_from_slice(&lanes[..out.len()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_a_mean_square_of_one() {
        for width in [1, 5, 32, 67, 576] {
            let rows: Vec<f32> = (0..3 * width)
                .map(|i| ((i * 37) % 101) as f32 - 49.5)
                .collect();
            let weight: Vec<f32> = (0..width).map(|i| 0.5 + i as f32 / width as f32).collect();
            let mut out = vec![0.0; rows.len()];
            rms_norm(&rows, &weight, 1e-5, &mut out);
            for (row, out) in rows.chunks(width).zip(out.chunks(width)) {
                let mean = row.iter().map(|x| f64::from(x * x)).sum::<f64>() / width as f64;
                for ((x, w), out) in row.iter().zip(&weight).zip(out) {
                    let exact = f64::from(*x) / (mean + 1e-5).sqrt() * f64::from(*w);
                    assert!((f64::from(*out) - exact).abs() < 1e-6 * exact.abs());
                }
            }
        }
    }
}
