//! Q4_0 and Q4_1: blocks of 32 weights with four-bit codes.
//!
//! Q4_0: weight = scale × (code − 8). Q4_1: weight = scale × code + minimum.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::f16_bytes;
use super::plain;
use super::scalars::map_array;
use super::small_blocks::{
    Codes, WEIGHTS, encode_affine, encode_symmetric, pack_nibbles, unpack_nibbles,
};
use super::validate::Check;
use super::weights::{scaled, scaled_from, widened};

/// Bytes in a Q4_0 block: scale, then two codes a byte.
pub(super) const Q4_0_BYTES: usize = 18;
/// Bytes in a Q4_1 block: scale, minimum, then two codes a byte.
pub(super) const Q4_1_BYTES: usize = 20;

/// Added to Q4_0 codes.
const HALF: u8 = 8;
const MAX_CODE: u8 = 15;

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Q4_0;

impl Codec for Q4_0 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q4_0",
        id: 2,
        block_weights: WEIGHTS,
        block_bytes: Q4_0_BYTES,
    };
    const CHECK: Check = Check::Scales(&[0]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_q4_0(isa, row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode_q4_0(isa, bytes, out);
    }
}

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Q4_1;

impl Codec for Q4_1 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q4_1",
        id: 3,
        block_weights: WEIGHTS,
        block_bytes: Q4_1_BYTES,
    };
    const CHECK: Check = Check::Scales(&[0, 2]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode_q4_1(isa, row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode_q4_1(isa, bytes, out);
    }
}

#[inline(always)]
pub(super) fn encode_q4_0<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let out = out.as_chunks_mut::<Q4_0_BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in plain::groups::<I>(row).zip(out.chunks_mut(I::LANES)) {
            let fits = plain::fit_symmetric(isa, x, HALF);
            for (k, (x, out)) in x.iter().zip(out).enumerate() {
                pack_q4_0(fits.scale[k], &fits.codes(isa, k, x), out);
            }
        }
        return;
    };
    encode_symmetric(isa, row, importance, HALF, |at, scale, codes| {
        pack_q4_0(f16_bytes(scale), codes, &mut out[at]);
    });
}

#[inline(always)]
fn pack_q4_0(scale: [u8; 2], codes: &Codes, out: &mut [u8; Q4_0_BYTES]) {
    let [d0, d1, packed @ ..] = out;
    [*d0, *d1] = scale;
    *packed = pack_nibbles(codes);
}

#[inline(always)]
pub(super) fn decode_q4_0<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q4_0_BYTES>().0.chunks(I::LANES);
    for (blocks, out) in blocks.zip(plain::groups_mut::<I>(out)) {
        let scales = widened(isa, blocks, 0);
        for ((block, out), scale) in blocks.iter().zip(out).zip(scales) {
            let [_, _, packed @ ..] = block;
            let codes = map_array(&unpack_nibbles(packed), |code| code.wrapping_sub(HALF));
            scaled(isa, &codes, scale, out);
        }
    }
}

#[inline(always)]
pub(super) fn encode_q4_1<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let out = out.as_chunks_mut::<Q4_1_BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in plain::groups::<I>(row).zip(out.chunks_mut(I::LANES)) {
            let fits = plain::fit_affine(isa, x, MAX_CODE);
            for (k, (x, out)) in x.iter().zip(out).enumerate() {
                pack_q4_1(fits.scale[k], fits.low[k], &fits.codes(isa, k, x), out);
            }
        }
        return;
    };
    encode_affine(isa, row, importance, MAX_CODE, |at, scale, low, codes| {
        pack_q4_1(f16_bytes(scale), f16_bytes(low), codes, &mut out[at]);
    });
}

#[inline(always)]
fn pack_q4_1(scale: [u8; 2], low: [u8; 2], codes: &Codes, out: &mut [u8; Q4_1_BYTES]) {
    let [d0, d1, m0, m1, packed @ ..] = out;
    [*d0, *d1] = scale;
    [*m0, *m1] = low;
    *packed = pack_nibbles(codes);
}

#[inline(always)]
pub(super) fn decode_q4_1<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q4_1_BYTES>().0.chunks(I::LANES);
    for (blocks, out) in blocks.zip(plain::groups_mut::<I>(out)) {
        let (scales, lows) = (widened(isa, blocks, 0), widened(isa, blocks, 2));
        for ((block, out), fit) in blocks.iter().zip(out).zip(scales.into_iter().zip(lows)) {
            let [_, _, _, _, packed @ ..] = block;
            scaled_from(isa, &unpack_nibbles(packed), fit, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn q4_0_stores_the_peak_as_minus_eight() {
        let mut x = [0.0; WEIGHTS];
        (x[1], x[17]) = (-8.0, 7.0);
        let mut out = [0; Q4_0_BYTES];
        encode_q4_0(Scalar, &x, None, &mut out);
        assert_eq!(out[..4], [0x00, 0x3c, 0x88, 0xf0]);
        let mut back = [1.0; WEIGHTS];
        decode_q4_0(Scalar, &out, &mut back);
        assert_eq!(back, x);
    }

    #[test]
    fn q4_1_spans_minimum_to_maximum() {
        let x: [f32; WEIGHTS] = std::array::from_fn(|i| (i % 16) as f32 * 0.5 + 3.0);
        for importance in [None, Some([1.0; WEIGHTS])] {
            let mut out = [0; Q4_1_BYTES];
            encode_q4_1(Scalar, &x, importance.as_ref().map(|i| &i[..]), &mut out);
            let mut back = [0.0; WEIGHTS];
            decode_q4_1(Scalar, &out, &mut back);
            // With importances the minimum is at most zero and the steps wider.
            let bound = if importance.is_none() { 1e-3 } else { 0.36 };
            assert!(x.iter().zip(back).all(|(a, b)| (a - b).abs() <= bound));
        }
    }
}
