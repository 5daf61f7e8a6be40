//! IQ4_NL: blocks of 32 weights, one half-precision scale and four-bit indexes
//! into a fixed table of unevenly spaced values. Decoding only.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::get_f16;
use super::validate::Check;

/// Weights in a block.
pub(super) const WEIGHTS: usize = 32;
/// Bytes in a block: scale, then 16 bytes of codes.
pub(super) const BYTES: usize = 18;

/// Values that codes stand for, before scaling.
const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The codec.
pub(super) struct Iq4Nl;

impl Codec for Iq4Nl {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "IQ4_NL",
        id: 20,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[0]);

    #[inline(always)]
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        unreachable!("{} {}", row.len(), importance.is_some() && out.is_empty())
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [d0, d1, codes @ ..] = block;
        let scale = get_f16([*d0, *d1]);
        let (low, high) = out.split_at_mut(WEIGHTS / 2);
        for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
            *low = scale * f32::from(VALUES[usize::from(code & 0x0f)]);
            *high = scale * f32::from(VALUES[usize::from(code >> 4)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_halves_are_the_first_sixteen_weights() {
        let mut block = [0x80; BYTES];
        (block[0], block[1]) = (0x00, 0x40); // 2.0
        block[2] = 0x7f;
        let mut out = [0.0; WEIGHTS];
        decode(&block, &mut out);
        assert_eq!((out[0], out[16]), (226.0, -20.0));
        assert_eq!((out[15], out[31]), (-254.0, 2.0));
    }
}
