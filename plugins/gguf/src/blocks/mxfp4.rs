//! MXFP4: blocks of 32 four-bit floating-point numbers (E2M1) and a power of two
//! (E8M0) that scales them; the OCP's microscaling format, as in gpt-oss.
//!
//! Weight = 2^(exponent − 128) × twice the E2M1 value, which makes the values
//! integers. Importance weights have no part in it.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::scalars::map_array;
use super::small_blocks::{WEIGHTS, pack_nibbles, unpack_nibbles};
use super::validate::Check;
use super::weights::scaled;

/// Bytes in a block: exponent, then 16 bytes of codes.
pub(super) const BYTES: usize = 17;

/// Twice the values of E2M1: sign, two exponent bits, one fraction bit.
const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The codec.
pub(super) struct Mxfp4;

impl Codec for Mxfp4 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "MXFP4",
        id: 39,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Exponent(0);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<WEIGHTS>().0;
        for (x, out) in blocks.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            encode_block(isa, x, out);
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

#[inline(always)]
fn encode_block<I: Isa>(isa: I, x: &[f32; WEIGHTS], out: &mut [u8; BYTES]) {
    let [exponent, packed @ ..] = out;
    *exponent = exponent_for(isa, x);
    let scale = half_scale(*exponent);
    let mut codes = [0; WEIGHTS];
    for at in (0..WEIGHTS).step_by(I::LANES) {
        nearest(isa, isa.load(&x[at..]), scale).store_bytes(&mut codes[at..]);
    }
    *packed = pack_nibbles(&codes);
}

/// The exponent that puts the largest magnitude between E2M1's 4 and 8; 0 for a
/// block of zeros.
///
/// For magnitudes below 2⁻¹²⁵ it would be negative. ggml leaves the conversion to
/// the processor, which keeps the low eight bits; so do we, to have its bytes.
/// The block then decodes to zeros, or is invalid (255) just below the limit.
#[inline(always)]
fn exponent_for<I: Isa>(isa: I, x: &[f32; WEIGHTS]) -> u8 {
    let mut largest = isa.splat(0.0);
    for at in (0..WEIGHTS).step_by(I::LANES) {
        largest = isa.load(&x[at..]).abs().larger(largest);
    }
    let largest = largest.max_lane();
    if largest == 0.0 {
        return 0;
    }
    (whole_logarithm(largest) - 2 + 127) as u8
}

/// The whole part of a number's logarithm to base 2, which in single precision is
/// rounded before its fraction is cut off: just below a power of two it is that
/// power's, and ggml's choice depends on it.
#[inline(always)]
fn whole_logarithm(value: f32) -> i32 {
    const FRACTION: u32 = 0x007f_ffff;
    // Nearer to the next power than 2^-15, more than any rounding.
    const LAST: u32 = FRACTION - 0xff;
    let bits = value.to_bits();
    if value.is_normal() && bits & FRACTION < LAST {
        return (bits >> 23) as i32 - 127;
    }
    // Rounded from double precision, it is the same with every system's library.
    (f64::from(value).log2() as f32).floor() as i32
}

/// 2^(exponent − 128): half of what E8M0 says, since [`VALUES`] are doubled.
#[inline(always)]
fn half_scale(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        // Subnormal numbers: 2⁻¹²⁸ and 2⁻¹²⁷.
        0 => 0x0020_0000,
        1 => 0x0040_0000,
        _ => (u32::from(exponent) - 1) << 23,
    })
}

/// The codes whose values are nearest; the first of equally near ones. What is
/// nearest to a magnitude is, with the sign, nearest to the number; zero stays the
/// first of all.
#[inline(always)]
fn nearest<I: Isa>(isa: I, x: I::F32, scale: f32) -> I::F32 {
    let zero = isa.splat(0.0);
    let magnitude = x.abs();
    let (mut best, mut best_error) = (zero, magnitude);
    for (code, value) in (0_u8..).zip(VALUES).take(8).skip(1) {
        let error = (isa.splat(f32::from(value) * scale) - magnitude).abs();
        let closer = error.lt(best_error);
        best = Vector::select(closer, isa.splat(f32::from(code)), best);
        best_error = error.smaller(best_error);
    }
    let negative = x.lt(zero) & best.gt(zero);
    Vector::select(negative, best + isa.splat(8.0), best)
}

