//! Plain floating-point rows (F32, F16, BF16) and the half-precision scales of
//! blocks.

use llm_quantize_plugin_api::kernels::float16;
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
    fn encode<I: Isa>(_: I, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (bytes, value) in out.as_chunks_mut().0.iter_mut().zip(row) {
            *bytes = value.to_le_bytes();
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        for (value, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
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
    fn encode<I: Isa>(isa: I, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        float16::f32s_to_f16s(isa, row, out.as_chunks_mut().0);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        float16::f16s_to_f32s(isa, bytes.as_chunks().0, out);
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
    fn encode<I: Isa>(isa: I, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        float16::f32s_to_bf16s(isa, row, out.as_chunks_mut().0);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        float16::bf16s_to_f32s(isa, bytes.as_chunks().0, out);
    }
}

/// A half-precision scale as it is stored in a block.
#[inline(always)]
pub(super) fn f16_bytes(value: f32) -> [u8; 2] {
    float16::f32_to_f16(value)
}

/// Loads a half-precision scale.
#[inline(always)]
pub(super) fn get_f16(bytes: [u8; 2]) -> f32 {
    float16::f16_to_f32(bytes)
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

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

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
        let row = [1.0, -2.0];
        let mut out = [0; 8];
        F32::encode(Scalar, &row, None, &mut out);
        assert_eq!(out, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
        let mut out = [0; 4];
        BF16::encode(Scalar, &row, None, &mut out);
        assert_eq!(out, [0x80, 0x3f, 0, 0xc0]);
        F16::encode(Scalar, &row, None, &mut out);
        assert_eq!(out, [0, 0x3c, 0, 0xc0]);
        let mut back = [0.0; 2];
        F16::decode(Scalar, &out, &mut back);
        assert_eq!(back, row);
    }
}
