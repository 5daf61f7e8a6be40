//! A signed scale for codes −half..half: weight ≈ scale × code.

use super::NEGLIGIBLE;
use crate::blocks::lanes::{LANES, Lanes, map, map_array, round_small, round_wrapping};

/// Trials on each side of the scale that maps the largest weight to −half.
const TRIALS: [i8; 18] = [
    -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9,
];

/// The best scale of each lane's sub-block.
#[derive(Clone, Copy)]
pub(in crate::blocks) struct SymmetricFit {
    /// Step between codes, of either sign; 0 where all weights are negligible.
    pub(in crate::blocks) scale: Lanes,
    /// Codes of the best trial are x × rate, rounded; 0 for negligible weights.
    rate: Lanes,
}

impl SymmetricFit {
    /// What to start an array of fits from.
    pub(in crate::blocks) const NONE: Self = Self {
        scale: [0.0; LANES],
        rate: [0.0; LANES],
    };

    /// The codes behind the fit in lane `k`, plus `half`. All zero, without
    /// the offset, for negligible weights, as in ggml.
    #[inline(always)]
    pub(in crate::blocks) fn codes<const S: usize>(
        &self,
        k: usize,
        x: &[f32; S],
        half: i32,
    ) -> [u8; S] {
        let rate = self.rate[k];
        if rate == 0.0 {
            return [0; S];
        }
        map_array(x, |x| {
            (round_wrapping(rate * x).clamp(-half, half - 1) + half) as u8
        })
    }
}

/// `make_qx_quants` of ggml with error measure 1, for eight sub-blocks.
///
/// `weight` is the importance of each weight; ggml uses the squared weight
/// where none is given.
#[inline(always)]
pub(in crate::blocks) fn fit_symmetric<const S: usize>(
    x: &[Lanes; S],
    weight: &[Lanes; S],
    half: f32,
) -> SymmetricFit {
    let (mut peak, mut magnitude) = ([0.0; LANES], [0.0; LANES]);
    for x in x {
        peak = map(|k| {
            if x[k].abs() > magnitude[k] {
                x[k]
            } else {
                peak[k]
            }
        });
        magnitude = map(|k| {
            if x[k].abs() > magnitude[k] {
                x[k].abs()
            } else {
                magnitude[k]
            }
        });
    }

    let mut wx = [[0.0; LANES]; S];
    for i in 0..S {
        wx[i] = map(|k| weight[i][k] * x[i][k]);
    }
    let mut rate = map(|k| -half / peak[k]);
    let (sum_lx, sum_l2) = project(x, weight, &wx, rate, half);
    let mut scale = map(|k| {
        if sum_l2[k] != 0.0 {
            sum_lx[k] / sum_l2[k]
        } else {
            0.0
        }
    });
    let mut best = map(|k| scale[k] * sum_lx[k]);
    for trial in TRIALS {
        let span = -(half + 0.1 * f32::from(trial));
        let tried = map(|k| span / peak[k]);
        let (sum_lx, sum_l2) = project(x, weight, &wx, tried, half);
        let ratio = map(|k| sum_lx[k] / sum_l2[k]);
        let better = |k: usize| (sum_l2[k] > 0.0) & (sum_lx[k] * sum_lx[k] > best[k] * sum_l2[k]);
        let (was_scale, was_rate) = (scale, rate);
        scale = map(|k| if better(k) { ratio[k] } else { was_scale[k] });
        rate = map(|k| if better(k) { tried[k] } else { was_rate[k] });
        best = map(|k| {
            if better(k) {
                ratio[k] * sum_lx[k]
            } else {
                best[k]
            }
        });
    }
    SymmetricFit {
        scale: map(|k| {
            if magnitude[k] < NEGLIGIBLE {
                0.0
            } else {
                scale[k]
            }
        }),
        rate: map(|k| {
            if magnitude[k] < NEGLIGIBLE {
                0.0
            } else {
                rate[k]
            }
        }),
    }
}

