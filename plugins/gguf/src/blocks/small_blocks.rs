//! What the types with blocks of 32 weights and four- or five-bit codes share.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Vector};

use super::lanes::{map_array, min_max, truncate};
use super::scale_search::{AffineFits, TrialGrid, codes_at_rate, fit_affine, fit_symmetric};
use super::super_block::{importance_weights, square_sum};

/// Weights in a block.
pub(super) const WEIGHTS: usize = 32;

/// Codes of a block, one a byte.
pub(super) type Codes = [u8; WEIGHTS];

/// Weight that ggml adds to each squared weight before it scales importances:
/// the mean square of the row.
#[inline(always)]
pub(super) fn mean_square(row: &[f32]) -> f32 {
    square_sum(row) / row.len() as f32
}

/// Scale and codes of a symmetric block without importances: the weight of
/// largest magnitude becomes code 0, which stands for −`half`.
#[inline(always)]
pub(super) fn quantize_symmetric(x: &[f32; WEIGHTS], half: u8) -> (f32, Codes) {
    let half = f32::from(half);
    let scale = peak(x) / -half;
    let rate = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    (scale, truncated(x, rate, half + 0.5, 2.0 * half - 1.0))
}

/// Scale, minimum and codes of an affine block without importances: the range
/// is cut into `max_code` steps.
#[inline(always)]
pub(super) fn quantize_affine(x: &[f32; WEIGHTS], max_code: u8) -> (f32, f32, Codes) {
    let max_code = f32::from(max_code);
    let (low, high) = min_max(x);
    let scale = (high - low) / max_code;
    let rate = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    let offsets = map_array(x, |x| x - low);
    (scale, low, truncated(&offsets, rate, 0.5, max_code))
}

/// x × rate + shift, cut to an integer of at most `max_code`.
#[inline(always)]
fn truncated(x: &[f32; WEIGHTS], rate: f32, shift: f32, max_code: f32) -> Codes {
    if rate.is_infinite() {
        // ggml's conversion of an infinite float to a byte gives 0 on x86.
        return [0; WEIGHTS];
    }
    let mut codes = [0; WEIGHTS];
    for (code, x) in codes.iter_mut().zip(x) {
        let value = x * rate + shift;
        let value = if value > max_code { max_code } else { value };
        *code = truncate(value) as u8;
    }
    codes
}

/// The first of the weights of largest magnitude, with its sign.
#[inline(always)]
fn peak(x: &[f32; WEIGHTS]) -> f32 {
    let (low, high) = min_max(x);
    if high > -low {
        high
    } else if high < -low {
        low
    } else {
        let first = x.iter().find(|x| x.abs() == high);
        first.map_or(0.0, |first| if high == 0.0 { 0.0 } else { *first })
    }
}

/// Searches symmetric blocks with importances; `pack` gets each block's place,
/// scale and codes.
#[inline(always)]
pub(super) fn encode_symmetric<I: Isa>(
    isa: I,
    row: &[f32],
    importance: &[f32],
    half: u8,
    mut pack: impl FnMut(usize, f32, &Codes),
) {
    let spread = isa.splat(mean_square(row));
    let [row, importance] = [row, importance].map(|row| row.as_chunks::<WEIGHTS>().0);
    let groups = row.chunks(I::LANES).zip(importance.chunks(I::LANES));
    for (first, (blocks, importance)) in (0..).step_by(I::LANES).zip(groups) {
        let x = isa.transpose(blocks);
        let weight = importance_weights(&x, &isa.transpose(importance), spread);
        let fit = fit_symmetric(isa, &x, &weight, f32::from(half));
        let (mut scales, mut rates) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
        fit.scale.store(&mut scales);
        fit.rate.store(&mut rates);
        for (k, x) in blocks.iter().enumerate() {
            let codes = codes_at_rate(x, rates[k], i32::from(half));
            pack(first + k, scales[k], &codes);
        }
    }
}

