//! A signed scale found by changing one code at a time: Q3_K without
//! importance weights.

use super::NEGLIGIBLE;
use crate::blocks::lanes::{LANES, Lanes, map, map_array, round_small, round_wrapping};

/// Passes over the weights at most; ggml's limit.
const PASSES: usize = 5;

/// Groups of sub-blocks searched in turns. A step waits for the one before it
/// to finish; with two groups there is something to do meanwhile.
const GROUPS: usize = 2;

/// Sums that the current codes give, in each lane.
#[derive(Clone, Copy)]
struct Sums {
    lx: Lanes,
    l2: Lanes,
}

/// Scales and codes of two groups of sub-blocks.
pub(in crate::blocks) struct DescentFit<const S: usize> {
    /// Step between codes, of either sign; 0 where all weights are negligible.
    pub(in crate::blocks) scale: [Lanes; GROUPS],
    codes: [[Lanes; S]; GROUPS],
}

impl<const S: usize> DescentFit<S> {
    /// The codes behind the fit, plus `half`, in lane `k` of group `g`; zeros,
    /// without the offset, for negligible weights.
    #[inline(always)]
    pub(in crate::blocks) fn codes(&self, g: usize, k: usize) -> [u8; S] {
        map_array(&self.codes[g], |lanes| lanes[k] as u8)
    }
}

/// `make_q3_quants` of ggml for two groups of eight sub-blocks.
///
/// Squared weights serve as importances.
#[inline(always)]
pub(in crate::blocks) fn fit_symmetric_by_descent<const S: usize>(
    x: &[[Lanes; S]; GROUPS],
    half: f32,
) -> DescentFit<S> {
    let mut magnitude = [[0.0; LANES]; GROUPS];
    let mut codes = [[[0.0; LANES]; S]; GROUPS];
    let mut sums = [Sums {
        lx: [0.0; LANES],
        l2: [0.0; LANES],
    }; GROUPS];
    for g in 0..GROUPS {
        (magnitude[g], sums[g]) = start(&x[g], &mut codes[g], half);
    }
    for _ in 0..PASSES {
        let mut changed = false;
        for i in 0..S {
            for g in 0..GROUPS {
                changed |= improve_code(&x[g][i], &mut codes[g][i], &mut sums[g], half as i32);
            }
        }
        if !changed {
            break;
        }
    }

    let mut scale = [[0.0; LANES]; GROUPS];
    for g in 0..GROUPS {
        let negligible = |k: usize| magnitude[g][k] < NEGLIGIBLE;
        let Sums { lx, l2 } = &sums[g];
        scale[g] = map(|k| {
            if !negligible(k) & (l2[k] > 0.0) {
                lx[k] / l2[k]
            } else {
                0.0
            }
        });
        for codes in &mut codes[g] {
            *codes = map(|k| if negligible(k) { 0.0 } else { codes[k] + half });
        }
    }
    DescentFit { scale, codes }
}

/// Rounds at the scale that maps the largest weight to −half; gives the largest
/// magnitudes and the sums.
#[inline(always)]
fn start<const S: usize>(x: &[Lanes; S], codes: &mut [Lanes; S], half: f32) -> (Lanes, Sums) {
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
    let rate = map(|k| -half / peak[k]);
    let (mut lx, mut l2) = ([0.0; LANES], [0.0; LANES]);
    for i in 0..S {
        codes[i] = map(|k| {
            let code = round_small(rate[k] * x[i][k]);
            let code = if code > half - 1.0 { half - 1.0 } else { code };
            if code < -half { -half } else { code }
        });
        let w = map(|k| x[i][k] * x[i][k]);
        lx = map(|k| lx[k] + w[k] * x[i][k] * codes[i][k]);
        l2 = map(|k| l2[k] + w[k] * codes[i][k] * codes[i][k]);
    }
    (magnitude, Sums { lx, l2 })
}

/// Moves the code of one weight to where the other codes' best scale puts it,
/// in the lanes where that lowers the error. Tells whether any code moved.
#[inline(always)]
fn improve_code(x: &Lanes, code: &mut Lanes, sums: &mut Sums, half: i32) -> bool {
    let w = map(|k| x[k] * x[k]);
    let wx = map(|k| w[k] * x[k]);
    let lx = map(|k| sums.lx[k] - wx[k] * code[k]);
    let l2 = map(|k| sums.l2[k] - w[k] * code[k] * code[k]);
    let moved = map(|k| round_wrapping(x[k] * l2[k] / lx[k]).clamp(-half, half - 1) as f32);
    let new_lx = map(|k| lx[k] + wx[k] * moved[k]);
    let new_l2 = map(|k| l2[k] + w[k] * moved[k] * moved[k]);
    let better = |k: usize| {
        (lx[k] > 0.0)
            & (moved[k] != code[k])
            & (new_l2[k] > 0.0)
            & (new_lx[k] * new_lx[k] * sums.l2[k] > sums.lx[k] * sums.lx[k] * new_l2[k])
    };
    let mut any = false;
    for k in 0..LANES {
        any |= better(k);
    }
    // A branch, so that the next weight needn't wait for sums that stay.
    if any {
        let new_code = map(|k| if better(k) { moved[k] } else { code[k] });
        let kept = Sums {
            lx: map(|k| if better(k) { new_lx[k] } else { sums.lx[k] }),
            l2: map(|k| if better(k) { new_l2[k] } else { sums.l2[k] }),
        };
        *code = new_code;
        *sums = kept;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_grids_are_recovered() {
        let lanes: [Lanes; 16] =
            std::array::from_fn(|i| map(|k| ((i % 8) as f32 - 4.0) * (k as f32 - 3.5)));
        let fit = fit_symmetric_by_descent(&[lanes, lanes], 4.0);
        for (g, scale) in fit.scale.iter().enumerate() {
            for (k, scale) in scale.iter().enumerate() {
                assert!((scale - (k as f32 - 3.5)).abs() < 1e-5);
                let codes = fit.codes(g, k);
                assert!(
                    codes
                        .iter()
                        .enumerate()
                        .all(|(i, &c)| usize::from(c) == i % 8)
                );
            }
        }
    }

    #[test]
    fn negligible_lanes_are_zero_beside_others() {
        let mut x = [[[1.0; LANES]; 16]; 2];
        x[1].iter_mut().for_each(|x| x[2] = 1e-20);
        let fit = fit_symmetric_by_descent(&x, 4.0);
        assert_eq!((fit.scale[1][2], fit.codes(1, 2)), (0.0, [0; 16]));
        assert_eq!((fit.scale[1][3], fit.codes(1, 3)), (-0.25, [0; 16]));
        assert_eq!((fit.scale[0][2], fit.codes(0, 2)), (-0.25, [0; 16]));
    }
}
