//! A signed scale for codes −half..half: weight ≈ scale × code.

use llm_quantize_plugin_api::kernels::simd::{Isa, Mask, Vector};

use super::{NEGLIGIBLE, peak};
use crate::blocks::scalars::{map_array, round_wrapping};

/// The best scale of each lane's sub-block.
#[derive(Clone, Copy)]
pub(in crate::blocks) struct SymmetricFit<V> {
    /// Step between codes, of either sign; 0 where all weights are negligible.
    pub(in crate::blocks) scale: V,
    /// Codes of the best trial are x × rate, rounded; 0 for negligible weights.
    pub(in crate::blocks) rate: V,
}

/// The codes of one sub-block behind its fit, plus `half`. All zero, without
/// the offset, for negligible weights, as in ggml.
#[inline(always)]
pub(in crate::blocks) fn codes_at_rate<const S: usize>(
    x: &[f32; S],
    rate: f32,
    half: i32,
) -> [u8; S] {
    if rate == 0.0 {
        return [0; S];
    }
    map_array(x, |x| {
        (round_wrapping(rate * x).clamp(-half, half - 1) + half) as u8
    })
}

/// [`codes_at_rate`] for several sub-blocks.
#[inline(always)]
pub(in crate::blocks) fn all_codes_at_rates<const S: usize, const N: usize>(
    x: &[[f32; S]; N],
    rates: &[f32; N],
    half: i32,
) -> [[u8; S]; N] {
    let mut codes = [[0; S]; N];
    for (codes, (x, &rate)) in codes.iter_mut().zip(x.iter().zip(rates)) {
        *codes = codes_at_rate(x, rate, half);
    }
    codes
}

/// `make_qx_quants` of ggml with error measure 1, for a sub-block in each lane.
///
/// `weight` is the importance of each weight; ggml uses the squared weight
/// where none is given.
#[inline(always)]
pub(in crate::blocks) fn fit_symmetric<I: Isa, const S: usize>(
    isa: I,
    x: &[I::F32; S],
    weight: &[I::F32; S],
    half: f32,
) -> SymmetricFit<I::F32> {
    let zero = isa.splat(0.0);
    let (peak, magnitude) = peak(isa, x);
    let negligible = magnitude.lt(isa.splat(NEGLIGIBLE));
    if negligible.all() {
        return SymmetricFit {
            scale: zero,
            rate: zero,
        };
    }
    let mut wx = *x;
    for (wx, &weight) in wx.iter_mut().zip(weight) {
        *wx = weight * *wx;
    }
    let mut search = Search {
        isa,
        x,
        weight,
        wx,
        half,
        peak,
        best: isa.splat(0.0),
        scale: isa.splat(0.0),
        rate: isa.splat(-half) / peak,
    };
    search.start();
    // The rate decides which ends of the code range rounding can leave.
    for trial in -9..=-6 {
        search.attempt::<false, false>(f32::from(trial as i8));
    }
    for trial in [-5, -4, -3, -2, -1, 1, 2, 3, 4] {
        search.attempt::<true, false>(f32::from(trial as i8));
    }
    for trial in 5..=9 {
        search.attempt::<true, true>(f32::from(trial as i8));
    }
    SymmetricFit {
        scale: Vector::select(negligible, zero, search.scale),
        rate: Vector::select(negligible, zero, search.rate),
    }
}

/// A search and the best that it found so far.
struct Search<'a, I: Isa, const S: usize> {
    isa: I,
    x: &'a [I::F32; S],
    weight: &'a [I::F32; S],
    /// Weight × x.
    wx: [I::F32; S],
    half: f32,
    /// The weight of largest magnitude.
    peak: I::F32,
    /// What the best trial explains of Σ w·x².
    best: I::F32,
    scale: I::F32,
    rate: I::F32,
}

