//! Sums over rows of logits, from which log-likelihoods and divergences are made.

use super::exp::exp;
use super::norm::load_part;
use super::simd::{Isa, Kernel, Level, Vector};
use super::softmax::maximum;

/// Numbers that are summed in single precision, before their sum is added in double precision.
const SPAN: usize = 256;

/// The largest number of a row and its place, the first of equals; `None` of no numbers.
#[must_use]
pub fn largest(row: &[f32]) -> Option<(usize, f32)> {
    let largest = Level::detect().dispatch(Largest(row));
    // Among NaN nothing is the largest.
    let place = row.iter().position(|number| *number == largest);
    Some((place.unwrap_or(0), *row.get(place.unwrap_or(0))?))
}

struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        maximum(isa, self.0)
    }
}

/// Sums over two rows `a` and `b` of logits of the same things, taken off their numbers `top`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PairSums {
    /// `Σ e^(a - top a)`.
    pub a: f64,
    /// `Σ e^(b - top b)`.
    pub b: f64,
    /// `Σ e^(a - top a) (a - b)`.
    pub weighted: f64,
}

/// The sums of two rows. What is not finite in the rows makes sums that are not finite.
///
/// With `top` above all numbers of its row nothing overflows. From the sums over all tokens,
/// the divergence of the distributions is
/// `KL(a ‖ b) = weighted / a - (top a + ln a) + (top b + ln b)`.
///
/// # Panics
/// If the rows are not equally long.
#[must_use]
pub fn pair_sums(a: &[f32], b: &[f32], top: (f32, f32)) -> PairSums {
    assert_eq!(a.len(), b.len());
    Level::detect().dispatch(Pair { a, b, top })
}

struct Pair<'a> {
    a: &'a [f32],
    b: &'a [f32],
    top: (f32, f32),
}

impl Kernel for Pair<'_> {
    type Output = PairSums;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> PairSums {
        let top = (isa.splat(self.top.0), isa.splat(self.top.1));
        let mut all = PairSums::default();
        for (a, b) in self.a.chunks(SPAN).zip(self.b.chunks(SPAN)) {
            let mut sums = [isa.splat(0.0); 3];
            let whole = a.len() - a.len() % I::LANES;
            let mut i = 0;
            while i < whole {
                add(isa, &mut sums, isa.load(&a[i..]), isa.load(&b[i..]), top);
                i += I::LANES;
            }
            if whole < a.len() {
                // Far below the rest: a power of zero, and no difference.
                let fill = f32::MIN;
                let a = load_part(isa, &a[whole..], fill);
                let b = load_part(isa, &b[whole..], fill);
                add(isa, &mut sums, a, b, top);
            }
            all.a += f64::from(sums[0].sum_lanes());
            all.b += f64::from(sums[1].sum_lanes());
            all.weighted += f64::from(sums[2].sum_lanes());
        }
        all
    }
}

#[inline(always)]
fn add<I: Isa>(isa: I, sums: &mut [I::F32; 3], a: I::F32, b: I::F32, top: (I::F32, I::F32)) {
    let power = exp(isa, a - top.0);
    sums[0] = sums[0] + power;
    sums[1] = sums[1] + exp(isa, b - top.1);
    sums[2] = sums[2] + power * (a - b);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(length: usize, step: usize) -> Vec<f32> {
        let number = |i: usize| ((i * step) % 101) as f32 * 0.17 - 9.0;
        (0..length).map(number).collect()
    }

    #[test]
    fn sums_agree_with_double_precision() {
        for length in [1, 7, 64, 255, 256, 257, 1000, 4099] {
            let (a, b) = (row(length, 29), row(length, 31));
            let top = (9.0, 8.5);
            let found = pair_sums(&a, &b, top);
            let mut exact = PairSums::default();
            for (a, b) in a.iter().zip(&b) {
                let power = f64::from(a - top.0).exp();
                exact.a += power;
                exact.b += f64::from(b - top.1).exp();
                exact.weighted += power * f64::from(a - b);
            }
            let close = |a: f64, b: f64, scale: f64| (a - b).abs() <= 3e-6 * scale;
            assert!(close(found.a, exact.a, exact.a), "{length}");
            assert!(close(found.b, exact.b, exact.b), "{length}");
            assert!(close(found.weighted, exact.weighted, 20.0 * exact.a));
        }
    }

    #[test]
    fn equal_rows_have_no_difference() {
        let a = row(777, 29);
        let sums = pair_sums(&a, &a, (8.0, 8.0));
        assert_eq!((sums.weighted, sums.a), (0.0, sums.b));
    }

    #[test]
    fn what_is_not_finite_shows() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 299] {
                let (mut a, b) = (row(300, 29), row(300, 31));
                a[place] = bad;
                let top = largest(&a).unwrap().1.max(8.0);
                let sums = pair_sums(&a, &b, (top, 8.5));
                assert!(!sums.weighted.is_finite(), "{bad} at {place}");
            }
        }
    }

    #[test]
    fn the_first_of_the_largest() {
        assert_eq!(largest(&[]), None);
        assert_eq!(largest(&[-3.0]), Some((0, -3.0)));
        let mut numbers = vec![0.0; 100];
        (numbers[33], numbers[97]) = (2.0, 2.0);
        assert_eq!(largest(&numbers), Some((33, 2.0)));
        assert!(largest(&[f32::NAN; 40]).is_some());
    }
}
