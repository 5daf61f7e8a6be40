//! Scale and minimum for codes 0..=max: weight ≈ scale × code − min.

use llm_quantize_plugin_api::kernels::simd::{Isa, Mask, Vector};

use crate::blocks::scalars::round_wrapping;

/// Scales tried: `max_code + first + step × t` codes span the range, for
/// t = 0..trials.
#[derive(Debug, Clone, Copy)]
pub(in crate::blocks) struct TrialGrid {
    pub(in crate::blocks) first: f32,
    pub(in crate::blocks) step: f32,
    pub(in crate::blocks) trials: u8,
}

impl TrialGrid {
    /// The trials wherever there are importance weights.
    pub(in crate::blocks) const WEIGHTED: Self = Self {
        first: -0.9,
        step: 0.05,
        trials: 37,
    };
}

/// The best scale and minimum of each lane's sub-block.
#[derive(Clone, Copy)]
pub(in crate::blocks) struct AffineFit<V> {
    /// Step between codes; 0 where all weights are equal and not positive.
    scale: V,
    /// What is subtracted: the negated value of code 0. Not negative.
    min: V,
    /// Sum of the importances.
    total_weight: V,
    rounding: Rounding<V>,
}

/// Rounding of one trial: codes are (x − low) × rate.
#[derive(Clone, Copy)]
struct Rounding<V> {
    rate: V,
    low: V,
}

/// Best solution so far, in each lane.
struct Best<V> {
    error: V,
    scale: V,
    low: V,
    rounding: Rounding<V>,
}

/// A sub-block of `S` weights in each lane, and what is known about it.
struct Search<'a, I: Isa, const S: usize> {
    isa: I,
    x: &'a [I::F32; S],
    weight: &'a [I::F32; S],
    max_code: f32,
    /// Smallest weight, or 0 if that is smaller.
    low: I::F32,
    high: I::F32,
    sum_w: I::F32,
    sum_wx: I::F32,
}

/// `make_qkx2_quants` and `make_qkx3_quants` of ggml, a sub-block of `S` weights in each lane.
///
/// Each trial rounds from the minimum found so far, so an improvement changes
/// what the later trials see. `ABSOLUTE` measures errors by magnitude instead
/// of square.
#[inline(always)]
pub(in crate::blocks) fn fit_affine<I: Isa, const S: usize, const ABSOLUTE: bool>(
    isa: I,
    x: &[I::F32; S],
    weight: &[I::F32; S],
    max_code: u8,
    grid: TrialGrid,
) -> AffineFit<I::F32> {
    let zero = isa.splat(0.0);
    let search = Search::new(isa, x, weight, f32::from(max_code));
    // One array for all trials: a new one would be filled with zeros each time.
    let mut codes = [zero; S];
    let mut best = search.first::<ABSOLUTE>(&mut codes);
    for trial in 0..grid.trials {
        let span = grid.first + grid.step * f32::from(trial) + search.max_code;
        search.attempt::<ABSOLUTE>(span, &mut codes, &mut best);
    }

    let flat = search.high.eq(search.low);
    let low = Vector::select(flat, search.low, best.low);
    AffineFit {
        scale: Vector::select(flat, zero, best.scale),
        min: low * isa.splat(-1.0),
        total_weight: search.sum_w,
        rounding: Rounding {
            rate: Vector::select(flat, zero, best.rounding.rate),
            low: best.rounding.low,
        },
    }
}

impl<'a, I: Isa, const S: usize> Search<'a, I, S> {
    #[inline(always)]
    fn new(isa: I, x: &'a [I::F32; S], weight: &'a [I::F32; S], max_code: f32) -> Self {
        let (mut low, mut high) = (x[0], x[0]);
        let (mut sum_w, mut sum_wx) = (weight[0], weight[0] * x[0]);
        for i in 1..S {
            low = x[i].smaller(low);
            high = x[i].larger(high);
            sum_w = sum_w + weight[i];
            sum_wx = sum_wx + weight[i] * x[i];
        }
        let zero = isa.splat(0.0);
        Self {
            isa,
            x,
            weight,
            max_code,
            low: Vector::select(low.gt(zero), zero, low),
            high,
            sum_w,
            sum_wx,
        }
    }

