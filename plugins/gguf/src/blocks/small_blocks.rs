//! What the types with blocks of 32 weights and four- or five-bit codes share.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Vector};

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
    let mut out = [0; 4];
    for (byte, codes) in out.iter_mut().zip(codes.as_chunks::<8>().0) {
        // The product's top byte has one bit from each of the word's bytes.
        let fifth = u64::from_le_bytes(*codes) >> 4 & 0x0101_0101_0101_0101;
        *byte = (fifth.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8;
    }
    out
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

/// Place of a code's bit in its byte.
const BITS: Codes = {
    let mut bits = [0; WEIGHTS];
    let mut j = 0;
    while j < WEIGHTS {
        bits[j] = 1 << (j % 8);
        j += 1;
    }
    bits
};

/// The codes behind [`pack_nibbles`] and [`pack_fifth_bits`].
#[inline(always)]
pub(super) fn unpack_five_bits(packed: &[u8; 16], fifth: [u8; 4]) -> Codes {
    let mut codes = unpack_nibbles(packed);
    let mut bits = [0; WEIGHTS];
    for (bits, byte) in bits.as_chunks_mut().0.iter_mut().zip(fifth) {
        *bits = [byte; 8];
    }
    for ((code, bits), bit) in codes.iter_mut().zip(bits).zip(BITS) {
        *code |= if bits & bit == 0 { 0 } else { 16 };
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_bit_codes_come_back() {
        let codes: Codes = std::array::from_fn(|j| (j * 7 % 32) as u8);
        let (low, fifth) = (pack_nibbles(&codes), pack_fifth_bits(&codes));
        assert_eq!(unpack_five_bits(&low, fifth), codes);
        assert_eq!(unpack_nibbles(&low), codes.map(|c| c & 15));
    }
}
