//! Q8_0: blocks of 32 weights, one half-precision scale and 32 signed bytes.
//!
//! Weight = scale × code. Importance weights have no part in it.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::plain;
use super::small_blocks::WEIGHTS;
use super::validate::Check;
use super::weights::{scaled, widened};

/// Bytes in a block: scale, then codes in order.
pub(super) const BYTES: usize = 34;

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Q8_0;

impl Codec for Q8_0 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q8_0",
        id: 8,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[0]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        encode(isa, row, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

#[inline(always)]
pub(super) fn encode<I: Isa>(isa: I, row: &[f32], out: &mut [u8]) {
    let out = out.as_chunks_mut::<BYTES>().0;
    for (x, out) in plain::groups::<I>(row).zip(out.chunks_mut(I::LANES)) {
        let fits = plain::fit_bytes(isa, x);
        for (k, (x, out)) in x.iter().zip(out).enumerate() {
            let [d0, d1, codes @ ..] = out;
            [*d0, *d1] = fits.scale[k];
            *codes = fits.codes(isa, k, x);
        }
    }
}

#[inline(always)]
pub(super) fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0.chunks(I::LANES);
    for (blocks, out) in blocks.zip(plain::groups_mut::<I>(out)) {
        let scales = widened(isa, blocks, 0);
        for ((block, out), scale) in blocks.iter().zip(out).zip(scales) {
            let [_, _, codes @ ..] = block;
            scaled(isa, codes, scale, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    fn ramp() -> [f32; WEIGHTS] {
        std::array::from_fn(|i| i as f32 - 12.0)
    }

    #[test]
    fn the_largest_weight_gets_code_127_and_halves_round_away_from_zero() {
        let mut x = [0.0; WEIGHTS];
        (x[0], x[1], x[2], x[3]) = (127.0, -2.5, 2.5, 2.49);
        let mut out = [0xaa; BYTES];
        encode(Scalar, &x, &mut out);
        assert_eq!(out[..6], [0x00, 0x3c, 127, -3_i8 as u8, 3, 2]);
    }

    #[test]
    fn decoding_is_within_half_a_step() {
        let x = ramp();
        let (mut out, mut back) = ([0; BYTES], [0.0; WEIGHTS]);
        encode(Scalar, &x, &mut out);
        decode(Scalar, &out, &mut back);
        let step = 19.0 / 127.0;
        for (a, b) in x.iter().zip(back) {
            assert!((a - b).abs() <= step * 0.5 + 0.01, "{a} became {b}");
        }
    }

    #[test]
    fn zero_and_vanishing_blocks_are_all_zero() {
        for x in [[0.0; WEIGHTS], [1e-42; WEIGHTS]] {
            let mut out = [0xaa; BYTES];
            encode(Scalar, &x, &mut out);
            assert_eq!(out, [0; BYTES]);
        }
    }
}
