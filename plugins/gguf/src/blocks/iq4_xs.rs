//! IQ4_XS: super-blocks of 256 weights, IQ4_NL's table, a six-bit scale for
//! each 32 of them and one half-precision scale for all.
//!
//! Weight = scale × (six-bit scale − 32) × value of the code.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::iq4_values::{self, fit, inverse, pack, unpack};
use super::super_block::{By32, SUMMED, WEIGHTS, by_32, importance_weights, square_sums, squares};
use super::validate::Check;

/// Bytes in a super-block: scale, high two bits of the eight six-bit scales,
/// their low four bits, codes.
const BYTES: usize = 136;

/// Sub-blocks of 32 weights.
const PARTS: usize = WEIGHTS / iq4_values::WEIGHTS;

/// Super-blocks searched together, and their sub-blocks: as many as the widest
/// vectors have lanes.
const CHUNK: usize = SUMMED;
const SUB_BLOCKS: usize = PARTS * CHUNK;

/// The codec.
pub(super) struct Iq4Xs;

impl Codec for Iq4Xs {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "IQ4_XS",
        id: 23,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[0]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let importance = importance.map(by_32);
        let chunks = by_32(row).chunks(CHUNK);
        let chunks = chunks.zip(out.as_chunks_mut::<BYTES>().0.chunks_mut(CHUNK));
        for (first, (x, out)) in (0..).step_by(CHUNK).zip(chunks) {
            let importance = importance.map(|all| &all[first..first + x.len()]);
            let scales = fit_parts(isa, x, importance);
            for ((x, out), scales) in x.iter().zip(out).zip(scales.as_chunks().0) {
                encode_block(isa, x, scales, out);
            }
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

/// The best scale for each sub-block of a chunk by itself.
#[inline(always)]
fn fit_parts<I: Isa>(isa: I, x: &[By32], importance: Option<&[By32]>) -> [f32; SUB_BLOCKS] {
    let mut spreads = [0.0; SUB_BLOCKS];
    if importance.is_some() {
        let sums = square_sums(x.as_flattened().as_flattened());
        for (spreads, sum) in spreads.as_chunks_mut::<PARTS>().0.iter_mut().zip(sums) {
            *spreads = [sum * (2.0 / WEIGHTS as f32); PARTS];
        }
    }
    let importance = importance.map(|blocks| blocks.as_flattened());
    let mut scales = [0.0; SUB_BLOCKS];
    let parts = x.as_flattened().chunks(I::LANES);
    for (at, rows) in (0..).step_by(I::LANES).zip(parts) {
        let x = isa.transpose(rows);
        let weight = match importance {
            None => squares(&x),
            Some(importance) => {
                let importance = isa.transpose(&importance[at..at + rows.len()]);
                importance_weights(&x, &importance, isa.load(&spreads[at..]))
            }
        };
        fit(isa, &x, &weight).store(&mut scales[at..]);
    }
    scales
}

#[inline(always)]
fn encode_block<I: Isa>(isa: I, x: &By32, scales: &[f32; PARTS], out: &mut [u8; BYTES]) {
    // The largest becomes −32, the one value of six bits without a counterpart.
    let common = -first_largest(scales) / 32.0;
    let to_six_bits = inverse(common);
    let [d0, d1, h0, h1, rest @ ..] = out;
    [*d0, *d1] = f16_bytes(common);
    let (low_bits, codes) = rest.split_at_mut(PARTS / 2);
    low_bits.fill(0);
    let mut high_bits = 0_u16;
    let parts = x.iter().zip(codes.as_chunks_mut().0);
    for (index, ((x, codes), scale)) in parts.zip(scales).enumerate() {
        let six_bits = (to_six_bits * scale).round_ties_even().clamp(-32.0, 31.0);
        pack(isa, x, inverse(common * six_bits), codes);
        let stored = (six_bits as i8 + 32) as u8;
        low_bits[index / 2] |= (stored & 0x0f) << (4 * (index % 2));
        high_bits |= u16::from(stored >> 4) << (2 * index);
    }
    [*h0, *h1] = high_bits.to_le_bytes();
}

/// The first of the scales with the largest magnitude.
#[inline(always)]
fn first_largest(scales: &[f32; PARTS]) -> f32 {
    let mut largest = 0.0_f32;
    for &scale in scales {
        if scale.abs() > largest.abs() {
            largest = scale;
        }
    }
    largest
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [d0, d1, h0, h1, rest @ ..] = block;
        let common = get_f16([*d0, *d1]);
        let high_bits = u16::from_le_bytes([*h0, *h1]);
        let (low_bits, codes) = rest.split_at(PARTS / 2);
        let parts = out.as_chunks_mut().0.iter_mut().zip(codes.as_chunks().0);
        for (index, (out, codes)) in parts.enumerate() {
            let low = low_bits[index / 2] >> (4 * (index % 2)) & 0x0f;
            let high = (high_bits >> (2 * index) & 3) as u8;
            let scale = common * f32::from((low | high << 4) as i8 - 32);
            unpack(codes, scale, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn scales_are_split_over_three_places() {
        let mut block = [0x88; BYTES]; // every code stands for 1
        (block[0], block[1]) = (0x00, 0x3c); // 1.0
        block[2..4].copy_from_slice(&0b11_10_01_00_11_10_01_00_u16.to_le_bytes());
        block[4..8].copy_from_slice(&[0x10, 0x32, 0x54, 0x76]);
        let mut out = [0.0; WEIGHTS];
        Iq4Xs::decode(Scalar, &block, &mut out);
        let firsts: Vec<f32> = out.iter().step_by(32).copied().collect();
        assert_eq!(firsts, [-32.0, -15.0, 2.0, 19.0, -28.0, -11.0, 6.0, 23.0]);
    }

    #[test]
    fn the_largest_sub_block_gets_minus_32_and_the_others_their_share() {
        let mut grid = [0.0; 32];
        unpack(&std::array::from_fn(|i| i as u8 * 0x11), 1.0, &mut grid);
        let mut x = [0.0; WEIGHTS];
        for (part, scale) in [(0, 1.0), (1, 0.5), (7, -0.25)] {
            for (i, x) in x[32 * part..32 * (part + 1)].iter_mut().enumerate() {
                *x = scale * grid[i];
            }
        }
        let mut out = [0xaa; BYTES];
        Iq4Xs::encode(Scalar, &x, None, &mut out);
        assert_eq!(get_f16([out[0], out[1]]), -1.0 / 32.0);
        assert_eq!(out[4] & 0x0f, 0); // −32 + 32
        assert_eq!(out[4] >> 4, 0); // −16 + 32 = 0b01_0000
        assert_eq!(out[7] >> 4, 8); // 8 + 32 = 0b10_1000
        assert_eq!(u16::from_le_bytes([out[2], out[3]]) & 0b1111, 0b01_00);
        assert_eq!(out[3] >> 6, 0b10);
        let mut back = [1.0; WEIGHTS];
        Iq4Xs::decode(Scalar, &out, &mut back);
        assert_eq!(back[..64], x[..64]);
        assert_eq!(back[224..], x[224..]);
        assert_eq!(back[64..224], [0.0; 160]); // by a scale of zero
    }

    #[test]
    fn a_block_of_zeros_has_a_negative_zero_scale() {
        let mut out = [0xaa; BYTES];
        Iq4Xs::encode(Scalar, &[0.0; WEIGHTS], None, &mut out);
        assert_eq!(out[..2], [0x00, 0x80]);
        assert_eq!(out[2..4], [0xaa; 2]); // high bits of 32, eight times
        assert_eq!(out[4..8], [0; 4]);
        assert_eq!(out[8..], [0x88; 128]);
    }
}
