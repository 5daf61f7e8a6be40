//! Q4_K: super-blocks of 256 weights, four-bit codes, six-bit scales and
//! minimums for each 32 weights.
//!
//! Weight = d × scale × code − dmin × minimum.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::k_affine::{Affine, Quantized, Steps};
use super::scalars::map_array;
use super::scale_search::TrialGrid;
use super::super_block::WEIGHTS;
use super::validate::Check;
use super::weights::scaled_from;

/// Bytes in a super-block: d, dmin, 12 of scales, 128 of codes.
pub(super) const BYTES: usize = 144;

const AFFINE: Affine = Affine {
    max_code: 15,
    grid: TrialGrid {
        first: -1.0,
        step: 0.1,
        trials: 21,
    },
    // Unlike for Q5_K, ggml leaves scales beyond 63 as they are.
    max_weighted_scale: u8::MAX,
};

/// The codec.
pub(super) struct Q4K;

impl Codec for Q4K {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q4_K",
        id: 12,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[0, 2]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let out = out.as_chunks_mut::<BYTES>().0;
        AFFINE.encode(isa, row, importance, |at, block| pack(block, &mut out[at]));
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

/// Two sub-blocks share 32 bytes: the first in the low halves.
#[inline(always)]
fn pack(block: &Quantized, out: &mut [u8; BYTES]) {
    let [d0, d1, m0, m1, rest @ ..] = out;
    [*d0, *d1] = block.d;
    [*m0, *m1] = block.dmin;
    let (scales, codes) = rest.split_at_mut(12);
    scales.copy_from_slice(&block.scales);
    let pairs = block.codes.as_chunks::<2>().0;
    for ([low, high], out) in pairs.iter().zip(codes.as_chunks_mut::<32>().0) {
        for l in 0..32 {
            out[l] = low[l] | high[l] << 4;
        }
    }
}

#[inline(always)]
pub(super) fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        decode_block(isa, block, out);
    }
}

#[inline(always)]
fn decode_block<I: Isa>(isa: I, block: &[u8; BYTES], out: &mut [f32; WEIGHTS]) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, codes) = rest.split_at(12);
    let Some(scales) = scales.first_chunk() else {
        return;
    };
    let steps = Steps::new([*d0, *d1], [*m0, *m1], scales);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let codes = &codes.as_chunks::<32>().0[j / 2];
        let codes = map_array(codes, |code| code >> (4 * (j % 2)) & 0x0f);
        scaled_from(isa, &codes, (steps.step[j], -steps.min[j]), out);
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn a_block_by_hand() {
        let mut block = [0; BYTES];
        (block[1], block[3]) = (0x3c, 0x3c); // d = dmin = 1
        (block[4], block[8], block[5]) = (2, 3, 1);
        block[16] = 0x5a;
        let mut out = [0.0; WEIGHTS];
        decode(Scalar, &block, &mut out);
        assert_eq!((out[0], out[1], out[32], out[64]), (17.0, -3.0, 5.0, 0.0));
    }

    #[test]
    fn a_grid_of_sixteen_values_comes_back() {
        let row: Vec<f32> = (0..2 * WEIGHTS)
            .map(|i| (i * 7 % 16) as f32 - 4.0)
            .collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 2 * BYTES], [0.0; 2 * WEIGHTS]);
            Q4K::encode(Scalar, &row, importance.as_deref(), &mut out);
            decode(Scalar, &out, &mut back);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.02));
        }
    }
}