    /// The range cut into `max_code` steps.
    #[inline(always)]
    fn first<const ABSOLUTE: bool>(&self, codes: &mut [I::F32; S]) -> Best<I::F32> {
        let rounding = Rounding {
            rate: self.isa.splat(self.max_code) / (self.high - self.low),
            low: self.low,
        };
        self.round(&rounding, codes);
        let scale = self.isa.splat(1.0) / rounding.rate;
        Best {
            error: self.error::<ABSOLUTE>(codes, scale, self.low),
            scale,
            low: self.low,
            rounding,
        }
    }

    /// Rounds with `span` codes over the range, solves for scale and minimum, and
    /// keeps them in the lanes where the error is smaller.
    #[inline(always)]
    fn attempt<const ABSOLUTE: bool>(
        &self,
        span: f32,
        codes: &mut [I::F32; S],
        best: &mut Best<I::F32>,
    ) {
        let zero = self.isa.splat(0.0);
        let rounding = Rounding {
            rate: self.isa.splat(span) / (self.high - best.low),
            low: best.low,
        };
        self.round(&rounding, codes);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for (i, &code) in codes.iter().enumerate() {
            let wl = self.weight[i] * code;
            sum_l = sum_l + wl;
            sum_l2 = sum_l2 + wl * code;
            sum_xl = sum_xl + wl * self.x[i];
        }
        let (sum_w, sum_wx) = (self.sum_w, self.sum_wx);
        let det = sum_w * sum_l2 - sum_l * sum_l;
        let scale = (sum_w * sum_xl - sum_wx * sum_l) / det;
        let low = (sum_l2 * sum_wx - sum_l * sum_xl) / det;
        // The stored minimum has no sign bit: above zero, fit the scale alone.
        let above = low.gt(zero);
        let scale = Vector::select(above, sum_xl / sum_l2, scale);
        let low = Vector::select(above, zero, low);

        let error = self.error::<ABSOLUTE>(codes, scale, low);
        let better = det.gt(zero) & error.lt(best.error);
        let pick = |new, old| Vector::select(better, new, old);
        *best = Best {
            scale: pick(scale, best.scale),
            low: pick(low, best.low),
            error: pick(error, best.error),
            rounding: Rounding {
                rate: pick(rounding.rate, best.rounding.rate),
                low: pick(rounding.low, best.rounding.low),
            },
        };
    }

    /// The codes 0..=`max_code` of all weights.
    #[inline(always)]
    fn round(&self, rounding: &Rounding<I::F32>, codes: &mut [I::F32; S]) {
        let (zero, top) = (self.isa.splat(0.0), self.isa.splat(self.max_code));
        let Rounding { rate, low } = *rounding;
        if self.is_small(rounding) {
            for (code, &x) in codes.iter_mut().zip(self.x) {
                let rounded = (rate * (x - low)).round();
                *code = rounded.smaller(top).larger(zero);
            }
        } else {
            // Flat, overflowing or vanishing ranges.
            for (code, &x) in codes.iter_mut().zip(self.x) {
                let rounded = (rate * (x - low)).round_wrapping();
                *code = rounded.smaller(top).larger(zero);
            }
        }
    }

    /// Whether what is to be rounded is below 2^22 everywhere. Rounding of
    /// differences and products is monotonic, so it is enough to look at the ends.
    #[inline(always)]
    fn is_small(&self, rounding: &Rounding<I::F32>) -> bool {
        let limit = self.isa.splat(4_194_304.0);
        let Rounding { rate, low } = *rounding;
        let first = (rate * (self.low - low)).abs();
        let last = (rate * (self.high - low)).abs();
        (first.lt(limit) & last.lt(limit)).all()
    }

    /// Σ w × cost of what `scale` × code + `low` misses each weight by.
    #[inline(always)]
    fn error<const ABSOLUTE: bool>(
        &self,
        codes: &[I::F32; S],
        scale: I::F32,
        low: I::F32,
    ) -> I::F32 {
        let mut error = self.isa.splat(0.0);
        for (i, &code) in codes.iter().enumerate() {
            let diff = scale * code + low - self.x[i];
            let cost = if ABSOLUTE { diff.abs() } else { diff * diff };
            error = error + self.weight[i] * cost;
        }
        error
    }
}

