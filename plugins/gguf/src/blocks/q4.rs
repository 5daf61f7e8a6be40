//! Q4_0 and Q4_1: blocks of 32 weights with four-bit codes.
//!
//! Q4_0: weight = scale × (code − 8). Q4_1: weight = scale × code + minimum.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::small_blocks::{
    Codes, WEIGHTS, encode_affine, encode_symmetric, pack_nibbles, quantize_affine,
    quantize_symmetric, unpack_nibbles,
};
use super::validate::Check;

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
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode_q4_0(bytes, out);
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
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode_q4_1(bytes, out);
    }
}

#[inline(always)]
pub(super) fn encode_q4_0<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let out = out.as_chunks_mut::<Q4_0_BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in row.as_chunks::<WEIGHTS>().0.iter().zip(out) {
            let (scale, codes) = quantize_symmetric(x, HALF);
            pack_q4_0(scale, &codes, out);
        }
        return;
    };
    encode_symmetric(isa, row, importance, HALF, |at, scale, codes| {
        pack_q4_0(scale, codes, &mut out[at]);
    });
}

#[inline(always)]
fn pack_q4_0(scale: f32, codes: &Codes, out: &mut [u8; Q4_0_BYTES]) {
    let [d0, d1, packed @ ..] = out;
    [*d0, *d1] = f16_bytes(scale);
    *packed = pack_nibbles(codes);
}

#[inline(always)]
pub(super) fn decode_q4_0(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q4_0_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [d0, d1, packed @ ..] = block;
        let scale = get_f16([*d0, *d1]);
        for (out, code) in out.iter_mut().zip(unpack_nibbles(packed)) {
            *out = f32::from(code as i8 - HALF as i8) * scale;
        }
    }
}

#[inline(always)]
pub(super) fn encode_q4_1<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let out = out.as_chunks_mut::<Q4_1_BYTES>().0;
    let Some(importance) = importance else {
        for (x, out) in row.as_chunks::<WEIGHTS>().0.iter().zip(out) {
            let (scale, low, codes) = quantize_affine(x, MAX_CODE);
            pack_q4_1(scale, low, &codes, out);
        }
        return;
    };
    encode_affine(isa, row, importance, MAX_CODE, |at, scale, low, codes| {
        pack_q4_1(scale, low, codes, &mut out[at]);
    });
}

#[inline(always)]
fn pack_q4_1(scale: f32, low: f32, codes: &Codes, out: &mut [u8; Q4_1_BYTES]) {
    let [d0, d1, m0, m1, packed @ ..] = out;
    [*d0, *d1] = f16_bytes(scale);
    [*m0, *m1] = f16_bytes(low);
    *packed = pack_nibbles(codes);
}

#[inline(always)]
pub(super) fn decode_q4_1(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<Q4_1_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [d0, d1, m0, m1, packed @ ..] = block;
        let (scale, low) = (get_f16([*d0, *d1]), get_f16([*m0, *m1]));
        for (out, code) in out.iter_mut().zip(unpack_nibbles(packed)) {
            *out = f32::from(code) * scale + low;
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
        decode_q4_0(&out, &mut back);
        assert_eq!(back, x);
    }

    #[test]
    fn q4_1_spans_minimum_to_maximum() {
        let x: [f32; WEIGHTS] = std::array::from_fn(|i| (i % 16) as f32 * 0.5 + 3.0);
        for importance in [None, Some([1.0; WEIGHTS])] {
            let mut out = [0; Q4_1_BYTES];
            encode_q4_1(Scalar, &x, importance.as_ref().map(|i| &i[..]), &mut out);
            let mut back = [0.0; WEIGHTS];
            decode_q4_1(&out, &mut back);
            // With importances the minimum is at most zero and the steps wider.
            let bound = if importance.is_none() { 1e-3 } else { 0.36 };
            assert!(x.iter().zip(back).all(|(a, b)| (a - b).abs() <= bound));
        }
    }
}
