//! Q2_K: super-blocks of 256 weights, two-bit codes, a four-bit scale and a
//! four-bit minimum for each 16 weights.
//!
//! Weight = d × scale × code − dmin × minimum.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::lanes::{LANES, map, map_array, round_wrapping, transpose};
use super::scale_search::{AffineFit, TrialGrid, fit_affine, fit_nonnegative};
use super::super_block::{
    By16, SUMMED, WEIGHTS, affine_codes, by_16, pack_two_bits, scaled_importance, square_sums,
};
use super::validate::Check;

/// Bytes in a super-block: 16 of scales, 64 of codes, d, dmin.
pub(super) const BYTES: usize = 84;

const MAX_CODE: f32 = 3.0;
const MAX_SCALE: i32 = 15;

const GRID: TrialGrid = TrialGrid {
    first: -0.5,
    step: 0.1,
    trials: 16,
};

const WEIGHTED_GRID: TrialGrid = TrialGrid {
    first: -0.9,
    step: 0.05,
    trials: 37,
};

/// The codec.
pub(super) struct Q2K;

impl Codec for Q2K {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "Q2_K",
        id: 10,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[80, 82]);

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

/// Without importances the error is absolute and each weight counts by its
/// magnitude.
#[inline(always)]
fn encode_plain(x: &By16, out: &mut [u8; BYTES]) {
    let mut fits = [AffineFit::NONE; 2];
    for (fit, x) in fits.iter_mut().zip(x) {
        let lanes = transpose(x);
        let mut weight = [[0.0; LANES]; 16];
        for (weight, x) in weight.iter_mut().zip(&lanes) {
            *weight = map(|k| x[k].abs());
        }
        *fit = fit_affine::<16, true>(&lanes, &weight, MAX_CODE, GRID);
    }
    let (d, scales) = share_scale(&joined(&fits, |fit| fit.scale));
    let (dmin, mins) = share_scale(&joined(&fits, |fit| fit.min));
    finish(x, &fits, (d, &scales), (dmin, &mins), out);
}

#[inline(always)]
fn encode_weighted(x: &By16, importance: &By16, square_sum: f32, out: &mut [u8; BYTES]) {
    let spread = square_sum / WEIGHTS as f32;
    let mut fits = [AffineFit::NONE; 2];
    for (fit, (x, importance)) in fits.iter_mut().zip(x.iter().zip(importance)) {
        let lanes = transpose(x);
        let weight = scaled_importance(&lanes, &transpose(importance), spread);
        *fit = fit_affine::<16, false>(&lanes, &weight, MAX_CODE, WEIGHTED_GRID);
    }
    let weight = joined(&fits, |fit| fit.total_weight);
    let (d, scales) = fit_nonnegative(&joined(&fits, |fit| fit.scale), &weight, MAX_SCALE);
    let (dmin, mins) = fit_nonnegative(&joined(&fits, |fit| fit.min), &weight, MAX_SCALE);
    finish(x, &fits, (d, &scales), (dmin, &mins), out);
}

/// One number per sub-block from both groups of lanes.
#[inline(always)]
fn joined(fits: &[AffineFit; 2], field: impl Fn(&AffineFit) -> [f32; LANES]) -> [f32; 16] {
    let mut out = [0.0; 16];
    out[..LANES].copy_from_slice(&field(&fits[0]));
    out[LANES..].copy_from_slice(&field(&fits[1]));
    out
}

/// The common scale that gives the largest of `x` the code 15, and the codes.
#[inline(always)]
fn share_scale(x: &[f32; 16]) -> (f32, [u8; 16]) {
    let largest = x
        .iter()
        .fold(0.0, |best, &x| if x > best { x } else { best });
    if largest > 0.0 {
        let rate = 15.0 / largest;
        (
            largest / 15.0,
            map_array(x, |x| round_wrapping(rate * x) as u8),
        )
    } else {
        (0.0, [0; 16])
    }
}

/// Stores scales, and codes for the scales as stored.
#[inline(always)]
fn finish(
    x: &By16,
    fits: &[AffineFit; 2],
    (d, scales): (f32, &[u8; 16]),
    (dmin, mins): (f32, &[u8; 16]),
    out: &mut [u8; BYTES],
) {
    let (scale_bytes, rest) = out.split_at_mut(16);
    let (code_bytes, rest) = rest.split_at_mut(64);
    let (d_bytes, dmin_bytes) = rest.split_at_mut(2);
    let (d, dmin) = (f16_bytes(d), f16_bytes(dmin));
    d_bytes.copy_from_slice(&d);
    dmin_bytes.copy_from_slice(&dmin);
    let (d, dmin) = (get_f16(d), get_f16(dmin));

    let mut codes = [0; WEIGHTS];
    for (j, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let packed = scales[j] | mins[j] << 4;
        scale_bytes[j] = packed;
        let x = &x[j / LANES][j % LANES];
        let step = d * f32::from(packed & 0x0f);
        *codes = if step == 0.0 {
            fits[j / LANES].codes(j % LANES, x, MAX_CODE as i32)
        } else {
            affine_codes(x, step, dmin * f32::from(packed >> 4), MAX_CODE as i32)
        };
    }
    if let Some(out) = code_bytes.first_chunk_mut() {
        pack_two_bits(&codes, out);
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
    let (scales, rest) = block.split_at(16);
    let (codes, scale) = rest.split_at(64);
    let d = get_f16([scale[0], scale[1]]);
    let dmin = get_f16([scale[2], scale[3]]);
    for (n, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let step = d * f32::from(scales[n] & 0x0f);
        let min = dmin * f32::from(scales[n] >> 4);
        let (half, shift, odd) = (n / 8, n % 8 / 2 * 2, n % 2);
        let codes = &codes[32 * half + 16 * odd..][..16];
        for (out, code) in out.iter_mut().zip(codes) {
            *out = step * f32::from(code >> shift & 3) - min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_by_hand() {
        let mut block = [0; BYTES];
        (block[81], block[83]) = (0x3c, 0x3c); // d = dmin = 1
        (block[0], block[2], block[4]) = (0x12, 0x01, 0x20);
        block[16] = 0b11_10_01_00;
        let mut out = [0.0; WEIGHTS];
        decode(&block, &mut out);
        assert_eq!((out[0], out[32], out[64], out[128]), (-1.0, 1.0, -2.0, 0.0));
    }

    #[test]
    fn a_grid_of_four_values_comes_back() {
        let row: Vec<f32> = (0..5 * WEIGHTS).map(|i| (i * 7 % 4) as f32 - 1.0).collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 5 * BYTES], [0.0; 5 * WEIGHTS]);
            encode(&row, importance.as_deref(), &mut out);
            decode(&out, &mut back);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.01));
        }
    }
}
