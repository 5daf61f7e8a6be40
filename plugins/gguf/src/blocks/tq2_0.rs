//! TQ2_0: blocks of 256 ternary weights, four to a byte, and one half-precision
//! scale. Larger than TQ1_0, but faster to unpack.
//!
//! Weight = scale × (code − 1), where the scale is the largest magnitude.
//! Importance weights have no part in it.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::scalars::map_array;
use super::super_block::{WEIGHTS, pack_two_bits};
use super::validate::Check;
use super::weights::scaled;

/// Bytes in a block: codes, then the scale.
pub(super) const BYTES: usize = 66;

/// The codec.
#[allow(non_camel_case_types)] // the name of the type
pub(super) struct Tq2_0;

impl Codec for Tq2_0 {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "TQ2_0",
        id: 35,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[64]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<WEIGHTS>().0;
        for (x, out) in blocks.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let (scale, codes) = ternary(isa, x);
            let [packed @ .., d0, d1] = out;
            [*d0, *d1] = f16_bytes(scale);
            pack_two_bits(&codes, packed);
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

/// The largest magnitude of a block, and its codes: 0, 1 or 2 for what is nearest
/// to minus that, 0 or that; away from zero halfway.
#[inline(always)]
pub(super) fn ternary<I: Isa>(isa: I, x: &[f32; WEIGHTS]) -> (f32, [u8; WEIGHTS]) {
    let mut largest = isa.splat(0.0);
    for at in (0..WEIGHTS).step_by(I::LANES) {
        largest = isa.load(&x[at..]).abs().larger(largest);
    }
    let scale = largest.max_lane();
    let inverse = 1.0 / scale;
    // All codes stand for zero if the scale is zero, or so small that its inverse
    // overflows.
    let inverse = isa.splat(if inverse.is_finite() { inverse } else { 0.0 });
    let (zero, one, two) = (isa.splat(0.0), isa.splat(1.0), isa.splat(2.0));
    let (low, high) = (isa.splat(-0.5), isa.splat(0.5));
    let mut codes = [0; WEIGHTS];
    for at in (0..WEIGHTS).step_by(I::LANES) {
        let ratio = isa.load(&x[at..]) * inverse;
        let code = Vector::select(ratio.lt(high), one, two);
        let code = Vector::select(ratio.gt(low), code, zero);
        code.store_bytes(&mut codes[at..]);
    }
    (scale, codes)
}

#[inline(always)]
pub(super) fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [codes @ .., d0, d1] = block;
        let scale = get_f16([*d0, *d1]);
        let halves = out.as_chunks_mut::<128>().0.iter_mut();
        for (out, codes) in halves.zip(codes.as_chunks::<32>().0) {
            for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let codes = map_array(codes, |byte| (byte >> (2 * quarter) & 3).wrapping_sub(1));
                scaled(isa, &codes, scale, out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn four_weights_32_apart_share_a_byte() {
        let mut x = [0.0; WEIGHTS];
        (x[0], x[32], x[64], x[96]) = (-2.0, 0.0, 2.0, 0.99);
        (x[128], x[255]) = (1.0, -1.0);
        let mut out = [0xaa; BYTES];
        Tq2_0::encode(Scalar, &x, None, &mut out);
        assert_eq!(out[0], 0b01_10_01_00);
        assert_eq!((out[32], out[63]), (0b01_01_01_10, 0b00_01_01_01));
        assert_eq!(out[1..32], [0b01_01_01_01; 31]);
        assert_eq!(out[64..], [0x00, 0x40]);
        let mut back = [1.0; WEIGHTS];
        decode(Scalar, &out, &mut back);
        assert_eq!((back[0], back[64], back[96]), (-2.0, 2.0, 0.0));
        assert_eq!((back[128], back[255]), (2.0, -2.0));
    }

    #[test]
    fn the_fourth_code_is_read_as_two() {
        let mut block = [0xff; BYTES];
        (block[64], block[65]) = (0x00, 0x3c);
        let mut out = [0.0; WEIGHTS];
        decode(Scalar, &block, &mut out);
        assert_eq!(out, [2.0; WEIGHTS]);
    }

    #[test]
    fn zero_and_vanishing_blocks_are_zero() {
        for x in [[0.0; WEIGHTS], [-1e-40; WEIGHTS]] {
            let mut out = [0xaa; BYTES];
            Tq2_0::encode(Scalar, &x, None, &mut out);
            assert_eq!(out[..64], [0b01_01_01_01; 64]);
            assert_eq!(out[64..], [0, 0]);
        }
    }
}
