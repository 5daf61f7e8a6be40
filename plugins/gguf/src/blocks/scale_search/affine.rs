//! Scale and minimum for codes 0..=max: weight ≈ scale × code − min.

use crate::blocks::lanes::{LANES, Lanes, map, map_array, round_small, round_wrapping};

/// Scales tried: `max_code + first + step × t` codes span the range, for
/// t = 0..trials.
#[derive(Debug, Clone, Copy)]
pub(in crate::blocks) struct TrialGrid {
    pub(in crate::blocks) first: f32,
    pub(in crate::blocks) step: f32,
    pub(in crate::blocks) trials: u8,
}

/// The best scale and minimum of each lane's sub-block.
#[derive(Clone, Copy)]
pub(in crate::blocks) struct AffineFit {
    /// Step between codes; 0 where all weights are equal and not positive.
    pub(in crate::blocks) scale: Lanes,
    /// What is subtracted: the negated value of code 0. Not negative.
    pub(in crate::blocks) min: Lanes,
    /// Sum of the importances.
    pub(in crate::blocks) total_weight: Lanes,
    /// Codes of the best trial are (x − low) × rate, rounded.
    low: Lanes,
    rate: Lanes,
}

impl AffineFit {
    /// What to start an array of fits from.
    pub(in crate::blocks) const NONE: Self = Self {
        scale: [0.0; LANES],
        min: [0.0; LANES],
        total_weight: [0.0; LANES],
        low: [0.0; LANES],
        rate: [0.0; LANES],
    };

    /// The codes behind the fit in lane `k`, whose weights are `x`.
    #[inline(always)]
    pub(in crate::blocks) fn codes<const S: usize>(
        &self,
        k: usize,
        x: &[f32; S],
        max_code: i32,
    ) -> [u8; S] {
        let (low, rate) = (self.low[k], self.rate[k]);
        map_array(x, |x| {
            round_wrapping(rate * (x - low)).clamp(0, max_code) as u8
        })
    }
}

/// Rounding of one trial: codes are (x − low) × rate.
#[derive(Clone, Copy)]
struct Rounding {
    rate: Lanes,
    low: Lanes,
}

/// Best solution so far, in each lane.
struct Best {
    error: Lanes,
    scale: Lanes,
    low: Lanes,
    rounding: Rounding,
}

/// Ends and weighted sums of each sub-block.
struct Survey {
    /// Smallest weight, or 0 if that is smaller.
    low: Lanes,
    high: Lanes,
    sum_w: Lanes,
    sum_wx: Lanes,
}

/// `make_qkx2_quants` and `make_qkx3_quants` of ggml.
///
/// Each trial rounds from the minimum found so far, so an improvement changes
/// what the later trials see. `ABSOLUTE` measures errors by magnitude instead
/// of square.
#[inline(always)]
pub(in crate::blocks) fn fit_affine<const S: usize, const ABSOLUTE: bool>(
    x: &[Lanes; S],
    weight: &[Lanes; S],
    max_code: f32,
    grid: TrialGrid,
) -> AffineFit {
    let survey = survey(x, weight);
    let flat = |k: usize| survey.high[k] == survey.low[k];
    let rounding = Rounding {
        rate: map(|k| max_code / (survey.high[k] - survey.low[k])),
        low: survey.low,
    };
    let codes = round_all(x, &survey, &rounding, max_code);
    let scale = map(|k| 1.0 / rounding.rate[k]);
    let mut best = Best {
        error: weighted_error::<S, ABSOLUTE>(x, weight, &codes, &scale, &survey.low),
        scale,
        low: survey.low,
        rounding,
    };
    for trial in 0..grid.trials {
        let span = grid.first + grid.step * f32::from(trial) + max_code;
        try_span::<S, ABSOLUTE>(x, weight, &survey, span, max_code, &mut best);
    }

    let Rounding { rate, low } = best.rounding;
    AffineFit {
        scale: map(|k| if flat(k) { 0.0 } else { best.scale[k] }),
        min: map(|k| {
            if flat(k) {
                -survey.low[k]
            } else {
                -best.low[k]
            }
        }),
        total_weight: survey.sum_w,
        rate: map(|k| if flat(k) { 0.0 } else { rate[k] }),
        low,
    }
}

