//! TQ2_0: blocks of 256 ternary weights, four to a byte, and one half-precision
//! scale. Larger than TQ1_0, but faster to unpack.
//!
//! Weight = scale × (code − 1), where the scale is the largest magnitude.
//! Importance weights have no part in it.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::validate::Check;

/// Weights in a block.
pub(super) const WEIGHTS: usize = 256;
/// Bytes in a block: codes, then the scale.
pub(super) const BYTES: usize = 66;

/// Turns the weights of a block into ternary codes.
pub(super) struct Scaler {
    /// The largest magnitude.
    pub scale: f32,
    inverse: f32,
}

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
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

impl Scaler {
    #[inline(always)]
    pub(super) fn new(x: &[f32; WEIGHTS]) -> Self {
        let scale = x.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let inverse = 1.0 / scale;
        Self {
            scale,
            // All codes stand for zero if the scale is zero, or so small that its
            // inverse overflows.
            inverse: if inverse.is_finite() { inverse } else { 0.0 },
        }
    }

    /// 0, 1 or 2 for what is nearest to −scale, 0 or scale; away from zero halfway.
    #[inline(always)]
    pub(super) fn code(&self, x: f32) -> u8 {
        let ratio = x * self.inverse;
        1 + u8::from(ratio >= 0.5) - u8::from(ratio <= -0.5)
    }
}

#[inline(always)]
pub(super) fn encode(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = row.as_chunks::<WEIGHTS>().0;
    for (x, out) in blocks.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        let scaler = Scaler::new(x);
        let [codes @ .., d0, d1] = out;
        [*d0, *d1] = f16_bytes(scaler.scale);
        let halves = x.as_chunks::<128>().0.iter();
        for (x, codes) in halves.zip(codes.as_chunks_mut::<32>().0) {
            for (m, byte) in codes.iter_mut().enumerate() {
                *byte = scaler.code(x[m])
                    | scaler.code(x[m + 32]) << 2
                    | scaler.code(x[m + 64]) << 4
                    | scaler.code(x[m + 96]) << 6;
            }
        }
    }
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [codes @ .., d0, d1] = block;
        let scale = get_f16([*d0, *d1]);
        let halves = out.as_chunks_mut::<128>().0.iter_mut();
        for (out, codes) in halves.zip(codes.as_chunks::<32>().0) {
            for (quarter, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (value, byte) in out.iter_mut().zip(codes) {
                    let code = byte >> (2 * quarter) & 3;
                    *value = (f32::from(code) - 1.0) * scale;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_weights_32_apart_share_a_byte() {
        let mut x = [0.0; WEIGHTS];
        (x[0], x[32], x[64], x[96]) = (-2.0, 0.0, 2.0, 0.99);
        (x[128], x[255]) = (1.0, -1.0);
        let mut out = [0xaa; BYTES];
        encode(&x, None, &mut out);
        assert_eq!(out[0], 0b01_10_01_00);
        assert_eq!((out[32], out[63]), (0b01_01_01_10, 0b00_01_01_01));
        assert_eq!(out[1..32], [0b01_01_01_01; 31]);
        assert_eq!(out[64..], [0x00, 0x40]);
        let mut back = [1.0; WEIGHTS];
        decode(&out, &mut back);
        assert_eq!((back[0], back[64], back[96]), (-2.0, 2.0, 0.0));
        assert_eq!((back[128], back[255]), (2.0, -2.0));
    }

    #[test]
    fn the_fourth_code_is_read_as_two() {
        let mut block = [0xff; BYTES];
        (block[64], block[65]) = (0x00, 0x3c);
        let mut out = [0.0; WEIGHTS];
        decode(&block, &mut out);
        assert_eq!(out, [2.0; WEIGHTS]);
    }

    #[test]
    fn zero_and_vanishing_blocks_are_zero() {
        for x in [[0.0; WEIGHTS], [-1e-40; WEIGHTS]] {
            let mut out = [0xaa; BYTES];
            encode(&x, None, &mut out);
            assert_eq!(out[..64], [0b01_01_01_01; 64]);
            assert_eq!(out[64..], [0, 0]);
        }
    }
}
