//! Plain floating-point rows (F32, F16, BF16) and the 16-bit conversions that
//! block scales use.
//!
//! The conversions are bit tricks without branches or lookups, so that rows of
//! them become vector code, and equal to ggml's in every case, subnormal
//! numbers and NaN included.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::validate::Check;

/// The codec.
pub(super) struct F32;

impl Codec for F32 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "F32",
        id: 0,
        block_weights: 1,
        block_bytes: 4,
    };
    const CHECK: Check = Check::F32;

    #[inline(always)]
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_f32(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode_f32(bytes, out);
    }
}

/// The codec.
pub(super) struct F16;

impl Codec for F16 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "F16",
        id: 1,
        block_weights: 1,
        block_bytes: 2,
    };
    const CHECK: Check = Check::F16;

    #[inline(always)]
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_f16(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode_f16(bytes, out);
    }
}

/// The codec.
pub(super) struct BF16;

impl Codec for BF16 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "BF16",
        id: 30,
        block_weights: 1,
        block_bytes: 2,
    };
    const CHECK: Check = Check::BF16;

    #[inline(always)]
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_bf16(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode_bf16(bytes, out);
    }
}

/// Bits of the half-precision number nearest to `value`, ties to even.
/// Overflow gives infinity; every NaN becomes the quiet one with its sign.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let doubled = bits << 1;

    // Scaling up saturates what is too large to infinity, scaling back leaves
    // the magnitude × 4. Adding a power of two that is 2^13 units of the
    // result above then makes the addition itself round to half precision.
    let scale_up = f32::from_bits(0x7780_0000); // 2^112
    let scale_down = f32::from_bits(0x0880_0000); // 2^-110
    let magnitude = (value.abs() * scale_up) * scale_down;
    let exponent = (doubled & 0xff00_0000).max(0x7100_0000);
    let anchored = f32::from_bits((exponent >> 1) + 0x0780_0000) + magnitude;

    let rounded = anchored.to_bits();
    let number = ((rounded >> 13) & 0x7c00) + (rounded & 0x0fff);
    let is_nan = doubled > 0xff00_0000;
    sign | if is_nan { 0x7e00 } else { number as u16 }
}

/// Value of the half-precision number with the given bits. NaNs become quiet
/// and keep sign and payload.
#[inline(always)]
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let bits = u32::from(half);
    let sign = (bits & 0x8000) << 16;
    let magnitude = bits & 0x7fff;

    let shifted = magnitude << 13;
    let normal = shifted + ((127 - 15) << 23);
    // Infinity and NaN need the rest of the exponent; NaN the quiet bit too.
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    let special = shifted | 0x7f80_0000 | quiet;
    // A subnormal half is magnitude × 2^-24, exact in single precision.
    let subnormal = (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits();

    let number = if magnitude >= 0x7c00 {
        special
    } else if magnitude < 0x0400 {
        subnormal
    } else {
        normal
    };
    f32::from_bits(sign | number)
}

/// Bits of the bfloat16 number nearest to `value`, ties to even; NaNs become
/// quiet.
#[inline(always)]
fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return ((bits >> 16) | 64) as u16;
    }
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// A half-precision scale as it is stored in a block.
#[inline(always)]
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    f32_to_f16(value).to_le_bytes()
}

/// Loads a half-precision scale.
#[inline(always)]
pub(super) fn get_f16(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}

/// Whether no value is NaN or infinite.
#[inline(always)]
pub(super) fn all_finite(values: &[f32]) -> bool {
    // Adding one to an exponent of all ones carries into the sign bit. Collected
    // without an early exit, the test takes two instructions a vector.
    let mut carries = 0;
    for value in values {
        carries |= (value.to_bits() & 0x7fff_ffff) + 0x0080_0000;
    }
    carries >> 31 == 0
}

#[inline(always)]
pub(super) fn encode_f32(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(row) {
        *bytes = value.to_le_bytes();
    }
}

#[inline(always)]
pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *value = f32::from_le_bytes(*bytes);
    }
}

#[inline(always)]
pub(super) fn encode_f16(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
        *bytes = f16_bytes(value);
    }
}

#[inline(always)]
pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = get_f16(*bytes);
    }
}

#[inline(always)]
pub(super) fn encode_bf16(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    for (bytes, &value) in out.as_chunks_mut::<2>().0.iter_mut().zip(row) {
        *bytes = f32_to_bf16(value).to_le_bytes();
    }
}

#[inline(always)]
pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_agrees_with_the_half_crate_and_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let ours = f16_to_f32(bits);
            let theirs = half::f16::from_bits(bits).to_f32_const();
            if ours.is_nan() {
                assert!(theirs.is_nan());
                assert_eq!(f32_to_f16(ours), 0x7e00 | (bits & 0x8000));
            } else {
                assert_eq!(ours.to_bits(), theirs.to_bits(), "{bits:#06x}");
                assert_eq!(f32_to_f16(ours), bits);
            }
        }
    }

    #[test]
    fn narrowing_agrees_with_the_half_crate_on_a_walk_over_all_exponents() {
        let mut bits = 0_u32;
        while bits < 0x7f80_0000 {
            for value in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let half = half::f16::from_f32_const(value).to_bits();
                assert_eq!(f32_to_f16(value), half, "{value:e}");
                let brain = half::bf16::from_f32_const(value).to_bits();
                assert_eq!(f32_to_bf16(value), brain, "{value:e}");
            }
            bits += 1021; // odd, so that ties and their neighbours turn up
        }
    }

    #[test]
    fn ties_go_to_even_and_overflow_to_infinity() {
        assert_eq!(f32_to_f16(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(f32_to_f16(1.0 + 3.0 / 2048.0), 0x3c02);
        assert_eq!(f32_to_f16(65519.0), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(-1e30), 0xfc00);
        assert_eq!(f32_to_bf16(f32::NAN) & 0x7fff, 0x7fc0);
    }

    #[test]
    fn a_single_value_that_is_not_finite_is_noticed() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..41 {
                let mut values = [f32::MAX, -f32::MAX, 0.0, -1e-45].repeat(11);
                assert!(all_finite(&values));
                values[at] = bad;
                assert!(!all_finite(&values));
            }
        }
        assert!(all_finite(&[]));
    }

    #[test]
    fn float_rows_are_little_endian() {
        let mut out = [0; 8];
        encode_f32(&[1.0, -2.0], None, &mut out);
        assert_eq!(out, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        let mut out = [0; 4];
        encode_bf16(&[1.0, -2.0], None, &mut out);
        assert_eq!(out, [0x80, 0x3f, 0, 0xc0]);
        encode_f16(&[1.0, -2.0], None, &mut out);
        assert_eq!(out, [0, 0x3c, 0, 0xc0]);
        let mut back = [0.0; 2];
        decode_f16(&out, &mut back);
        assert_eq!(back, [1.0, -2.0]);
    }
}