#[inline(always)]
fn survey<const S: usize>(x: &[Lanes; S], weight: &[Lanes; S]) -> Survey {
    let (mut low, mut high) = (x[0], x[0]);
    let mut sum_w = weight[0];
    let mut sum_wx = map(|k| weight[0][k] * x[0][k]);
    for i in 1..S {
        low = map(|k| if x[i][k] < low[k] { x[i][k] } else { low[k] });
        high = map(|k| if x[i][k] > high[k] { x[i][k] } else { high[k] });
        sum_w = map(|k| sum_w[k] + weight[i][k]);
        sum_wx = map(|k| sum_wx[k] + weight[i][k] * x[i][k]);
    }
    Survey {
        low: map(|k| if low[k] > 0.0 { 0.0 } else { low[k] }),
        high,
        sum_w,
        sum_wx,
    }
}

/// Rounds with `span` codes over the range, solves for scale and minimum, and
/// keeps them in the lanes where the error is smaller.
#[inline(always)]
fn try_span<const S: usize, const ABSOLUTE: bool>(
    x: &[Lanes; S],
    weight: &[Lanes; S],
    survey: &Survey,
    span: f32,
    max_code: f32,
    best: &mut Best,
) {
    let rounding = Rounding {
        rate: map(|k| span / (survey.high[k] - best.low[k])),
        low: best.low,
    };
    let codes = round_all(x, survey, &rounding, max_code);
    let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for i in 0..S {
        let wl = map(|k| weight[i][k] * codes[i][k]);
        sum_l = map(|k| sum_l[k] + wl[k]);
        sum_l2 = map(|k| sum_l2[k] + wl[k] * codes[i][k]);
        sum_xl = map(|k| sum_xl[k] + wl[k] * x[i][k]);
    }
    let (sum_w, sum_wx) = (&survey.sum_w, &survey.sum_wx);
    let det = map(|k| sum_w[k] * sum_l2[k] - sum_l[k] * sum_l[k]);
    let scale = map(|k| (sum_w[k] * sum_xl[k] - sum_wx[k] * sum_l[k]) / det[k]);
    let low = map(|k| (sum_l2[k] * sum_wx[k] - sum_l[k] * sum_xl[k]) / det[k]);
    // The stored minimum has no sign bit: above zero, fit the scale alone.
    let alone = map(|k| sum_xl[k] / sum_l2[k]);
    let scale = map(|k| if low[k] > 0.0 { alone[k] } else { scale[k] });
    let low = map(|k| if low[k] > 0.0 { 0.0 } else { low[k] });

    let error = weighted_error::<S, ABSOLUTE>(x, weight, &codes, &scale, &low);
    let better = |k: usize| (det[k] > 0.0) & (error[k] < best.error[k]);
    let pick = |new: &Lanes, old: &Lanes| map(|k| if better(k) { new[k] } else { old[k] });
    *best = Best {
        scale: pick(&scale, &best.scale),
        low: pick(&low, &best.low),
        error: pick(&error, &best.error),
        rounding: Rounding {
            rate: pick(&rounding.rate, &best.rounding.rate),
            low: pick(&rounding.low, &best.rounding.low),
        },
    };
}

