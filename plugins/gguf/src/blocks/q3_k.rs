//! Q3_K: super-blocks of 256 weights, three-bit codes, a six-bit scale for each
//! 16 weights.
//!
//! Weight = d × (scale − 32) × (code − 4).

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::float::get_f16;
use super::k_symmetric::{Scales, first};
use super::scalars::map_array;
use super::scale_search::{all_codes_at_rates, codes_by_descent, fit_by_descent, fit_symmetric};
use super::super_block::{
    CHUNK, CHUNK_PARTS, PARTS, SUMMED, WEIGHTS, by_16, chunks, expand, importance_weights,
    pack_two_bits, parts, square_sums,
};
use super::validate::Check;
use super::weights::scaled_halves;

/// Bytes in a super-block: 32 of top bits, 64 of low bits, 12 of scales, d.
pub(super) const BYTES: usize = 110;

/// Codes are stored with this added.
const HALF: f32 = 4.0;

/// Scales are stored with this added.
const SCALE_HALF: f32 = 32.0;

/// The codec.
pub(super) struct Q3K;

impl Codec for Q3K {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q3_K",
        id: 11,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[108]);

    #[inline(always)]
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        for (chunk, out) in chunks(row, importance, out) {
            match chunk.importance {
                None => encode_plain(isa, chunk.x, out),
                Some(importance) => encode_weighted(isa, chunk.x, importance, out),
            }
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

#[inline(always)]
fn encode_plain<I: Isa>(isa: I, chunk: &[[f32; WEIGHTS]], out: &mut [[u8; BYTES]]) {
    let mut found = [0.0; CHUNK_PARTS];
    fit_by_descent(isa, parts(chunk), HALF, &mut found);
    let (mut scales, peaks) = Scales::shared(isa, &found, SCALE_HALF, SCALE_HALF);
    for (k, (x, out)) in chunk.iter().zip(out).enumerate() {
        if peaks[k] == 0.0 {
            scales.clear(k);
        }
        let mut codes = scales.codes(isa, k, x, HALF);
        if scales.any_zero(k) {
            let searched = codes_by_descent(isa, by_16(x), HALF);
            scales.put_where_zero(k, &searched, &mut codes);
        }
        pack(&codes, &scales.bytes[k], scales.d[k], out);
    }
}

/// What the searches of a chunk found.
struct Found {
    scales: [f32; CHUNK_PARTS],
    /// The codes behind the scales are x × rate, rounded.
    rates: [f32; CHUNK_PARTS],
    /// Sum of the importances of each sub-block.
    totals: [f32; CHUNK_PARTS],
}

#[inline(always)]
fn encode_weighted<I: Isa>(
    isa: I,
    chunk: &[[f32; WEIGHTS]],
    importance: &[[f32; WEIGHTS]],
    out: &mut [[u8; BYTES]],
) {
    let found = search(isa, chunk, importance);
    let scales = fit_scales(isa, &found);
    let rates = found.rates.as_chunks::<PARTS>().0;
    for (k, (x, out)) in chunk.iter().zip(out).enumerate() {
        let mut codes = scales.codes(isa, k, x, HALF);
        if scales.any_zero(k) {
            let searched = all_codes_at_rates(by_16(x), &rates[k], HALF as i32);
            scales.put_where_zero(k, &searched, &mut codes);
        }
        pack(&codes, &scales.bytes[k], scales.d[k], out);
    }
}

#[inline(always)]
fn search<I: Isa>(isa: I, chunk: &[[f32; WEIGHTS]], importance: &[[f32; WEIGHTS]]) -> Found {
    let mut found = Found {
        scales: [0.0; CHUNK_PARTS],
        rates: [0.0; CHUNK_PARTS],
        totals: [0.0; CHUNK_PARTS],
    };
    let mut spreads = [0.0; CHUNK];
    for (spreads, blocks) in spreads.chunks_mut(SUMMED).zip(chunk.chunks(SUMMED)) {
        for (spread, sum) in spreads.iter_mut().zip(square_sums(blocks.as_flattened())) {
            *spread = 2.0 * sum / WEIGHTS as f32;
        }
    }
    let spreads = expand(isa, &spreads);
    let groups = parts(chunk).chunks(I::LANES);
    let groups = groups.zip(parts(importance).chunks(I::LANES));
    for (at, (x, importance)) in (0..).step_by(I::LANES).zip(groups) {
        let x = isa.transpose(x);
        let spread = isa.load(&spreads[at..]);
        let weight = importance_weights(&x, &isa.transpose(importance), spread);
        let mut total = isa.splat(0.0);
        for &weight in &weight {
            total = total + weight;
        }
        let fit = fit_symmetric::<I, 16>(isa, &x, &weight, HALF);
        fit.scale.store(&mut found.scales[at..]);
        fit.rate.store(&mut found.rates[at..]);
        total.store(&mut found.totals[at..]);
    }
    found
}

/// Scales that lower the weighted error of the sub-blocks' own, a super-block in
/// each lane.
#[inline(always)]
fn fit_scales<I: Isa>(isa: I, found: &Found) -> Scales {
    let [mut d, mut rates] = [[0.0; MAX_LANES]; 2];
    let scales = found.scales.as_chunks::<PARTS>().0.chunks(I::LANES);
    let totals = found.totals.as_chunks::<PARTS>().0.chunks(I::LANES);
    for (at, (scales, totals)) in (0..).step_by(I::LANES).zip(scales.zip(totals)) {
        let (x, weight) = (isa.transpose(scales), isa.transpose(totals));
        let fit = fit_symmetric::<I, PARTS>(isa, &x, &weight, SCALE_HALF);
        fit.scale.store(&mut d[at..]);
        fit.rate.store(&mut rates[at..]);
    }
    let (d, rates) = (first(&d), first(&rates));
    let mut scales = Scales::new(isa, &found.scales, d, rates, SCALE_HALF, SCALE_HALF);
    for (k, rate) in rates.iter().enumerate() {
        if *rate == 0.0 {
            scales.clear(k);
        }
    }
    scales
}

/// Top bits of eight codes 32 apart share a byte.
#[inline(always)]
fn pack(codes: &[u8; WEIGHTS], scales: &[u8; PARTS], d: [u8; 2], out: &mut [u8; BYTES]) {
    let (top, rest) = out.split_at_mut(32);
    let (low, rest) = rest.split_at_mut(64);
    let (scale_bytes, d_bytes) = rest.split_at_mut(12);
    scale_bytes.copy_from_slice(&pack_scales(scales));
    d_bytes.copy_from_slice(&d);
    for l in 0..32 {
        let bit = |j: usize| (codes[l + 32 * j] >> 2) << j;
        top[l] = bit(0) | bit(1) | bit(2) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7);
    }
    if let Some(low) = low.first_chunk_mut() {
        pack_two_bits(codes, low);
    }
}

