//! Q6_K: super-blocks of 256 weights, six-bit codes, an eight-bit scale for
//! each 16 weights.
//!
//! Weight = d × scale × (code − 32).

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::float::get_f16;
use super::k_symmetric::Scales;
use super::scalars::map_array;
use super::scale_search::{NEGLIGIBLE, all_codes_at_rates, fit_symmetric};
use super::super_block::{CHUNK_PARTS, Chunk, PARTS, WEIGHTS, by_16, chunks, parts};
use super::validate::Check;
use super::weights::scaled_halves;

/// Bytes in a super-block: 128 of low halves, 64 of top bits, 16 scales, d.
pub(super) const BYTES: usize = 210;

/// Codes are stored with this added.
const HALF: f32 = 32.0;

/// Minus the least scale.
const SCALE_HALF: f32 = 128.0;

/// The codec.
pub(super) struct Q6K;

impl Codec for Q6K {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q6_K",
        id: 14,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[208]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        for (chunk, out) in chunks(row, importance, out) {
            encode_chunk(isa, chunk, out);
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

#[inline(always)]
fn encode_chunk<I: Isa>(isa: I, chunk: Chunk<'_>, out: &mut [[u8; BYTES]]) {
    let [mut found, mut rates] = [[0.0; CHUNK_PARTS]; 2];
    let groups = parts(chunk.x).chunks(I::LANES).enumerate();
    for (first, x) in groups.map(|(g, x)| (g * I::LANES, x)) {
        let lanes = isa.transpose(x);
        let weight = match chunk.importance {
            Some(importance) => isa.transpose(&parts(importance)[first..][..x.len()]),
            None => squares::<I, 16>(&lanes),
        };
        let fit = fit_symmetric(isa, &lanes, &weight, HALF);
        fit.scale.store(&mut found[first..]);
        fit.rate.store(&mut rates[first..]);
    }
    let (scales, peaks) = Scales::shared(isa, &found, SCALE_HALF, 0.0);
    let rates = rates.as_chunks::<PARTS>().0;
    for (k, (x, out)) in chunk.x.iter().zip(out).enumerate() {
        if peaks[k].abs() < NEGLIGIBLE {
            out.fill(0);
            continue;
        }
        let mut codes = scales.codes(isa, k, x, HALF);
        if scales.any_zero(k) {
            let searched = all_codes_at_rates(by_16(x), &rates[k], HALF as i32);
            scales.put_where_zero(k, &searched, &mut codes);
        }
        pack(&codes, &scales.bytes[k], scales.d[k], out);
    }
}

#[inline(always)]
fn squares<I: Isa, const S: usize>(x: &[I::F32; S]) -> [I::F32; S] {
    let mut out = *x;
    for x in &mut out {
        *x = *x * *x;
    }
    out
}

/// Each half of the super-block: two codes 64 apart share a byte of low
/// halves, four codes 32 apart a byte of top bits.
#[inline(always)]
fn pack(codes: &[u8; WEIGHTS], scales: &[u8; PARTS], d: [u8; 2], out: &mut [u8; BYTES]) {
    let (low, rest) = out.split_at_mut(128);
    let (top, rest) = rest.split_at_mut(64);
    let (scale_bytes, d_bytes) = rest.split_at_mut(16);
    let low = low.as_chunks_mut::<64>().0.iter_mut();
    let top = top.as_chunks_mut::<32>().0.iter_mut();
    for ((codes, low), top) in codes.as_chunks::<128>().0.iter().zip(low).zip(top) {
        for l in 0..64 {
            low[l] = (codes[l] & 0x0f) | codes[l + 64] << 4;
        }
        for l in 0..32 {
            top[l] = codes[l] >> 4
                | (codes[l + 32] >> 4) << 2
                | (codes[l + 64] >> 4) << 4
                | (codes[l + 96] >> 4) << 6;
        }
    }
    scale_bytes.copy_from_slice(scales);
    d_bytes.copy_from_slice(&d);
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
    let (low, rest) = block.split_at(128);
    let (top, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = get_f16([d[0], d[1]]);
    let (low, top) = (low.as_chunks::<32>().0, top.as_chunks::<32>().0);
    let scales = scales.as_chunks::<2>().0.iter();
    for (n, (scales, out)) in scales.zip(out.as_chunks_mut::<32>().0).enumerate() {
        let (half, quarter) = (n / 4, n % 4);
        let (low_shift, top_shift) = (4 * (quarter / 2), 2 * quarter);
        let mut codes = map_array(&low[2 * half + quarter % 2], |low| low >> low_shift & 0x0f);
        for (code, top) in codes.iter_mut().zip(&top[half]) {
            *code = (*code | (top >> top_shift & 3) << 4).wrapping_sub(HALF as u8);
        }
        let steps = map_array(scales, |scale| d * f32::from(scale as i8));
        scaled_halves(isa, &codes, steps, out);
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::{Level, Scalar};

    use super::*;
    use crate::blocks::codec::encode;

    #[test]
    fn a_block_by_hand() {
        let mut block = [0; BYTES];
        block[209] = 0x3c; // d = 1
        (block[192], block[194], block[196], block[198]) = (1, 2, 3, -1_i8 as u8);
        (block[0], block[32], block[128]) = (0x21, 0x43, 0b11_10_01_00);
        let mut out = [0.0; WEIGHTS];
        decode(Scalar, &block, &mut out);
        let seen = (out[0], out[32], out[64], out[96], out[128]);
        assert_eq!(seen, (-31.0, -26.0, 6.0, -20.0, 0.0));
    }

    #[test]
    fn a_grid_of_64_values_comes_back() {
        let row: Vec<f32> = (0..2 * WEIGHTS)
            .map(|i| (i * 27 % 64) as f32 - 32.0)
            .collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 2 * BYTES], [0.0; 2 * WEIGHTS]);
            encode::<Q6K>(Level::detect(), &row, importance.as_deref(), &mut out);
            decode(Scalar, &out, &mut back);
            // Sub-blocks of 16 see a quarter of the values each and choose
            // steps of their own, which eight bits hold only roughly.
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() <= 0.5));
        }
    }

    #[test]
    fn negligible_super_blocks_are_zero() {
        let mut out = [0xaa; BYTES];
        encode::<Q6K>(Level::detect(), &[1e-17; WEIGHTS], None, &mut out);
        assert_eq!(out, [0; BYTES]);
    }
}
