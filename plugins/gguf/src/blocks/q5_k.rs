//! Q5_K: super-blocks of 256 weights, five-bit codes, six-bit scales and
//! minimums for each 32 weights.
//!
//! Weight = d × scale × code − dmin × minimum.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::k_affine::{Affine, Quantized, Steps};
use super::scale_search::TrialGrid;
use super::super_block::WEIGHTS;
use super::validate::Check;

/// Bytes in a super-block: d, dmin, 12 of scales, 32 of top bits, 128 of the
/// codes' low halves.
pub(super) const BYTES: usize = 176;

const AFFINE: Affine = Affine {
    max_code: 31,
    grid: TrialGrid {
        first: -0.5,
        step: 0.1,
        trials: 16,
    },
    max_weighted_scale: 63,
};

/// The codec.
pub(super) struct Q5K;

impl Codec for Q5K {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q5_K",
        id: 13,
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
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

/// Low halves as in Q4_K; bit `j` of top byte `l` belongs to weight `l` of
/// sub-block `j`.
#[inline(always)]
fn pack(block: &Quantized, out: &mut [u8; BYTES]) {
    let [d0, d1, m0, m1, rest @ ..] = out;
    [*d0, *d1] = block.d;
    [*m0, *m1] = block.dmin;
    let (scales, rest) = rest.split_at_mut(12);
    scales.copy_from_slice(&block.scales);
    let (top, low) = rest.split_at_mut(32);

    let mut bits = [0; 32];
    for (j, codes) in block.codes.iter().enumerate() {
        for l in 0..32 {
            bits[l] |= (codes[l] >> 4) << j;
        }
    }
    top.copy_from_slice(&bits);
    let pairs = block.codes.as_chunks::<2>().0;
    for ([a, b], out) in pairs.iter().zip(low.as_chunks_mut::<32>().0) {
        for l in 0..32 {
            out[l] = (a[l] & 0x0f) | b[l] << 4;
        }
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
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (scales, rest) = rest.split_at(12);
    let (top, low) = rest.split_at(32);
    let Some(scales) = scales.first_chunk() else {
        return;
    };
    let steps = Steps::new([*d0, *d1], [*m0, *m1], scales);
    for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (step, min) = (steps.step[j], steps.min[j]);
        let low = &low[32 * (j / 2)..][..32];
        let shift = 4 * (j % 2);
        for ((out, low), top) in out.iter_mut().zip(low).zip(top) {
            let code = (low >> shift & 0x0f) | (top >> j & 1) << 4;
            *out = step * f32::from(code) - min;
        }
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
        (block[16], block[48]) = (0b11, 0x5a);
        let mut out = [0.0; WEIGHTS];
        decode(&block, &mut out);
        assert_eq!((out[0], out[1], out[32], out[64]), (49.0, -3.0, 21.0, 0.0));
    }

    #[test]
    fn a_grid_of_32_values_comes_back() {
        let row: Vec<f32> = (0..2 * WEIGHTS)
            .map(|i| (i * 7 % 32) as f32 - 4.0)
            .collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 2 * BYTES], [0.0; 2 * WEIGHTS]);
            Q5K::encode(Scalar, &row, importance.as_deref(), &mut out);
            decode(&out, &mut back);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.02));
        }
    }
}