/// The codes 0..=`max_code` of all weights.
#[inline(always)]
fn round_all<const S: usize>(
    x: &[Lanes; S],
    survey: &Survey,
    rounding: &Rounding,
    max_code: f32,
) -> [Lanes; S] {
    let Rounding { rate, low } = rounding;
    let mut codes = [[0.0; LANES]; S];
    // Eight positions a round: with one, the compiler spreads positions instead
    // of lanes over a vector and shuffles them at great cost.
    let parts = codes
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(x.as_chunks::<8>().0);
    if within_exact_rounding(survey, rounding) {
        for (codes, x) in parts {
            for i in 0..8 {
                codes[i] = map(|k| {
                    let code = round_small(rate[k] * (x[i][k] - low[k]));
                    let code = if code > max_code { max_code } else { code };
                    if code < 0.0 { 0.0 } else { code }
                });
            }
        }
    } else {
        // Flat, overflowing or vanishing ranges.
        for (codes, x) in parts {
            for i in 0..8 {
                codes[i] = map(|k| {
                    let code = round_wrapping(rate[k] * (x[i][k] - low[k]));
                    code.clamp(0, max_code as i32) as f32
                });
            }
        }
    }
    codes
}

/// Whether what is to be rounded is at most 2^22 everywhere. Rounding of
/// differences and products is monotonic, so it is enough to look at the ends.
#[inline(always)]
fn within_exact_rounding(survey: &Survey, rounding: &Rounding) -> bool {
    const LIMIT: f32 = 4_194_304.0;
    let Rounding { rate, low } = rounding;
    let mut within = true;
    for k in 0..LANES {
        let first = (rate[k] * (survey.low[k] - low[k])).abs();
        let last = (rate[k] * (survey.high[k] - low[k])).abs();
        within &= (first < LIMIT) & (last < LIMIT);
    }
    within
}

/// Σ w × cost of what `scale` × code + `low` misses each weight by.
#[inline(always)]
fn weighted_error<const S: usize, const ABSOLUTE: bool>(
    x: &[Lanes; S],
    weight: &[Lanes; S],
    codes: &[Lanes; S],
    scale: &Lanes,
    low: &Lanes,
) -> Lanes {
    let mut error = [0.0; LANES];
    for i in 0..S {
        let diff = map(|k| scale[k] * codes[i][k] + low[k] - x[i][k]);
        let cost = map(|k| {
            if ABSOLUTE {
                diff[k].abs()
            } else {
                diff[k] * diff[k]
            }
        });
        error = map(|k| error[k] + weight[i][k] * cost[k]);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: TrialGrid = TrialGrid {
        first: -0.9,
        step: 0.05,
        trials: 37,
    };

    #[test]
    fn exact_grids_are_recovered() {
        let x: [Lanes; 32] =
            std::array::from_fn(|i| map(|k| (k + 1) as f32 * (i % 16) as f32 - 3.0));
        let fit = fit_affine::<32, false>(&x, &[[1.0; 8]; 32], 15.0, GRID);
        for k in 0..8 {
            assert!(
                (fit.scale[k] - (k + 1) as f32).abs() < 1e-4,
                "{:?}",
                fit.scale
            );
            assert!((fit.min[k] - 3.0).abs() < 1e-3, "{:?}", fit.min);
            let codes = fit.codes(k, &x.map(|x| x[k]), 15);
            assert!(
                codes
                    .iter()
                    .enumerate()
                    .all(|(i, &c)| usize::from(c) == i % 16)
            );
        }
        assert_eq!(fit.total_weight, [32.0; 8]);
    }

    #[test]
    fn constant_sub_blocks_have_no_scale() {
        let x = [[-2.0, 0.0, 2.0, -1e30, 1e-42, 0.0, 0.0, 0.0]; 16];
        let fit = fit_affine::<16, true>(&x, &[[1.0; 8]; 16], 3.0, GRID);
        assert_eq!((fit.scale[0], fit.min[0]), (0.0, 2.0));
        assert_eq!((fit.scale[1], fit.min[1]), (0.0, 0.0));
        // A positive constant is the top code of a grid that starts at zero.
        assert!((fit.scale[2] * 3.0 - 2.0).abs() < 1e-6);
        assert_eq!(fit.codes(0, &[-2.0; 16], 3), [0; 16]);
        assert_eq!(fit.codes(2, &[2.0; 16], 3), [3; 16]);
    }
}
