//! Q3_K: super-blocks of 256 weights, three-bit codes, a six-bit scale for each
//! 16 weights.
//!
//! Weight = d × (scale − 32) × (code − 4).

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::lanes::{LANES, map, round_wrapping, transpose};
use super::scale_search::{
    SymmetricFit, fit_symmetric, fit_symmetric_by_descent, fit_symmetric_single,
};
use super::super_block::{
    By16, SUMMED, WEIGHTS, by_16, pack_two_bits, scaled_importance, square_sums, symmetric_codes,
};
use super::validate::Check;

/// Bytes in a super-block: 32 of top bits, 64 of low bits, 12 of scales, d.
pub(super) const BYTES: usize = 110;

/// Codes are stored with this added.
const HALF: i32 = 4;

/// Scales are stored with this added.
const SCALE_HALF: i32 = 32;

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
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

#[inline(always)]
pub(super) fn encode(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let Some(importance) = importance else {
        for (x, out) in by_16(row).iter().zip(out.as_chunks_mut::<BYTES>().0) {
            encode_plain(x, out);
        }
        return;
    };
    const SPAN: usize = SUMMED * WEIGHTS;
    let parts = row.chunks(SPAN).zip(importance.chunks(SPAN));
    for ((row, importance), out) in parts.zip(out.chunks_mut(SUMMED * BYTES)) {
        let blocks = by_16(row)
            .iter()
            .zip(by_16(importance))
            .zip(square_sums(row));
        for (((x, importance), sum), out) in blocks.zip(out.as_chunks_mut::<BYTES>().0) {
            encode_weighted(x, importance, sum, out);
        }
    }
}

#[inline(always)]
fn encode_plain(x: &By16, out: &mut [u8; BYTES]) {
    let lanes = [transpose(&x[0]), transpose(&x[1])];
    let fit = fit_symmetric_by_descent(&lanes, HALF as f32);
    let searched = |j: usize| fit.codes(j / LANES, j % LANES);
    let (mut peak, mut magnitude) = (0.0, 0.0);
    for &scale in fit.scale.as_flattened() {
        if scale.abs() > magnitude {
            (peak, magnitude) = (scale, scale.abs());
        }
    }
    // All-zero blocks store scales of zero, which stand for −32; d is 0 too.
    let mut scale_codes = [0; 16];
    let mut d = 0.0;
    if peak != 0.0 {
        let rate = -(SCALE_HALF as f32) / peak;
        d = 1.0 / rate;
        for (code, scale) in scale_codes.iter_mut().zip(fit.scale.as_flattened()) {
            let wrapped = i32::from(round_wrapping(rate * scale) as i8);
            *code = (wrapped.clamp(-SCALE_HALF, SCALE_HALF - 1) + SCALE_HALF) as u8;
        }
    }
    finish(x, searched, d, &scale_codes, out);
}

#[inline(always)]
fn encode_weighted(x: &By16, importance: &By16, square_sum: f32, out: &mut [u8; BYTES]) {
    let spread = 2.0 * square_sum / WEIGHTS as f32;
    let (mut scales, mut totals) = ([0.0; 16], [0.0; 16]);
    let mut fits = [SymmetricFit::NONE; 2];
    for g in 0..2 {
        let lanes = transpose(&x[g]);
        let weight = scaled_importance(&lanes, &transpose(&importance[g]), spread);
        let mut total = [0.0; LANES];
        for weight in &weight {
            total = map(|k| total[k] + weight[k]);
        }
        let fit = fit_symmetric(&lanes, &weight, HALF as f32);
        scales[g * LANES..][..LANES].copy_from_slice(&fit.scale);
        totals[g * LANES..][..LANES].copy_from_slice(&total);
        fits[g] = fit;
    }
    let (d, scale_codes) = fit_symmetric_single(&scales, &totals, SCALE_HALF);
    let searched = |j: usize| fits[j / LANES].codes(j % LANES, &x[j / LANES][j % LANES], HALF);
    finish(x, searched, d, &scale_codes, out);
}

/// Stores scales, and codes for the scales as stored; `searched` gives those of
/// the search, for a sub-block whose scale is zero.
#[inline(always)]
fn finish(
    x: &By16,
    searched: impl Fn(usize) -> [u8; 16],
    d: f32,
    scales: &[u8; 16],
    out: &mut [u8; BYTES],
) {
    let (top, rest) = out.split_at_mut(32);
    let (low, rest) = rest.split_at_mut(64);
    let (scale_bytes, d_bytes) = rest.split_at_mut(12);
    let d = f16_bytes(d);
    d_bytes.copy_from_slice(&d);
    scale_bytes.copy_from_slice(&pack_scales(scales));

    let d = get_f16(d);
    let mut codes = [0; WEIGHTS];
    for (j, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = d * (i32::from(scales[j]) - SCALE_HALF) as f32;
        *codes = if step == 0.0 {
            searched(j)
        } else {
            symmetric_codes(&x[j / LANES][j % LANES], step, HALF)
        };
    }
    let mut bits = [0; 32];
    for (j, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        for l in 0..32 {
            bits[l] |= (codes[l] >> 2) << j;
        }
    }
    top.copy_from_slice(&bits);
    if let Some(low) = low.first_chunk_mut() {
        pack_two_bits(&codes, low);
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
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        decode_block(block, out);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; WEIGHTS]) {
    let (top, rest) = block.split_at(32);
    let (low, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(12);
    let Some(scales) = scales.first_chunk() else {
        return;
    };
    let scales = unpack_scales(scales);
    let d = get_f16([d[0], d[1]]);
    for (n, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = d * (i32::from(scales[n]) - SCALE_HALF) as f32;
        let (half, shift, odd) = (n / 8, n % 8 / 2 * 2, n % 2);
        let low = &low[32 * half + 16 * odd..][..16];
        let top = &top[16 * odd..][..16];
        for ((out, low), top) in out.iter_mut().zip(low).zip(top) {
            let code = (low >> shift & 3) | (top >> (n / 2) & 1) << 2;
            *out = step * f32::from(code as i8 - HALF as i8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        decode(&block, &mut out);
        assert_eq!((out[0], out[1], out[32], out[64]), (1.0, -4.0, -4.0, 0.0));
    }

    #[test]
    fn a_grid_of_eight_values_comes_back() {
        let row: Vec<f32> = (0..5 * WEIGHTS).map(|i| (i * 3 % 8) as f32 - 4.0).collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 5 * BYTES], [0.0; 5 * WEIGHTS]);
            encode(&row, importance.as_deref(), &mut out);
            decode(&out, &mut back);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.01));
        }
    }
}
