//! Q2_K: super-blocks of 256 weights, two-bit codes, a four-bit scale and a
//! four-bit minimum for each 16 weights.
//!
//! Weight = d × scale × code − dmin × minimum.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::scalars::{map_array, round_wrapping};
use super::scale_search::{AffineFits, TrialGrid, fit_affine, fit_nonnegative};
use super::super_block::{
    SUMMED, WEIGHTS, affine_codes, expand, importance_weights, pack_two_bits, square_sums,
};
use super::validate::Check;
use super::weights::scaled_halves_from;

/// Bytes in a super-block: 16 of scales, 64 of codes, d, dmin.
pub(super) const BYTES: usize = 84;

const MAX_CODE: u8 = 3;
const MAX_SCALE: i32 = 15;

const GRID: TrialGrid = TrialGrid {
    first: -0.5,
    step: 0.1,
    trials: 16,
};

/// A super-block: sixteen sub-blocks of 16 weights.
type By16 = [[f32; 16]; 16];

#[inline(always)]
fn super_blocks(row: &[f32]) -> &[By16] {
    row.as_chunks::<16>().0.as_chunks::<16>().0
}

/// Super-blocks searched together, and their sub-blocks: two vectors of the
/// widest kind.
const CHUNK: usize = SUMMED;
const SUB_BLOCKS: usize = 16 * CHUNK;

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
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let out = out.as_chunks_mut::<BYTES>().0.chunks_mut(CHUNK);
        let importance = importance.map(super_blocks);
        let chunks = super_blocks(row).chunks(CHUNK).zip(out);
        for (first, (x, out)) in (0..).step_by(CHUNK).zip(chunks) {
            let importance = importance.map(|all| &all[first..first + x.len()]);
            let fits = fit(isa, x, importance);
            for (k, (x, out)) in x.iter().zip(out).enumerate() {
                let scales = match importance {
                    None => share_scales(&fits, k),
                    Some(_) => fit_scales(&fits, k),
                };
                finish(isa, x, &fits, k, &scales, out);
            }
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]) {
        decode(isa, bytes, out);
    }
}

/// Searches all sub-blocks of a chunk. Without importances the error is absolute
/// and each weight counts by its magnitude.
#[inline(always)]
fn fit<I: Isa>(isa: I, x: &[By16], importance: Option<&[By16]>) -> AffineFits<SUB_BLOCKS> {
    let mut fits = AffineFits::NONE;
    let places = (0..).step_by(I::LANES);
    let Some(importance) = importance else {
        for (at, x) in places.zip(x.as_flattened().chunks(I::LANES)) {
            let x = isa.transpose(x);
            let mut weight = x;
            for weight in &mut weight {
                *weight = weight.abs();
            }
            fits.put(
                at,
                &fit_affine::<I, 16, true>(isa, &x, &weight, MAX_CODE, GRID),
            );
        }
        return fits;
    };
    let mut spreads = [0.0; SUB_BLOCKS];
    let sums = square_sums(x.as_flattened().as_flattened());
    for (spreads, sum) in spreads.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
        *spreads = [sum / WEIGHTS as f32; 16];
    }
    let parts = x.as_flattened().chunks(I::LANES);
    let parts = parts.zip(importance.as_flattened().chunks(I::LANES));
    for (at, (x, importance)) in places.zip(parts) {
        let x = isa.transpose(x);
        let spread = isa.load(&spreads[at..]);
        let weight = importance_weights(&x, &isa.transpose(importance), spread);
        let grid = TrialGrid::WEIGHTED;
        fits.put(
            at,
            &fit_affine::<I, 16, false>(isa, &x, &weight, MAX_CODE, grid),
        );
    }
    fits
}

/// Scales for super-block `k` of a chunk that lower the weighted error of the
/// sub-blocks' own.
#[inline(always)]
fn fit_scales(fits: &AffineFits<SUB_BLOCKS>, k: usize) -> Scales {
    let weight = &part(&fits.total_weight, k);
    Scales {
        scales: fit_nonnegative(&part(&fits.scale, k), weight, MAX_SCALE),
        mins: fit_nonnegative(&part(&fits.min, k), weight, MAX_SCALE),
    }
}

/// The scales of a super-block: half-precision factor and four-bit codes.
struct Scales {
    scales: (f32, [u8; 16]),
    mins: (f32, [u8; 16]),
}