impl<I: Isa, const S: usize> Search<'_, I, S> {
    /// Solves for the scale where the peak's code is −half.
    #[inline(always)]
    fn start(&mut self) {
        let zero = self.isa.splat(0.0);
        let (sum_lx, sum_l2) = self.project::<true, false>(self.rate);
        self.scale = Vector::select(sum_l2.eq(zero), zero, sum_lx / sum_l2);
        self.best = self.scale * sum_lx;
    }

    /// Takes the scale where the peak's code is −(half + trial ÷ 10) if it
    /// is better.
    #[inline(always)]
    fn attempt<const UPPER: bool, const LOWER: bool>(&mut self, trial: f32) {
        let rate = self.isa.splat(-(self.half + 0.1 * trial)) / self.peak;
        let (sum_lx, sum_l2) = self.project::<UPPER, LOWER>(rate);
        let scale = sum_lx / sum_l2;
        let better = sum_l2.gt(self.isa.splat(0.0)) & (sum_lx * sum_lx).gt(self.best * sum_l2);
        self.scale = Vector::select(better, scale, self.scale);
        self.rate = Vector::select(better, rate, self.rate);
        self.best = Vector::select(better, scale * sum_lx, self.best);
    }

    /// Σ w·x·code and Σ w·code² for the codes at one rate, which are limited to
    /// half − 1 if `UPPER` is set and to −half if `LOWER` is.
    #[inline(always)]
    fn project<const UPPER: bool, const LOWER: bool>(&self, rate: I::F32) -> (I::F32, I::F32) {
        let (low, high) = (self.isa.splat(-self.half), self.isa.splat(self.half - 1.0));
        let (mut sum_lx, mut sum_l2) = (self.isa.splat(0.0), self.isa.splat(0.0));
        for i in 0..S {
            let mut code = (rate * self.x[i]).round();
            if UPPER {
                code = code.smaller(high);
            }
            if LOWER {
                code = code.larger(low);
            }
            sum_lx = sum_lx + self.wx[i] * code;
            sum_l2 = sum_l2 + self.weight[i] * code * code;
        }
        (sum_lx, sum_l2)
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::{Kernel, Level};

    use super::*;

    /// Fits sub-blocks of 16, one after the other.
    struct Fit<'a> {
        x: &'a [[f32; 16]],
        half: f32,
    }

    impl Kernel for Fit<'_> {
        /// Scales and rates.
        type Output = Vec<(f32, f32)>;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let mut fits = Vec::new();
            for group in self.x.chunks(I::LANES) {
                let fit =
                    fit_symmetric(isa, &isa.transpose(group), &[isa.splat(1.0); 16], self.half);
                let (mut scales, mut rates) = ([0.0; 32], [0.0; 32]);
                fit.scale.store(&mut scales);
                fit.rate.store(&mut rates);
                fits.extend(scales.into_iter().zip(rates).take(group.len()));
            }
            fits
        }
    }

    #[test]
    fn exact_grids_are_recovered_in_every_lane() {
        let step = |k: usize| k as f32 - 19.5;
        let x: Vec<[f32; 16]> = (0..40)
            .map(|k| std::array::from_fn(|i| (i as f32 - 8.0) * step(k)))
            .collect();
        for level in Level::all() {
            let fits = level.dispatch(Fit { x: &x, half: 8.0 });
            assert_eq!(fits.len(), x.len());
            for (k, (scale, rate)) in fits.into_iter().enumerate() {
                assert!((scale - step(k)).abs() < 1e-5, "{k}: {scale}");
                let codes = codes_at_rate(&x[k], rate, 8);
                assert!(codes.iter().enumerate().all(|(i, &c)| usize::from(c) == i));
            }
        }
    }

    #[test]
    fn negligible_weights_have_neither_scale_nor_codes() {
        for level in Level::all() {
            let fits = level.dispatch(Fit {
                x: &[[1e-16; 16], [1.0; 16]],
                half: 4.0,
            });
            assert_eq!((fits[0], fits[1].0), ((0.0, 0.0), -0.25));
            assert_eq!(codes_at_rate(&[1e-16; 16], 0.0, 4), [0; 16]);
        }
    }
}