/// Searches affine blocks with importances; `pack` gets each block's place, scale,
/// lowest value and codes.
#[inline(always)]
pub(super) fn encode_affine<I: Isa>(
    isa: I,
    row: &[f32],
    importance: &[f32],
    max_code: u8,
    mut pack: impl FnMut(usize, f32, f32, &Codes),
) {
    let spread = isa.splat(mean_square(row));
    let [row, importance] = [row, importance].map(|row| row.as_chunks::<WEIGHTS>().0);
    let groups = row.chunks(I::LANES).zip(importance.chunks(I::LANES));
    for (first, (blocks, importance)) in (0..).step_by(I::LANES).zip(groups) {
        let x = isa.transpose(blocks);
        let weight = importance_weights(&x, &isa.transpose(importance), spread);
        let grid = TrialGrid::WEIGHTED;
        let fit = fit_affine::<I, WEIGHTS, false>(isa, &x, &weight, max_code, grid);
        let mut fits = AffineFits::<MAX_LANES>::NONE;
        fits.put(0, &fit);
        for (k, x) in blocks.iter().enumerate() {
            let codes = fits.codes(k, x, max_code);
            pack(first + k, fits.scale[k], -fits.min[k], &codes);
        }
    }
}

/// Low four bits of codes: code `j` and code `j + 16` share a byte.
#[inline(always)]
pub(super) fn pack_nibbles(codes: &Codes) -> [u8; 16] {
    let (low, high) = codes.split_at(16);
    let mut out = [0; 16];
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = (low & 0x0f) | high << 4;
    }
    out
}

/// Fifth bits of codes: bit `j` of the word is code `j`'s.
#[inline(always)]
pub(super) fn pack_fifth_bits(codes: &Codes) -> [u8; 4] {
    let mut bits = 0_u32;
    for (j, code) in codes.iter().enumerate() {
        bits |= u32::from(code >> 4 & 1) << j;
    }
    bits.to_le_bytes()
}

/// The codes behind [`pack_nibbles`].
#[inline(always)]
pub(super) fn unpack_nibbles(packed: &[u8; 16]) -> Codes {
    let mut codes = [0; WEIGHTS];
    let (low, high) = codes.split_at_mut(16);
    for ((low, high), packed) in low.iter_mut().zip(high).zip(packed) {
        *low = packed & 0x0f;
        *high = packed >> 4;
    }
    codes
}

/// The codes behind [`pack_nibbles`] and [`pack_fifth_bits`].
#[inline(always)]
pub(super) fn unpack_five_bits(packed: &[u8; 16], fifth: [u8; 4]) -> Codes {
    let bits = u32::from_le_bytes(fifth);
    let mut codes = unpack_nibbles(packed);
    for (j, code) in codes.iter_mut().enumerate() {
        *code |= ((bits >> j & 1) << 4) as u8;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_peaks_decides_the_sign() {
        let mut x = [0.5; WEIGHTS];
        assert_eq!(peak(&x), 0.5);
        x[20] = -2.0;
        assert_eq!(peak(&x), -2.0);
        x[21] = 2.0;
        assert_eq!(peak(&x), -2.0);
        x[3] = 2.0;
        assert_eq!(peak(&x), 2.0);
        assert_eq!(peak(&[0.0; WEIGHTS]), 0.0);
    }

    #[test]
    fn five_bit_codes_come_back() {
        let codes: Codes = std::array::from_fn(|j| (j * 7 % 32) as u8);
        let (low, fifth) = (pack_nibbles(&codes), pack_fifth_bits(&codes));
        assert_eq!(unpack_five_bits(&low, fifth), codes);
        assert_eq!(unpack_nibbles(&low), codes.map(|c| c & 15));
    }

    #[test]
    fn codes_span_the_range() {
        let x = std::array::from_fn(|i| i as f32 - 16.0);
        let (scale, codes) = quantize_symmetric(&x, 16);
        assert_eq!(scale, 1.0);
        assert!(codes.iter().enumerate().all(|(i, &c)| usize::from(c) == i));
        let (scale, low, codes) = quantize_affine(&x, 31);
        assert_eq!((scale, low), (1.0, -16.0));
        assert!(codes.iter().enumerate().all(|(i, &c)| usize::from(c) == i));
    }
}