#[inline(always)]
pub(super) fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [exponent, codes @ ..] = block;
        let scale = half_scale(*exponent);
        let values = map_array(&unpack_nibbles(codes), |code| {
            VALUES[usize::from(code)] as u8
        });
        scaled(isa, &values, scale, out);
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    fn block(values: &[f32]) -> [f32; WEIGHTS] {
        std::array::from_fn(|i| values.get(i).copied().unwrap_or(0.0))
    }

    fn encoded(x: &[f32; WEIGHTS]) -> [u8; BYTES] {
        let mut out = [0xaa; BYTES];
        Mxfp4::encode(Scalar, x, None, &mut out);
        out
    }

    #[test]
    fn e2m1_numbers_come_back_exactly() {
        let x = block(&[0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.5, -6.0, -3.0]);
        let mut back = [1.0; WEIGHTS];
        for power in [1.0, 1024.0, 2.0_f32.powi(-100)] {
            let x = x.map(|x| x * power);
            decode(Scalar, &encoded(&x), &mut back);
            assert_eq!(back, x);
        }
        let out = encoded(&x);
        assert_eq!(out[0], 127);
        assert_eq!(out[1..11], [1, 2, 3, 4, 5, 6, 7, 9, 15, 13]);
    }

    #[test]
    fn the_second_sixteen_weights_are_in_the_high_halves() {
        let mut x = block(&[4.0]);
        x[16] = -2.0;
        assert_eq!(encoded(&x)[1], 0xc6);
    }

    #[test]
    fn halfway_goes_to_the_smaller_magnitude() {
        let out = encoded(&block(&[4.0, 2.5, 0.25, -2.5, 7.0]));
        assert_eq!(out[1..6], [6, 4, 0, 12, 7]);
    }

    #[test]
    fn a_logarithm_that_rounds_up_counts_as_the_power_itself() {
        let below = |power: f32| power.next_down();
        let exponent = |largest| encoded(&block(&[largest]))[0];
        assert_eq!((exponent(2.0), exponent(below(2.0))), (126, 125));
        // log2 of the number below 8 is 3 to single precision.
        assert_eq!((exponent(8.0), exponent(below(8.0))), (128, 128));
        assert_eq!((exponent(7.9), exponent(f32::MAX)), (127, 253));
    }

    #[test]
    fn whole_logarithms_are_those_of_single_precision() {
        let slow = |value: f32| (f64::from(value).log2() as f32).floor() as i32;
        for exponent in -126..128 {
            let power = 2.0_f32.powi(exponent);
            let steps = [
                1.0,
                1.000_000_1,
                1.5,
                1.999,
                1.999_96,
                1.999_98,
                1.999_99,
                1.999_999_9,
            ];
            for value in steps.map(|step| step * power) {
                assert_eq!(whole_logarithm(value), slow(value), "{value:e}");
            }
        }
        assert_eq!(whole_logarithm(1e-40), slow(1e-40));
    }

    #[test]
    fn zeros_and_the_smallest_numbers() {
        assert_eq!(encoded(&block(&[])), [0; BYTES]);
        // 2⁻¹²⁵ is the smallest magnitude with an exponent.
        assert_eq!(encoded(&block(&[2.0_f32.powi(-125)]))[..2], [0, 6]);
        assert_eq!(encoded(&block(&[f32::MIN_POSITIVE]))[..2], [0xff, 0]);
        assert_eq!(encoded(&block(&[1e-40]))[..2], [248, 0]);
    }

    #[test]
    fn scales_are_powers_of_two() {
        assert_eq!(half_scale(128), 1.0);
        assert_eq!(half_scale(127), 0.5);
        assert_eq!(half_scale(2), f32::MIN_POSITIVE);
        assert_eq!(half_scale(1), f32::MIN_POSITIVE / 2.0);
        assert_eq!(half_scale(0), f32::MIN_POSITIVE / 4.0);
    }
}