/// The fits of `N` sub-blocks, field by field.
pub(in crate::blocks) struct AffineFits<const N: usize> {
    /// Steps between codes; 0 where all weights are equal and not positive.
    pub(in crate::blocks) scale: [f32; N],
    /// What is subtracted.
    pub(in crate::blocks) min: [f32; N],
    /// Sums of the importances.
    pub(in crate::blocks) total_weight: [f32; N],
    rate: [f32; N],
    low: [f32; N],
}

impl<const N: usize> AffineFits<N> {
    /// All zero.
    pub(in crate::blocks) const NONE: Self = Self {
        scale: [0.0; N],
        min: [0.0; N],
        total_weight: [0.0; N],
        rate: [0.0; N],
        low: [0.0; N],
    };

    /// Puts the fits of a vector's lanes at sub-blocks `at` and following.
    #[inline(always)]
    pub(in crate::blocks) fn put<V: Vector>(&mut self, at: usize, fit: &AffineFit<V>) {
        fit.scale.store(&mut self.scale[at..]);
        fit.min.store(&mut self.min[at..]);
        fit.total_weight.store(&mut self.total_weight[at..]);
        fit.rounding.rate.store(&mut self.rate[at..]);
        fit.rounding.low.store(&mut self.low[at..]);
    }

    /// The codes behind the fit of sub-block `j`, whose weights are `x`.
    #[inline(always)]
    pub(in crate::blocks) fn codes<const S: usize>(
        &self,
        j: usize,
        x: &[f32; S],
        max_code: u8,
    ) -> [u8; S] {
        let (low, rate) = (self.low[j], self.rate[j]);
        let mut codes = [0; S];
        for (code, x) in codes.iter_mut().zip(x) {
            *code = round_wrapping(rate * (x - low)).clamp(0, i32::from(max_code)) as u8;
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::{Kernel, Level};

    use super::*;

    /// Fits one sub-block in each lane.
    struct Fit<'a, const S: usize> {
        x: &'a [[f32; S]],
        max_code: u8,
    }

    impl<const S: usize> Kernel for Fit<'_, S> {
        type Output = AffineFits<32>;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> AffineFits<32> {
            let mut fits = AffineFits::NONE;
            for (at, x) in (0..).step_by(I::LANES).zip(self.x.chunks(I::LANES)) {
                let weight = [isa.splat(1.0); S];
                let grid = TrialGrid::WEIGHTED;
                let fit =
                    fit_affine::<I, S, false>(isa, &isa.transpose(x), &weight, self.max_code, grid);
                fits.put(at, &fit);
            }
            fits
        }
    }

    #[test]
    fn exact_grids_are_recovered() {
        let x: [[f32; 32]; 32] = std::array::from_fn(|k| {
            std::array::from_fn(|i| (k + 1) as f32 * (i % 16) as f32 - 3.0)
        });
        for level in Level::all() {
            let fits = level.dispatch(Fit {
                x: &x,
                max_code: 15,
            });
            for (k, x) in x.iter().enumerate() {
                assert!((fits.scale[k] - (k + 1) as f32).abs() < 1e-4);
                assert!((fits.min[k] - 3.0).abs() < 1e-3, "{:?}", fits.min);
                let codes = fits.codes(k, x, 15);
                assert!((0..32).all(|i| usize::from(codes[i]) == i % 16));
            }
            assert_eq!(fits.total_weight, [32.0; 32]);
        }
    }

    #[test]
    fn constant_sub_blocks_have_no_scale() {
        let x = [-2.0, 0.0, 2.0, -1e30, 1e-42].map(|x| [x; 16]);
        for level in Level::all() {
            let fits = level.dispatch(Fit { x: &x, max_code: 3 });
            assert_eq!((fits.scale[0], fits.min[0]), (0.0, 2.0));
            assert_eq!((fits.scale[1], fits.min[1]), (0.0, 0.0));
            // A positive constant is the top code of a grid that starts at zero.
            assert!((fits.scale[2] * 3.0 - 2.0).abs() < 1e-6);
            assert_eq!(fits.codes(0, &[-2.0; 16], 3), [0; 16]);
            assert_eq!(fits.codes(2, &[2.0; 16], 3), [3; 16]);
        }
    }
}
