//! Q5_0 and Q5_1: blocks of 32 weights with five-bit codes, the fifth bits in a
//! word of their own.
//!
//! Q5_0: weight = scale × (code − 16). Q5_1: weight = scale × code + minimum.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::f16_bytes;
use super::plain;
use super::scalars::map_array;
use super::small_blocks::{
    Codes, WEIGHTS, encode_affine, encode_symmetric, pack_fifth_bits, pack_nibbles,
    unpack_five_bits,
};
use super::validate::Check;
use super::weights::{scaled, scaled_from, widened};

/// Bytes in a Q5_0 block: scale, fifth bits, then two low halves a byte.
pub(super) const Q5_0_BYTES: usize = 22;
/// Bytes in a Q5_1 block: scale, minimum, fifth bits, then two low halves a
/// byte.
pub(super) const Q5_1_BYTES: usize = 24;

/// Added to Q5_0 codes.
const HALF: u8 = 16;
const MAX_CODE: u8 = 31;

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Q5_0;

impl Codec for Q5_0 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q5_0",
        id: 6,
        block_weights: WEIGHTS,
        block_bytes: Q5_0_BYTES,
    };
    const CHECK: Check = Check::Scales(&[0]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_q5_0(isa, row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode_q5_0(isa, bytes, out);
    }
}

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Q5_1;

impl Codec for Q5_1 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q5_1",
        id: 7,
        block_weights: WEIGHTS,
        block_bytes: Q5_1_BYTES,
    };
    const CHECK: Check = Check::Scales(&[0, 2]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_q5_1(isa, row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode_q5_1(isa, bytes, out);
    }
}

#[inline(always)]
pub(super) fn encode_q5_0<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let out = out.as_chunks_mut::<Q5_0_BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in plain::groups::<I>(row).zip(out.chunks_mut(I::LANES)) {
            let fits = plain::fit_symmetric(isa, x, HALF);
            for (k, (x, out)) in x.iter().zip(out).enumerate() {
                pack_q5_0(fits.scale[k], &fits.codes(isa, k, x), out);
            }
        }
        return;
    };
    encode_symmetric(isa, row, importance, HALF, |at, scale, codes| {
        pack_q5_0(f16_bytes(scale), codes, &mut out[at]);
    });
}

#[inline(always)]
fn pack_q5_0(scale: [u8; 2], codes: &Codes, out: &mut [u8; Q5_0_BYTES]) {
    let [d0, d1, h0, h1, h2, h3, packed @ ..] = out;
    [*d0, *d1] = scale;
    [*h0, *h1, *h2, *h3] = pack_fifth_bits(codes);
    *packed = pack_nibbles(codes);
}

#[inline(always)]
pub(super) fn decode_q5_0<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q5_0_BYTES>().0.chunks(I::LANES);
    for (blocks, out) in blocks.zip(plain::groups_mut::<I>(out)) {
        let scales = widened(isa, blocks, 0);
        for ((block, out), scale) in blocks.iter().zip(out).zip(scales) {
            let [_, _, h0, h1, h2, h3, packed @ ..] = block;
            let codes = map_array(&unpack_five_bits(packed, [*h0, *h1, *h2, *h3]), |code| {
                code.wrapping_sub(HALF)
            });
            scaled(isa, &codes, scale, out);
        }
    }
}

#[inline(always)]
pub(super) fn encode_q5_1<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let out = out.as_chunks_mut::<Q5_1_BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in plain::groups::<I>(row).zip(out.chunks_mut(I::LANES)) {
            let fits = plain::fit_affine(isa, x, MAX_CODE);
            for (k, (x, out)) in x.iter().zip(out).enumerate() {
                pack_q5_1(fits.scale[k], fits.low[k], &fits.codes(isa, k, x), out);
            }
        }
        return;
    };
    encode_affine(isa, row, importance, MAX_CODE, |at, scale, low, codes| {
        pack_q5_1(f16_bytes(scale), f16_bytes(low), codes, &mut out[at]);
    });
}

#[inline(always)]
fn pack_q5_1(scale: [u8; 2], low: [u8; 2], codes: &Codes, out: &mut [u8; Q5_1_BYTES]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, packed @ ..] = out;
    [*d0, *d1] = scale;
    [*m0, *m1] = low;
    [*h0, *h1, *h2, *h3] = pack_fifth_bits(codes);
    *packed = pack_nibbles(codes);
}

#[inline(always)]
pub(super) fn decode_q5_1<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q5_1_BYTES>().0.chunks(I::LANES);
    for (blocks, out) in blocks.zip(plain::groups_mut::<I>(out)) {
        let (scales, lows) = (widened(isa, blocks, 0), widened(isa, blocks, 2));
        for ((block, out), fit) in blocks.iter().zip(out).zip(scales.into_iter().zip(lows)) {
            let [_, _, _, _, h0, h1, h2, h3, packed @ ..] = block;
            scaled_from(
                isa,
                &unpack_five_bits(packed, [*h0, *h1, *h2, *h3]),
                fit,
                out,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn q5_0_holds_integers_from_minus_16_to_15() {
        let x: [f32; WEIGHTS] = std::array::from_fn(|i| i as f32 - 16.0);
        let mut out = [0; Q5_0_BYTES];
        encode_q5_0(Scalar, &x, None, &mut out);
        assert_eq!(out[..7], [0x00, 0x3c, 0, 0, 0xff, 0xff, 0x00]);
        let mut back = [0.0; WEIGHTS];
        decode_q5_0(Scalar, &out, &mut back);
        assert_eq!(back, x);
    }

    #[test]
    fn q5_1_holds_an_offset_grid() {
        let x: [f32; WEIGHTS] = std::array::from_fn(|i| i as f32 * 0.25 - 2.0);
        for importance in [None, Some([1.0; WEIGHTS])] {
            let mut out = [0; Q5_1_BYTES];
            encode_q5_1(Scalar, &x, importance.as_ref().map(|i| &i[..]), &mut out);
            let mut back = [0.0; WEIGHTS];
            decode_q5_1(Scalar, &out, &mut back);
            assert!(x.iter().zip(back).all(|(a, b)| (a - b).abs() <= 2e-3));
        }
    }
}
