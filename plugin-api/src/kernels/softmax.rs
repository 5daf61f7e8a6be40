//! Softmax of rows of which only a part is visible.

use std::ops::Range;

use super::exp::exp;
use super::norm::{load_part, store_part};
use super::simd::{Isa, Kernel, Level, Vector};

/// `e^x / Σ e^x` within `visible`, 0 elsewhere.
///
/// # Panics
/// If the row does not have the range.
pub fn softmax(row: &mut [f32], visible: Range<usize>) {
    softmax_rows(row, row.len(), |_| visible.clone());
}

/// [`softmax`] of each row of `width` numbers, of which `visible(row)` is visible.
///
/// # Panics
/// If there is no whole number of rows, or a row does not have its range.
pub fn softmax_rows(rows: &mut [f32], width: usize, visible: impl Fn(usize) -> Range<usize>) {
    if rows.is_empty() {
        return;
    }
    assert!(rows.len().is_multiple_of(width));
    Level::detect().dispatch(Softmax {
        rows,
        width,
        visible,
    });
}

struct Softmax<'a, F> {
    rows: &'a mut [f32],
    width: usize,
    visible: F,
}

impl<F: Fn(usize) -> Range<usize>> Kernel for Softmax<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (index, row) in self.rows.chunks_exact_mut(self.width).enumerate() {
            let visible = (self.visible)(index);
            row[..visible.start].fill(0.0);
            // Behind the visible part come zeros, which is what e^-∞ is: whole vectors then need
            // no special end.
            let whole = visible.start + visible.len().next_multiple_of(I::LANES);
            let end = if whole <= row.len() {
                whole
            } else {
                visible.end
            };
            row[visible.end..end].fill(f32::NEG_INFINITY);
            row[end..].fill(0.0);
            softmax_row(isa, &mut row[visible.start..end]);
        }
    }
}

/// Softmax of a whole row.
#[inline(always)]
fn softmax_row<I: Isa>(isa: I, row: &mut [f32]) {
    let whole = row.len() - row.len() % I::LANES;
    let largest = isa.splat(maximum(isa, row));
    let mut sum = isa.splat(0.0);
    let mut i = 0;
    while i < whole {
        let power = exp(isa, isa.load(&row[i..]) - largest);
        power.store(&mut row[i..]);
        sum = sum + power;
        i += I::LANES;
    }
    let rest = &mut row[whole..];
    if !rest.is_empty() {
        let power = exp(isa, load_part(isa, rest, f32::NEG_INFINITY) - largest);
        sum = sum + power;
        store_part(power, rest);
    }
    let scale = 1.0 / sum.sum_lanes();
    let factor = isa.splat(scale);
    let mut i = 0;
    while i < whole {
        (isa.load(&row[i..]) * factor).store(&mut row[i..]);
        i += I::LANES;
    }
    for x in &mut row[whole..] {
        *x *= scale;
    }
}

#[inline(always)]
pub(super) fn maximum<I: Isa>(isa: I, row: &[f32]) -> f32 {
    let whole = row.len() - row.len() % I::LANES;
    let mut largest = isa.splat(f32::NEG_INFINITY);
    if whole < row.len() {
        largest = load_part(isa, &row[whole..], f32::NEG_INFINITY);
    }
    let mut i = 0;
    while i < whole {
        largest = largest.larger(isa.load(&row[i..]));
        i += I::LANES;
    }
    largest.max_lane()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_visible_part_counts() {
        for (width, visible) in [(1, 0..1), (40, 3..37), (600, 0..600), (64, 63..64)] {
            let row: Vec<f32> = (0..width)
                .map(|i| ((i * 29) % 83) as f32 * 0.3 + 60.0)
                .collect();
            let mut out = row.clone();
            softmax(&mut out, visible.clone());
            let powers: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
            let sum: f64 = powers[visible.clone()].iter().sum();
            for i in 0..width {
                let exact = if visible.contains(&i) {
                    powers[i] / sum
                } else {
                    0.0
                };
                assert!(
                    (f64::from(out[i]) - exact).abs() <= 2e-6 * exact,
                    "{i} of {width}"
                );
            }
        }
    }
}
