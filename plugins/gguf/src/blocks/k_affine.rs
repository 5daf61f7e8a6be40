//! The part that Q4_K and Q5_K share: eight sub-blocks of 32 weights, each with
//! a six-bit scale and a six-bit minimum.

use super::float::{f16_bytes, get_f16};
use super::lanes::{LANES, Lanes, map, map_array, round_wrapping, transpose};
use super::scale_search::{AffineFit, TrialGrid, fit_affine, fit_nonnegative};
use super::super_block::{By32, affine_codes, scaled_importance};

/// Largest six-bit scale.
const MAX_SCALE: u8 = 63;

/// Trials when there are importance weights.
const WEIGHTED_GRID: TrialGrid = TrialGrid {
    first: -0.9,
    step: 0.05,
    trials: 37,
};

/// A super-block ready to be packed.
pub(super) struct Quantized {
    /// Half-precision scale of the scales.
    pub(super) d: [u8; 2],
    /// Half-precision scale of the minimums.
    pub(super) dmin: [u8; 2],
    /// Six-bit scales and minimums, packed.
    pub(super) scales: [u8; 12],
    /// One code a byte.
    pub(super) codes: [[u8; 32]; 8],
}

/// Quantizes a super-block without importance weights.
#[inline(always)]
pub(super) fn quantize_plain(x: &By32, max_code: u8, grid: TrialGrid) -> Quantized {
    let lanes = transpose(x);
    let mut square = [0.0; LANES];
    for x in &lanes {
        square = map(|k| square[k] + x[k] * x[k]);
    }
    let mean = map(|k| (square[k] / 32.0).sqrt());
    let mut weight = [[0.0; LANES]; 32];
    for (weight, x) in weight.iter_mut().zip(&lanes) {
        *weight = map(|k| mean[k] + x[k].abs());
    }
    let fit = fit_affine::<32, false>(&lanes, &weight, f32::from(max_code), grid);

    let (d, scales) = share_scale(&fit.scale);
    let (dmin, mins) = share_scale(&fit.min);
    finish(x, &fit, (d, &scales), (dmin, &mins), max_code)
}

/// Quantizes a super-block with importance weights. `square_sum` is the sum of
/// its squared weights, `max_scale` the largest scale to store.
#[inline(always)]
pub(super) fn quantize_weighted(
    x: &By32,
    importance: &By32,
    square_sum: f32,
    max_code: u8,
    max_scale: u8,
) -> Quantized {
    let lanes = transpose(x);
    let spread = 2.0 * square_sum / 256.0;
    let weight = scaled_importance(&lanes, &transpose(importance), spread);
    let fit = fit_affine::<32, false>(&lanes, &weight, f32::from(max_code), WEIGHTED_GRID);

    let top = i32::from(MAX_SCALE);
    let (d, scales) = fit_nonnegative(&fit.scale, &fit.total_weight, top);
    let (dmin, mins) = fit_nonnegative(&fit.min, &fit.total_weight, top);
    let scales = map_array(&scales, |s| s.min(max_scale));
    let mins = map_array(&mins, |m| m.min(max_scale));
    finish(x, &fit, (d, &scales), (dmin, &mins), max_code)
}

/// The common scale that gives the largest of `x` the code 63, and the codes.
#[inline(always)]
fn share_scale(x: &Lanes) -> (f32, [u8; LANES]) {
    let largest = x
        .iter()
        .fold(0.0, |best, &x| if x > best { x } else { best });
    let rate = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    let codes = map_array(x, |x| (round_wrapping(rate * x) as u8).min(MAX_SCALE));
    (largest / 63.0, codes)
}

/// Packs the scales and computes the codes for the scales as stored.
#[inline(always)]
fn finish(
    x: &By32,
    fit: &AffineFit,
    (d, scales): (f32, &[u8; 8]),
    (dmin, mins): (f32, &[u8; 8]),
    max_code: u8,
) -> Quantized {
    let (d, dmin) = (f16_bytes(d), f16_bytes(dmin));
    let packed = pack_scales(scales, mins);
    let steps = Steps::new(d, dmin, &packed);
    let max_code = i32::from(max_code);
    let mut codes = [[0; 32]; 8];
    for (j, codes) in codes.iter_mut().enumerate() {
        let (step, min) = (steps.step[j], steps.min[j]);
        *codes = if step == 0.0 {
            fit.codes(j, &x[j], max_code)
        } else {
            affine_codes(&x[j], step, min, max_code)
        };
    }
    Quantized {
        d,
        dmin,
        scales: packed,
        codes,
    }
}

/// Eight scales and eight minimums of six bits in twelve bytes: the first four
/// of each have bytes of their own, whose top bits hold the top bits of the
/// last four; the low halves of those fill the remaining bytes.
#[inline(always)]
fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        packed[j + 4] = mins[j] | (mins[j + 4] >> 4) << 6;
        packed[j + 8] = (scales[j + 4] & 0x0f) | (mins[j + 4] & 0x0f) << 4;
    }
    packed
}

/// Step and minimum of each sub-block, as a decoder computes them.
pub(super) struct Steps {
    pub(super) step: [f32; 8],
    pub(super) min: [f32; 8],
}

impl Steps {
    /// Unpacks the scales of a super-block.
    #[inline(always)]
    pub(super) fn new(d: [u8; 2], dmin: [u8; 2], packed: &[u8; 12]) -> Self {
        let (d, dmin) = (get_f16(d), get_f16(dmin));
        let (mut step, mut min) = ([0.0; 8], [0.0; 8]);
        for j in 0..4 {
            let (s, m, both) = (packed[j], packed[j + 4], packed[j + 8]);
            step[j] = d * f32::from(s & 63);
            min[j] = dmin * f32::from(m & 63);
            step[j + 4] = d * f32::from((both & 0x0f) | (s >> 6) << 4);
            min[j + 4] = dmin * f32::from((both >> 4) | (m >> 6) << 4);
        }
        Self { step, min }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_scales_come_back() {
        let scales = [0, 1, 31, 63, 16, 47, 62, 5];
        let mins = [63, 2, 0, 33, 15, 48, 1, 60];
        let one = [0x00, 0x3c];
        let steps = Steps::new(one, one, &pack_scales(&scales, &mins));
        assert_eq!(steps.step, scales.map(f32::from));
        assert_eq!(steps.min, mins.map(f32::from));
    }

    #[test]
    fn the_largest_scale_gets_code_63() {
        let (d, codes) = share_scale(&[0.0, 1.0, 2.0, 6.3, 0.05, 0.04, 3.0, 6.3]);
        assert_eq!(codes, [0, 10, 20, 63, 0, 0, 30, 63]);
        assert!((d - 0.1).abs() < 1e-7);
        assert_eq!(share_scale(&[0.0; 8]), (0.0, [0; 8]));
    }
}
