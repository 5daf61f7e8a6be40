//! What IQ4_NL and IQ4_XS share: sixteen unevenly spaced values that four-bit
//! codes stand for, denser around zero, where most weights are.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::scalars::map_array;
use super::scale_search::{NEGLIGIBLE, peak};
use super::small_blocks::{pack_nibbles, unpack_nibbles};
use super::weights::scaled;

/// Weights that are searched together.
pub(super) const WEIGHTS: usize = 32;

/// A block of IQ4_NL, or a sub-block of IQ4_XS.
pub(super) type Block = [f32; WEIGHTS];

/// Values that codes stand for, before scaling.
const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Halfway points between neighbouring values: from the first on, code 1 is
/// nearer than code 0, and so on.
const MIDPOINTS: [f32; 15] = {
    let mut points = [0.0; 15];
    let mut i = 0;
    while i < points.len() {
        points[i] = (VALUES[i] as f32 + VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    points
};

/// Scales tried on either side of the first guess.
const STEPS: i8 = 7;

/// The nearest codes; halfway, the upper ones. NaN gives the last, as in ggml,
/// whose search finds every comparison with it false.
#[inline(always)]
fn nearest_codes<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let one = isa.splat(1.0);
    let mut code = isa.splat(0.0);
    for point in MIDPOINTS {
        code = Vector::select(x.lt(isa.splat(point)), code, code + one);
    }
    code
}

/// The values of the nearest codes.
#[inline(always)]
fn nearest_values<I: Isa>(isa: I, x: I::F32) -> I::F32 {
    let mut value = isa.splat(f32::from(VALUES[0]));
    for i in 0..MIDPOINTS.len() {
        let gap = isa.splat(f32::from(VALUES[i + 1]) - f32::from(VALUES[i]));
        value = Vector::select(x.lt(isa.splat(MIDPOINTS[i])), value, value + gap);
    }
    value
}

/// The scale with the smallest weighted squared error in each lane, of those that
/// ggml tries (`quantize_row_iq4_nl_impl`): the one that maps the peak to the
/// table's largest magnitude, and fifteen around it. It is negative where the
/// peak is positive, since the table reaches further down than up.
#[inline(always)]
pub(super) fn fit<I: Isa>(isa: I, x: &[I::F32; WEIGHTS], weight: &[I::F32; WEIGHTS]) -> I::F32 {
    let zero = isa.splat(0.0);
    let lowest = f32::from(VALUES[0]);
    let (peak, magnitude) = peak(isa, x);
    let first = isa.splat(1.0) / (peak * isa.splat(-1.0) / isa.splat(lowest));
    let (sum_qx, sum_qq) = project(isa, x, weight, first);
    let mut scale = Vector::select(sum_qq.gt(zero), sum_qx / sum_qq, zero);
    let mut best = scale * sum_qx;
    for step in -STEPS..=STEPS {
        let inverse = isa.splat(f32::from(step) + lowest) / peak;
        let (sum_qx, sum_qq) = project(isa, x, weight, inverse);
        let better = sum_qq.gt(zero) & (sum_qx * sum_qx).gt(best * sum_qq);
        scale = Vector::select(better, sum_qx / sum_qq, scale);
        best = Vector::select(better, scale * sum_qx, best);
    }
    Vector::select(magnitude.lt(isa.splat(NEGLIGIBLE)), zero, scale)
}

/// Σ w·q·x and Σ w·q² for the values q of the codes that an inverse scale gives.
#[inline(always)]
fn project<I: Isa>(
    isa: I,
    x: &[I::F32; WEIGHTS],
    weight: &[I::F32; WEIGHTS],
    inverse: I::F32,
) -> (I::F32, I::F32) {
    let (mut sum_qx, mut sum_qq) = (isa.splat(0.0), isa.splat(0.0));
    for i in 0..WEIGHTS {
        let q = nearest_values(isa, inverse * x[i]);
        let wq = weight[i] * q;
        sum_qx = sum_qx + wq * x[i];
        sum_qq = sum_qq + wq * q;
    }
    (sum_qx, sum_qq)
}

/// 1 ÷ scale; 0 for 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Packs codes for an inverse scale: code `j` and code `j + 16` share a byte.
#[inline(always)]
pub(super) fn pack<I: Isa>(isa: I, x: &Block, inverse: f32, out: &mut [u8; WEIGHTS / 2]) {
    let inverse = isa.splat(inverse);
    let mut codes = [0; WEIGHTS];
    for at in (0..WEIGHTS).step_by(I::LANES) {
        let scaled = inverse * isa.load(&x[at..]);
        nearest_codes(isa, scaled).store_bytes(&mut codes[at..]);
    }
    *out = pack_nibbles(&codes);
}

/// The weights behind [`pack`].
#[inline(always)]
pub(super) fn unpack<I: Isa>(isa: I, codes: &[u8; WEIGHTS / 2], scale: f32, out: &mut Block) {
    let values = map_array(&unpack_nibbles(codes), |code| {
        VALUES[usize::from(code)] as u8
    });
    scaled(isa, &values, scale, out);
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    fn nearest(x: f32) -> u8 {
        let mut code = [0];
        nearest_codes(Scalar, Scalar.splat(x)).store_bytes(&mut code);
        let mut value = [0.0];
        nearest_values(Scalar, Scalar.splat(x)).store(&mut value);
        assert_eq!(value[0], f32::from(VALUES[usize::from(code[0])]));
        code[0]
    }

    #[test]
    fn codes_are_the_nearest_and_the_upper_one_halfway() {
        for (code, value) in VALUES.iter().enumerate() {
            assert_eq!(usize::from(nearest(f32::from(*value))), code);
        }
        assert_eq!((nearest(-115.5), nearest(-115.6)), (1, 0));
        assert_eq!((nearest(-4.5), nearest(-4.6), nearest(0.0)), (8, 7, 8));
        assert_eq!((nearest(-1e9), nearest(1e9)), (0, 15));
        assert_eq!((nearest(f32::NEG_INFINITY), nearest(f32::NAN)), (0, 15));
    }

    #[test]
    fn the_first_of_equal_peaks_decides() {
        let peak_of = |places: &[(usize, f32)]| {
            let mut x = [Scalar.splat(0.0); WEIGHTS];
            for &(at, value) in places {
                x[at] = Scalar.splat(value);
            }
            peak(Scalar, &x).0.max_lane()
        };
        assert_eq!(peak_of(&[(3, 2.0), (4, -2.0)]), 2.0);
        assert_eq!(peak_of(&[(2, -2.0), (3, 2.0)]), -2.0);
    }
}