/// Σ w·x·code and Σ w·code² for the codes at one rate.
#[inline(always)]
fn project<const S: usize>(
    x: &[Lanes; S],
    weight: &[Lanes; S],
    wx: &[Lanes; S],
    rate: Lanes,
    half: f32,
) -> (Lanes, Lanes) {
    let (mut sum_lx, mut sum_l2) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..S {
        let code = map(|k| clamp(round_small(rate[k] * x[i][k]), half));
        sum_lx = map(|k| sum_lx[k] + wx[i][k] * code[k]);
        sum_l2 = map(|k| sum_l2[k] + weight[i][k] * code[k] * code[k]);
    }
    (sum_lx, sum_l2)
}

#[inline(always)]
fn clamp(code: f32, half: f32) -> f32 {
    let code = if code > half - 1.0 { half - 1.0 } else { code };
    if code < -half { -half } else { code }
}

/// `make_qx_quants` of ggml with error measure 1, for one block: the scales of
/// a super-block. The trials run side by side.
///
/// Returns the scale and the codes plus `half`.
#[inline(always)]
pub(in crate::blocks) fn fit_symmetric_single<const N: usize>(
    x: &[f32; N],
    weight: &[f32; N],
    half: i32,
) -> (f32, [u8; N]) {
    let (mut peak, mut magnitude) = (0.0, 0.0);
    for &x in x {
        if x.abs() > magnitude {
            (peak, magnitude) = (x, x.abs());
        }
    }
    if magnitude < NEGLIGIBLE {
        return (0.0, [0; N]);
    }

    let span = half as f32;
    let mut rates = [-span / peak; 24];
    for (rate, trial) in rates[1..].iter_mut().zip(TRIALS) {
        *rate = -(span + 0.1 * f32::from(trial)) / peak;
    }
    let (mut sum_lx, mut sum_l2) = ([0.0_f32; 24], [0.0_f32; 24]);
    for (&x, &w) in x.iter().zip(weight) {
        for t in 0..24 {
            let code = round_wrapping(rates[t] * x).clamp(-half, half - 1) as f32;
            sum_lx[t] += w * x * code;
            sum_l2[t] += w * code * code;
        }
    }

    let mut scale = if sum_l2[0] != 0.0 {
        sum_lx[0] / sum_l2[0]
    } else {
        0.0
    };
    let (mut best, mut chosen) = (scale * sum_lx[0], rates[0]);
    for t in 1..=TRIALS.len() {
        if sum_l2[t] > 0.0 && sum_lx[t] * sum_lx[t] > best * sum_l2[t] {
            scale = sum_lx[t] / sum_l2[t];
            best = scale * sum_lx[t];
            chosen = rates[t];
        }
    }
    let codes = map_array(x, |x| {
        (round_wrapping(chosen * x).clamp(-half, half - 1) + half) as u8
    });
    (scale, codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_grids_are_recovered_in_every_lane() {
        let x: [Lanes; 16] = std::array::from_fn(|i| map(|k| (i as f32 - 8.0) * (k as f32 - 3.5)));
        let fit = fit_symmetric(&x, &[[1.0; LANES]; 16], 8.0);
        for k in 0..LANES {
            assert!((fit.scale[k].abs() - (k as f32 - 3.5).abs()).abs() < 1e-5);
            let codes = fit.codes(k, &x.map(|x| x[k]), 8);
            assert!(codes.iter().enumerate().all(|(i, &c)| usize::from(c) == i));
        }
    }

    #[test]
    fn one_block_and_eight_agree() {
        let x: [f32; 16] = std::array::from_fn(|i| ((i * i * 37) % 101) as f32 - 40.0);
        let w: [f32; 16] = std::array::from_fn(|i| 1.0 + (i % 5) as f32);
        let (scale, codes) = fit_symmetric_single(&x, &w, 32);
        let fit = fit_symmetric(&x.map(|x| [x; LANES]), &w.map(|w| [w; LANES]), 32.0);
        assert_eq!(fit.scale, [scale; LANES]);
        assert_eq!(fit.codes(3, &x, 32), codes);
    }

    #[test]
    fn negligible_weights_have_neither_scale_nor_codes() {
        let x = [[1e-16; LANES]; 16];
        let fit = fit_symmetric(&x, &x, 4.0);
        assert_eq!(fit.scale, [0.0; LANES]);
        assert_eq!(fit.codes(0, &[1e-16; 16], 4), [0; 16]);
        assert_eq!(
            fit_symmetric_single(&[0.0; 16], &[1.0; 16], 32),
            (0.0, [0; 16])
        );
    }
}