/// The numbers of super-block `k`.
#[inline(always)]
fn part(values: &[f32; SUB_BLOCKS], k: usize) -> [f32; 16] {
    values.as_chunks().0[k]
}

/// Scales for super-block `k` of a chunk: the largest gets the code 15.
#[inline(always)]
fn share_scales(fits: &AffineFits<SUB_BLOCKS>, k: usize) -> Scales {
    Scales {
        scales: share_scale(&part(&fits.scale, k)),
        mins: share_scale(&part(&fits.min, k)),
    }
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

/// Stores the scales of super-block `k` of a chunk, whose weights are `x`, and
/// codes for the scales as stored.
#[inline(always)]
fn finish<I: Isa>(
    isa: I,
    x: &By16,
    fits: &AffineFits<SUB_BLOCKS>,
    k: usize,
    shared: &Scales,
    out: &mut [u8; BYTES],
) {
    let (scale_bytes, rest) = out.split_at_mut(16);
    let (code_bytes, rest) = rest.split_at_mut(64);
    let (d_bytes, dmin_bytes) = rest.split_at_mut(2);
    let (d, dmin) = (f16_bytes(shared.scales.0), f16_bytes(shared.mins.0));
    d_bytes.copy_from_slice(&d);
    dmin_bytes.copy_from_slice(&dmin);
    let (d, dmin) = (get_f16(d), get_f16(dmin));

    let (mut steps, mut mins) = ([0.0; 16], [0.0; 16]);
    for j in 0..16 {
        let packed = shared.scales.1[j] | shared.mins.1[j] << 4;
        scale_bytes[j] = packed;
        steps[j] = d * f32::from(packed & 0x0f);
        mins[j] = dmin * f32::from(packed >> 4);
    }
    let mut codes = [0; WEIGHTS];
    let (step, min, flat) = (expand(isa, &steps), expand(isa, &mins), x.as_flattened());
    for at in (0..WEIGHTS).step_by(I::LANES) {
        let (x, step) = (isa.load(&flat[at..]), isa.load(&step[at..]));
        let min = isa.load(&min[at..]);
        affine_codes(isa, x, step, min, MAX_CODE).store_bytes(&mut codes[at..]);
    }
    for (j, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        if steps[j] == 0.0 {
            *codes = fits.codes(16 * k + j, &x[j], MAX_CODE);
        }
    }
    if let Some(out) = code_bytes.first_chunk_mut() {
        pack_two_bits(&codes, out);
    }
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
    let (scales, rest) = block.split_at(16);
    let (codes, scale) = rest.split_at(64);
    let d = get_f16([scale[0], scale[1]]);
    let dmin = get_f16([scale[2], scale[3]]);
    let scales = scales.as_chunks::<8>().0.iter();
    let halves = scales.zip(codes.as_chunks::<32>().0);
    for ((scales, codes), out) in halves.zip(out.as_chunks_mut::<128>().0) {
        let scales = scales.as_chunks::<2>().0.iter();
        for (n, (scales, out)) in scales.zip(out.as_chunks_mut::<32>().0).enumerate() {
            let codes = map_array(codes, |code| code >> (2 * n) & 3);
            let steps = map_array(scales, |s| d * f32::from(s & 0x0f));
            let lows = map_array(scales, |s| -(dmin * f32::from(s >> 4)));
            scaled_halves_from(isa, &codes, steps, lows, out);
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
        (block[81], block[83]) = (0x3c, 0x3c); // d = dmin = 1
        (block[0], block[2], block[4]) = (0x12, 0x01, 0x20);
        block[16] = 0b11_10_01_00;
        let mut out = [0.0; WEIGHTS];
        decode(Scalar, &block, &mut out);
        assert_eq!((out[0], out[32], out[64], out[128]), (-1.0, 1.0, -2.0, 0.0));
    }

    #[test]
    fn a_grid_of_four_values_comes_back() {
        let row: Vec<f32> = (0..5 * WEIGHTS).map(|i| (i * 7 % 4) as f32 - 1.0).collect();
        for importance in [None, Some(vec![1.0; row.len()])] {
            let (mut out, mut back) = ([0; 5 * BYTES], [0.0; 5 * WEIGHTS]);
            Q2K::encode(Scalar, &row, importance.as_deref(), &mut out);
            decode(Scalar, &out, &mut back);
            assert!(row.iter().zip(back).all(|(a, b)| (a - b).abs() < 0.01));
        }
    }
}
