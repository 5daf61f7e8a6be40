//! Activation functions of gated layers, times the other branch.

use super::exp::{exp, sigmoid};
use super::norm::{load_part, store_part};
use super::simd::{Isa, Kernel, Level, Vector};

/// `out = silu(gate) · up`, where `silu(x) = x · sigmoid(x)`.
///
/// # Panics
/// If the lengths differ.
pub fn silu_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
    run(Silu, gate, up, out);
}

/// `out = gelu(gate) · up`, where `gelu(x) = x · Φ(x)`.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
    run(Gelu, gate, up, out);
}

/// `out = gelu(gate) · up`, with `Φ` approximated by `(1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_tanh_times(gate: &[f32], up: &[f32], out: &mut [f32]) {
    run(GeluTanh, gate, up, out);
}

fn run<F: Function>(function: F, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert_eq!(gate.len(), out.len());
    assert_eq!(up.len(), out.len());
    Level::detect().dispatch(Times {
        function,
        gate,
        up,
        out,
    });
}

/// A function of each number.
trait Function: Copy {
    fn of<I: Isa>(self, isa: I, x: I::F32) -> I::F32;
}

struct Times<'a, F> {
    function: F,
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl<F: Function> Kernel for Times<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let whole = self.out.len() - self.out.len() % I::LANES;
        let mut i = 0;
        while i < whole {
            let y = self.function.of(isa, isa.load(&self.gate[i..])) * isa.load(&self.up[i..]);
            y.store(&mut self.out[i..]);
            i += I::LANES;
        }
        if whole < self.out.len() {
            let gate = load_part(isa, &self.gate[whole..], 0.0);
            let up = load_part(isa, &self.up[whole..], 0.0);
            store_part(self.function.of(isa, gate) * up, &mut self.out[whole..]);
        }
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Function for Silu {
    #[inline(always)]
    fn of<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        x * sigmoid(isa, x)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    fn of<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        // (1 + tanh(u)) / 2 = sigmoid(2u).
        const TWICE: f32 = 1.595_769;
        let cube = x * x * x;
        let u = x + cube * isa.splat(0.044_715);
        x * sigmoid(isa, u * isa.splat(TWICE))
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Function for Gelu {
    #[inline(always)]
    fn of<I: Isa>(self, isa: I, x: I::F32) -> I::F32 {
        // Φ(x) = erfc(-x / √2) / 2; both branches are computed and the better one is taken.
        let half = isa.splat(0.5);
        let z = x * isa.splat(std::f32::consts::FRAC_1_SQRT_2);
        let magnitude = z.abs();
        let near = half + half * erf_near_zero(isa, z);
        let tail = half * erfc_of_large(isa, magnitude);
        let far = I::F32::select(x.lt(isa.splat(0.0)), tail, isa.splat(1.0) - tail);
        x * I::F32::select(magnitude.lt(isa.splat(1.0)), near, far)
    }
}

/// `erf(z) / z` in powers of z² for |z| ≤ 1, lowest first: an interpolation at Chebyshev's points
/// with a relative error of 5e-8.
const ERF: [f32; 6] = [
    std::f32::consts::FRAC_2_SQRT_PI,
    -0.376_123_43,
    0.112_803_17,
    -0.026_715_055,
    0.004_921_762,
    -0.000_564_806,
];

/// `erfc(z) e^(z²) / t` in powers of t = 1 / (1 + z/2) for 1 ≤ z ≤ 14, lowest first: as above.
const ERFC: [f32; 8] = [
    0.282_093_9,
    0.282_134_4,
    0.246_146_19,
    0.182_534_43,
    0.051_065_024,
    0.097_678_22,
    -0.238_781_8,
    0.097_772_725,
];

#[inline(always)]
fn erf_near_zero<I: Isa>(isa: I, z: I::F32) -> I::F32 {
    z * polynomial(isa, z * z, &ERF)
}

#[inline(always)]
fn erfc_of_large<I: Isa>(isa: I, z: I::F32) -> I::F32 {
    let one = isa.splat(1.0);
    let t = one / (one + z * isa.splat(0.5));
    t * polynomial(isa, t, &ERFC) * exp(isa, isa.splat(0.0) - z * z)
}

/// Σ `coefficients[i]` xⁱ.
#[inline(always)]
fn polynomial<I: Isa>(isa: I, x: I::F32, coefficients: &[f32]) -> I::F32 {
    let mut i = coefficients.len() - 1;
    let mut sum = isa.splat(coefficients[i]);
    while i > 0 {
        i -= 1;
        sum = sum * x + isa.splat(coefficients[i]);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ by a series for erf, in double precision.
    fn phi(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return if x > 0.0 { 1.0 } else { 0.0 };
        }
        let z = x / std::f64::consts::SQRT_2;
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        0.5 + sum / std::f64::consts::PI.sqrt()
    }

    type Gated = fn(&[f32], &[f32], &mut [f32]);

    fn check(times: Gated, exact: impl Fn(f64) -> f64) {
        let gate: Vec<f32> = (-1200..=1200).map(|i| i as f32 * 0.01).collect();
        let up: Vec<f32> = (0..gate.len()).map(|i| (i % 7) as f32 - 3.0).collect();
        let mut out = vec![0.0; gate.len()];
        times(&gate, &up, &mut out);
        for ((gate, up), out) in gate.iter().zip(&up).zip(&out) {
            let exact = exact(f64::from(*gate)) * f64::from(*up);
            let bound = 4e-7 * exact.abs() + 2e-7 * f64::from(up.abs());
            assert!(
                (f64::from(*out) - exact).abs() <= bound,
                "{gate}: {out}, not {exact}"
            );
        }
    }

    #[test]
    fn silu() {
        check(silu_times, |x| x / (1.0 + (-x).exp()));
    }

    #[test]
    fn gelu() {
        check(gelu_times, |x| x * phi(x));
    }

    #[test]
    fn gelu_with_tanh() {
        check(gelu_tanh_times, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        });
    }

    #[test]
    fn every_level_agrees_with_the_scalar_one() {
        let gate: Vec<f32> = (0..77).map(|i| i as f32 * 0.31 - 12.0).collect();
        let run = |level: Level| {
            let mut out = vec![0.0; gate.len()];
            level.dispatch(Times {
                function: Gelu,
                gate: &gate,
                up: &gate,
                out: &mut out,
            });
            out
        };
        let expected = run(Level::scalar());
        assert!(Level::all().all(|level| run(level) == expected));
    }
}
