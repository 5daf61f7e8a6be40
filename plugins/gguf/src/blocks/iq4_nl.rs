//! IQ4_NL: blocks of 32 weights, one half-precision scale and four-bit indexes
//! into a fixed table of unevenly spaced values.
//!
//! Weight = scale × value of the code.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::iq4_values::{Block, WEIGHTS, fit, inverse, pack, unpack};
use super::super_block::importance_weights;
use super::validate::Check;

/// Bytes in a block: scale, then 16 bytes of codes.
const BYTES: usize = 18;

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
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = row.as_chunks::<WEIGHTS>().0;
        let importance = importance.map(|row| row.as_chunks::<WEIGHTS>().0);
        let groups = blocks.chunks(I::LANES);
        let groups = groups.zip(out.as_chunks_mut::<BYTES>().0.chunks_mut(I::LANES));
        for (first, (blocks, out)) in (0..).step_by(I::LANES).zip(groups) {
            let importance = importance.map(|all| &all[first..first + blocks.len()]);
            let scales = fit_blocks(isa, blocks, importance);
            for ((x, out), &scale) in blocks.iter().zip(out).zip(&scales) {
                let [d0, d1, codes @ ..] = out;
                [*d0, *d1] = f16_bytes(scale);
                pack(isa, x, inverse(scale), codes);
            }
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.as_chunks::<BYTES>().0;
        for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
            let [d0, d1, codes @ ..] = block;
            unpack(codes, get_f16([*d0, *d1]), out);
        }
    }
}

/// The scales of up to as many blocks as a vector has lanes.
#[inline(always)]
fn fit_blocks<I: Isa>(isa: I, blocks: &[Block], importance: Option<&[Block]>) -> [f32; MAX_LANES] {
    let x = isa.transpose(blocks);
    let mut square = x;
    let mut sum = isa.splat(0.0);
    for square in &mut square {
        *square = *square * *square;
        sum = sum + *square;
    }
    let spread = sum * isa.splat(2.0 / WEIGHTS as f32);
    let weight = match importance {
        None => square,
        Some(importance) => importance_weights(&x, &isa.transpose(importance), spread),
    };
    let mut scales = [0.0; MAX_LANES];
    fit(isa, &x, &weight).store(&mut scales);
    scales
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    /// Weights that are the table's values times `scale`, twice.
    fn on_the_grid(scale: f32) -> Block {
        let codes = std::array::from_fn(|i| (i % 16) as u8 * 0x11);
        let mut x = [0.0; WEIGHTS];
        unpack(&codes, scale, &mut x);
        x
    }

    #[test]
    fn low_halves_are_the_first_sixteen_weights() {
        let mut block = [0x80; BYTES];
        (block[0], block[1]) = (0x00, 0x40); // 2.0
        block[2] = 0x7f;
        let mut out = [0.0; WEIGHTS];
        Iq4Nl::decode(Scalar, &block, &mut out);
        assert_eq!((out[0], out[16]), (226.0, -20.0));
        assert_eq!((out[15], out[31]), (-254.0, 2.0));
    }

    #[test]
    fn weights_on_the_grid_come_back_exactly() {
        for scale in [0.5, -0.5] {
            let x = on_the_grid(scale);
            let (mut out, mut back) = ([0xaa; BYTES], [0.0; WEIGHTS]);
            for importance in [None, Some(&[1.0; WEIGHTS][..])] {
                Iq4Nl::encode(Scalar, &x, importance, &mut out);
                Iq4Nl::decode(Scalar, &out, &mut back);
                assert_eq!(back, x);
            }
            assert_eq!(get_f16([out[0], out[1]]), scale);
            assert_eq!((out[2], out[17]), (0x00, 0xff));
        }
    }

    #[test]
    fn importance_decides_which_weight_is_met() {
        let mut x = [0.0; WEIGHTS];
        (x[0], x[1]) = (1.0, 0.47);
        let error_of_second = |importance: &Block| {
            let (mut out, mut back) = ([0; BYTES], [0.0; WEIGHTS]);
            Iq4Nl::encode(Scalar, &x, Some(importance), &mut out);
            Iq4Nl::decode(Scalar, &out, &mut back);
            (back[1] - x[1]).abs()
        };
        let (mut first, mut second) = ([0.0; WEIGHTS], [0.0; WEIGHTS]);
        (first[0], second[1]) = (1.0, 1.0);
        assert!(error_of_second(&second) < 1e-3);
        assert!(error_of_second(&second) < error_of_second(&first));
    }

    #[test]
    fn zero_and_vanishing_blocks_have_scale_zero_and_the_value_next_to_zero() {
        for x in [[0.0; WEIGHTS], [9e-16; WEIGHTS]] {
            let mut out = [0xaa; BYTES];
            Iq4Nl::encode(Scalar, &x, None, &mut out);
            assert_eq!(out[..2], [0, 0]);
            assert_eq!(out[2..], [0x88; 16]);
        }
    }
}
