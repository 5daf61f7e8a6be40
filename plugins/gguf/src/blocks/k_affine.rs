//! The part that Q4_K and Q5_K share: eight sub-blocks of 32 weights, each with
//! a six-bit scale and a six-bit minimum.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::float::{f16_bytes, get_f16};
use super::scalars::{map_array, round_wrapping};
use super::scale_search::{AffineFits, TrialGrid, fit_affine, fit_nonnegative};
use super::super_block::{By32, SUMMED, affine_codes, by_32, importance_weights, square_sums};

/// Largest six-bit scale.
const MAX_SCALE: u8 = 63;

/// Super-blocks searched together, and their sub-blocks: as many as the widest
/// vectors have lanes.
const CHUNK: usize = SUMMED;
const SUB_BLOCKS: usize = 8 * CHUNK;

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

/// What tells the types apart.
pub(super) struct Affine {
    pub(super) max_code: u8,
    /// Trials without importance weights.
    pub(super) grid: TrialGrid,
    /// Largest scale stored where there are importance weights.
    pub(super) max_weighted_scale: u8,
}

impl Affine {
    /// Quantizes a row; `pack` gets each super-block and its place.
    #[inline(always)]
    pub(super) fn encode<I: Isa>(
        &self,
        isa: I,
        row: &[f32],
        importance: Option<&[f32]>,
        mut pack: impl FnMut(usize, &Quantized),
    ) {
        let blocks = by_32(row);
        let importance = importance.map(by_32);
        for (first, x) in (0..).step_by(CHUNK).zip(blocks.chunks(CHUNK)) {
            let importance = importance.map(|all| &all[first..first + x.len()]);
            let fits = self.fit(isa, x, importance);
            for (k, x) in x.iter().enumerate() {
                let scales = match importance {
                    None => share_scales(&fits, k),
                    Some(_) => self.fit_scales(&fits, k),
                };
                pack(first + k, &self.finish(isa, x, &fits, k, &scales));
            }
        }
    }

    /// Searches all sub-blocks of a chunk.
    #[inline(always)]
    fn fit<I: Isa>(
        &self,
        isa: I,
        x: &[By32],
        importance: Option<&[By32]>,
    ) -> AffineFits<SUB_BLOCKS> {
        let mut fits = AffineFits::NONE;
        let Some(importance) = importance else {
            for (at, x) in (0..)
                .step_by(I::LANES)
                .zip(x.as_flattened().chunks(I::LANES))
            {
                let x = isa.transpose(x);
                let weight = magnitude_weights(isa, &x);
                let fit = fit_affine::<I, 32, false>(isa, &x, &weight, self.max_code, self.grid);
                fits.put(at, &fit);
            }
            return fits;
        };
        let mut spreads = [0.0; SUB_BLOCKS];
        let sums = square_sums(x.as_flattened().as_flattened());
        for (spreads, sum) in spreads.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            *spreads = [2.0 * sum / 256.0; 8];
        }
        let parts = x.as_flattened().chunks(I::LANES);
        let parts = parts.zip(importance.as_flattened().chunks(I::LANES));
        for (at, (x, importance)) in (0..).step_by(I::LANES).zip(parts) {
            let x = isa.transpose(x);
            let spread = isa.load(&spreads[at..]);
            let weight = importance_weights(&x, &isa.transpose(importance), spread);
            let grid = TrialGrid::WEIGHTED;
            let fit = fit_affine::<I, 32, false>(isa, &x, &weight, self.max_code, grid);
            fits.put(at, &fit);
        }
        fits
    }

    /// Scales for super-block `k` of a chunk that lower the weighted error of the
    /// sub-blocks' own.
    #[inline(always)]
    fn fit_scales(&self, fits: &AffineFits<SUB_BLOCKS>, k: usize) -> Scales {
        let weight = &part(&fits.total_weight, k);
        let top = i32::from(MAX_SCALE);
        let limited = |(d, codes)| {
            (
                d,
                map_array(&codes, |code: u8| code.min(self.max_weighted_scale)),
            )
        };
        Scales {
            scales: limited(fit_nonnegative(&part(&fits.scale, k), weight, top)),
            mins: limited(fit_nonnegative(&part(&fits.min, k), weight, top)),
        }
    }

    /// Packs the scales of super-block `k` of a chunk, whose weights are `x`, and
    /// computes the codes for the scales as stored.
    #[inline(always)]
    fn finish<I: Isa>(
        &self,
        isa: I,
        x: &By32,
        fits: &AffineFits<SUB_BLOCKS>,
        k: usize,
        shared: &Scales,
    ) -> Quantized {
        let (d, dmin) = (f16_bytes(shared.scales.0), f16_bytes(shared.mins.0));
        let packed = pack_scales(&shared.scales.1, &shared.mins.1);
        let steps = Steps::new(d, dmin, &packed);
        let mut codes = [[0; 32]; 8];
        for (j, codes) in codes.iter_mut().enumerate() {
            let (step, min) = (steps.step[j], steps.min[j]);
            if step == 0.0 {
                *codes = fits.codes(8 * k + j, &x[j], self.max_code);
            } else {
                let (step, min) = (isa.splat(step), isa.splat(min));
                for at in (0..32).step_by(I::LANES) {
                    let x = isa.load(&x[j][at..]);
                    affine_codes(isa, x, step, min, self.max_code).store_bytes(&mut codes[at..]);
                }
            }
        }
        Quantized {
            d,
            dmin,
            scales: packed,
            codes,
        }
    }
}

/// The scales of a super-block: half-precision factor and six-bit codes.
struct Scales {
    scales: (f32, [u8; 8]),
    mins: (f32, [u8; 8]),
}

/// The numbers of super-block `k`.
#[inline(always)]
fn part(values: &[f32; SUB_BLOCKS], k: usize) -> [f32; 8] {
    values.as_chunks().0[k]
}

/// Weights where no importances are given: large ones count more, by the root
/// mean square of the sub-block plus their magnitude.
#[inline(always)]
fn magnitude_weights<I: Isa>(isa: I, x: &[I::F32; 32]) -> [I::F32; 32] {
    let mut square = isa.splat(0.0);
    for x in x {
        square = square + *x * *x;
    }
    let mean = (square / isa.splat(32.0)).sqrt();
    let mut weight = [mean; 32];
    for (weight, x) in weight.iter_mut().zip(x) {
        *weight = mean + x.abs();
    }
    weight
}

/// Scales for super-block `k` of a chunk: the largest gets the code 63.
#[inline(always)]
fn share_scales(fits: &AffineFits<SUB_BLOCKS>, k: usize) -> Scales {
    Scales {
        scales: share_scale(&part(&fits.scale, k)),
        mins: share_scale(&part(&fits.min, k)),
    }
}

/// The common scale that gives the largest of `x` the code 63, and the codes.
#[inline(always)]
fn share_scale(x: &[f32; 8]) -> (f32, [u8; 8]) {
    let largest = x
        .iter()
        .fold(0.0, |best, &x| if x > best { x } else { best });
    let rate = if largest > 0.0 { 63.0 / largest } else { 0.0 };
    let codes = map_array(x, |x| (round_wrapping(rate * x) as u8).min(MAX_SCALE));
    (largest / 63.0, codes)
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
