//! TQ1_0: blocks of 256 ternary weights, five to a byte, and one half-precision
//! scale; for models trained with weights of −1, 0 and 1 (BitNet, TriLM).
//!
//! Weight = scale × (code − 1), where the scale is the largest magnitude. Five
//! codes are the digits, to base three, of a number below 3⁵ = 243; what is
//! stored is its fraction of 243 in 256ths, rounded up, so that multiplying by
//! three pushes the digits out one by one. Importance weights have no part in it.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::super_block::WEIGHTS;
use super::tq2_0::ternary;
use super::validate::Check;

/// Bytes in a block: 32 + 16 bytes of five codes, 4 bytes of four, scale.
pub(super) const BYTES: usize = 54;

/// The parts of a block: (bytes, codes in each). Byte `m` of a part has the codes
/// `m`, `m + bytes`, `m + 2 × bytes`, … of the part's weights.
const PARTS: [(usize, usize); 3] = [(32, 5), (16, 5), (4, 4)];
/// The most bytes in a part.
const MOST: usize = 32;

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Tq1_0;

impl Codec for Tq1_0 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "TQ1_0",
        id: 34,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[52]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<WEIGHTS>().0;
        for (x, out) in blocks.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            encode_block(isa, x, out);
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

#[inline(always)]
fn encode_block<I: Isa>(isa: I, x: &[f32; WEIGHTS], out: &mut [u8; BYTES]) {
    let (scale, codes) = ternary(isa, x);
    let [bytes @ .., d0, d1] = out;
    [*d0, *d1] = f16_bytes(scale);
    let (mut codes, mut bytes) = (&codes[..], &mut bytes[..]);
    for (count, digits) in PARTS {
        let (part, rest) = codes.split_at(count * digits);
        let (packed, rest_bytes) = std::mem::take(&mut bytes).split_at_mut(count);
        let mut numbers = [0_u16; MOST];
        for codes in part.chunks_exact(count) {
            for (number, code) in numbers.iter_mut().zip(codes) {
                *number = *number * 3 + u16::from(*code);
            }
        }
        for (packed, number) in packed.iter_mut().zip(numbers) {
            // The last part has four digits: leave the fifth place empty.
            let number = u32::from(number) * [1, 3][5 - digits];
            *packed = (number * 256).div_ceil(243) as u8;
        }
        (codes, bytes) = (rest, rest_bytes);
    }
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        decode_block(block, out);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; WEIGHTS]) {
    let [bytes @ .., d0, d1] = block;
    let scale = get_f16([*d0, *d1]);
    let (mut bytes, mut out) = (&bytes[..], &mut out[..]);
    for (count, codes) in PARTS {
        let (packed, rest) = bytes.split_at(count);
        let (part, rest_out) = std::mem::take(&mut out).split_at_mut(count * codes);
        let mut power = 1_u8;
        for values in part.chunks_exact_mut(count) {
            for (value, packed) in values.iter_mut().zip(packed) {
                let fraction = packed.wrapping_mul(power);
                let code = (u16::from(fraction) * 3) >> 8;
                *value = (f32::from(code) - 1.0) * scale;
            }
            power = power.wrapping_mul(3);
        }
        (bytes, out) = (rest, rest_out);
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn ternary_weights_come_back_exactly() {
        let x: [f32; WEIGHTS] = std::array::from_fn(|i| [-0.5, 0.0, 0.5][(i * i / 7 + i / 32) % 3]);
        let (mut out, mut back) = ([0xaa; BYTES], [1.0; WEIGHTS]);
        Tq1_0::encode(Scalar, &x, None, &mut out);
        decode(&out, &mut back);
        assert_eq!(back, x);
        assert_eq!(out[52..], [0x00, 0x38]);
    }

    #[test]
    fn a_byte_has_five_digits_the_first_weight_highest() {
        let mut x = [0.0; WEIGHTS];
        let mut out = [0; BYTES];
        // Digits 2 1 0 1 1 of byte 3: 2·81 + 1·27 + 0·9 + 1·3 + 1 = 193.
        (x[3], x[3 + 64]) = (1.0, -1.0);
        // Digits 1 1 1 2 of the last byte: (27 + 9 + 3 + 2) · 3 = 123.
        x[255] = 1.0;
        Tq1_0::encode(Scalar, &x, None, &mut out);
        assert_eq!(out[3], (193_u32 * 256).div_ceil(243) as u8);
        assert_eq!(out[51], (123_u32 * 256).div_ceil(243) as u8);
        // All others: 1 1 1 1 1 = 121, and 1 1 1 1 0 = 120.
        assert_eq!((out[0], out[47], out[48]), (128, 128, 127));
    }

    #[test]
    fn zero_and_vanishing_blocks_are_zero() {
        for x in [[0.0; WEIGHTS], [1e-40; WEIGHTS]] {
            let (mut out, mut back) = ([0xaa; BYTES], [1.0; WEIGHTS]);
            Tq1_0::encode(Scalar, &x, None, &mut out);
            decode(&out, &mut back);
            assert_eq!(back, [0.0; WEIGHTS]);
            assert_eq!(out[52..], [0, 0]);
        }
    }
}
