//! The exponential function and what is made of it, on vectors.

use super::simd::{Isa, Vector};

/// `log2(e)`, and `ln(2)` in two parts: the first has few bits, so that multiples are exact.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Below the first all results are 0, above the second all are infinite.
const LOWEST: f32 = -104.0;
const HIGHEST: f32 = 89.0;

/// `(e^r - 1 - r) / r²` for |r| ≤ ln(2) / 2, highest power first; from Cephes' `expf`.
const POLYNOMIAL: [f32; 6] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    0.166_666_65,
    0.5,
];

/// `e^x` of each number, within two units in the last place (results below 2^-126 are rounded
/// twice); NaN stays NaN.
#[inline(always)]
pub fn exp<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    // e^x = 2^n e^r with n an integer; `larger` and `smaller` also turn NaN into a number.
    let bounded = x.larger(isa.splat(LOWEST)).smaller(isa.splat(HIGHEST));
    let n = (bounded * isa.splat(LOG2_E)).round();
    let r = bounded - n * isa.splat(LN2_HIGH) - n * isa.splat(LN2_LOW);
    let mut sum = isa.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        sum = sum * r + isa.splat(*coefficient);
    }
    let power = sum * (r * r) + r + isa.splat(1.0);
    // In two steps, as 2^n may be too small or too large for a number where the result is not.
    let half = (n * isa.splat(0.5)).round();
    let result = power * half.power_of_two() * (n - half).power_of_two();
    I::F32::select(x.eq(x), result, x)
}

/// `1 / (1 + e^-x)` of each number.
#[inline(always)]
pub fn sigmoid<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let one = isa.splat(1.0);
    one / (one + exp(isa, isa.splat(0.0) - x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::{Kernel, Level};

    struct Exp(f32);

    impl Kernel for Exp {
        type Output = f32;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> f32 {
            exp(isa, isa.splat(self.0)).max_lane()
        }
    }

    #[test]
    fn agrees_with_double_precision() {
        for level in Level::all() {
            let mut x = -87.3f32;
            while x < 88.7 {
                let exact = f64::from(x).exp();
                let found = f64::from(level.dispatch(Exp(x)));
                let ulp = f64::from(f32::EPSILON) * exact;
                assert!(
                    (found - exact).abs() < 2.0 * ulp,
                    "{x}: {found}, not {exact}"
                );
                x += 0.0137;
            }
        }
    }

    #[test]
    fn limits() {
        for level in Level::all() {
            assert_eq!(level.dispatch(Exp(f32::NEG_INFINITY)), 0.0);
            assert_eq!(level.dispatch(Exp(-200.0)), 0.0);
            assert_eq!(level.dispatch(Exp(0.0)), 1.0);
            assert_eq!(level.dispatch(Exp(-0.0)), 1.0);
            assert_eq!(level.dispatch(Exp(88.73)), f32::INFINITY);
            assert_eq!(level.dispatch(Exp(f32::INFINITY)), f32::INFINITY);
            // Below the normal numbers precision fades, but not to nothing.
            let small = level.dispatch(Exp(-100.0));
            assert!((small - 3.8e-44).abs() < 2e-45, "{small:e}");
        }
    }

    struct IsNan;

    impl Kernel for IsNan {
        type Output = bool;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> bool {
            let mut lanes = [0.0; 32];
            exp(isa, isa.splat(f32::NAN)).store(&mut lanes);
            lanes[..I::LANES].iter().all(|lane| lane.is_nan())
        }
    }

    #[test]
    fn nan_stays() {
        assert!(Level::all().all(|level| level.dispatch(IsNan)));
    }
}
