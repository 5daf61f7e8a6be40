//! Q8_0: blocks of 32 weights, one half-precision scale and 32 signed bytes.
//!
//! Weight = scale × code. Importance weights have no part in it.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::lanes::{abs_max, round_half_away};
use super::validate::Check;

/// Weights in a block.
pub(super) const WEIGHTS: usize = 32;
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
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

#[inline(always)]
pub(super) fn encode(row: &[f32], _importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = row.as_chunks::<WEIGHTS>().0;
    for (x, out) in blocks.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        encode_block(x, out);
    }
}

#[inline(always)]
fn encode_block(x: &[f32; WEIGHTS], out: &mut [u8; BYTES]) {
    let scale = abs_max(x) / 127.0;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    let [d0, d1, codes @ ..] = out;
    [*d0, *d1] = f16_bytes(scale);
    if inverse.is_infinite() {
        // A scale so small that its inverse overflows is stored as zero.
        codes.fill(0);
        return;
    }
    for (code, &value) in codes.iter_mut().zip(x) {
        *code = round_half_away(value * inverse) as i8 as u8;
    }
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [d0, d1, codes @ ..] = block;
        let scale = get_f16([*d0, *d1]);
        for (value, &code) in out.iter_mut().zip(codes) {
            *value = f32::from(code as i8) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> [f32; WEIGHTS] {
        std::array::from_fn(|i| i as f32 - 12.0)
    }

    #[test]
    fn the_largest_weight_gets_code_127_and_halves_round_away_from_zero() {
        let mut x = [0.0; WEIGHTS];
        (x[0], x[1], x[2], x[3]) = (127.0, -2.5, 2.5, 2.49);
        let mut out = [0xaa; BYTES];
        encode(&x, None, &mut out);
        assert_eq!(out[..6], [0x00, 0x3c, 127, -3_i8 as u8, 3, 2]);
    }

    #[test]
    fn decoding_is_within_half_a_step() {
        let x = ramp();
        let (mut out, mut back) = ([0; BYTES], [0.0; WEIGHTS]);
        encode(&x, None, &mut out);
        decode(&out, &mut back);
        let step = 19.0 / 127.0;
        for (a, b) in x.iter().zip(back) {
            assert!((a - b).abs() <= step * 0.5 + 0.01, "{a} became {b}");
        }
    }

    #[test]
    fn zero_and_vanishing_blocks_are_all_zero() {
        for x in [[0.0; WEIGHTS], [1e-42; WEIGHTS]] {
            let mut out = [0xaa; BYTES];
            encode(&x, None, &mut out);
            assert_eq!(out, [0; BYTES]);
        }
    }
}