/// Sixteen six-bit scales in twelve bytes: low halves of two scales eight apart
/// share a byte, top bits of four scales four apart another.
#[inline(always)]
fn pack_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..8 {
        packed[j] = (scales[j] & 0x0f) | scales[j + 8] << 4;
    }
    for j in 0..4 {
        packed[j + 8] = scales[j] >> 4
            | (scales[j + 4] >> 4) << 2
            | (scales[j + 8] >> 4) << 4
            | (scales[j + 12] >> 4) << 6;
    }
    packed
}

#[inline(always)]
fn unpack_scales(packed: &[u8; 12]) -> [u8; 16] {
    let mut scales = [0; 16];
    for (j, scale) in scales.iter_mut().enumerate() {
        let low = packed[j % 8] >> (j / 8 * 4) & 0x0f;
        *scale = low | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
    }
    scales
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
    let (top, rest) = block.split_at(32);
    let (low, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(12);
    let (Some(top), Some(scales)) = (top.first_chunk::<32>(), scales.first_chunk()) else {
        return;
    };
    let d = get_f16([d[0], d[1]]);
    let steps = map_array(&unpack_scales(scales), |s| d * (f32::from(s) - SCALE_HALF));
    let steps = steps.as_chunks::<2>().0.iter();
    for (n, (steps, out)) in steps.zip(out.as_chunks_mut::<32>().0).enumerate() {
        let low = &low.as_chunks::<32>().0[n / 4];
        let mut codes = map_array(low, |low| low >> (2 * (n % 4)) & 3);
        for (code, top) in codes.iter_mut().zip(top) {
            let third = if top & (1 << n) == 0 { 0 } else { 4 };
            *code = (*code | third).wrapping_sub(HALF as u8);
        }
        scaled_halves(isa, &codes, *steps, out);
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::{Level, Scalar};

    use super::*;
    use crate::blocks::codec::encode;

    #[test]
    fn packed_scales_come_back() {
        let scales = std::array::from_fn(|j| (j * 37 % 64) as u8);
        assert_eq!(unpack_scales(&pack_scales(&scales)), scales);
    }

    #[test]
    fn a_block_by_hand() {
        let mut block = [0; BYTES];
        block[109] = 0x3c; // d = 1
        let mut scales = [32; 16];
        (scales[0], scales[2]) = (33, 34);
        block[96..108].copy_from_slice(&pack_scales(&scales));
        (block[0], block[32]) = (0b01, 0b10_01);
        let mut out = [0.0; WEIGHTS];
        decode(Scalar, &block, &mut out);
        assert_eq!((out[0], out[1], out[32], out[64]), (1.0, -4.0, -4.0, 0.0));
    }

    #[test]
    fn a_grid_of_eight_values_comes_back() {
        let row: Vec<f32> = (0..5 * WEIGHTS).map(|i| (i * 3 % 8) as f32 - 4.0).collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 5 * BYTES], [0.0; 5 * WEIGHTS]);
            encode::<Q3K>(Level::detect(), &row, importance.as_deref(), &mut out);
            decode(Scalar, &out, &mut back);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.01));
        }
    }
}
