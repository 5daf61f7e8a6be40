//! A signed scale found by changing one code at a time: Q3_K without
//! importance weights.
//!
//! Few sub-blocks have a code that can change at all. A test without division
//! finds them, and only they are searched, gathered into full vectors.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Mask, Vector};

use super::{NEGLIGIBLE, peak};

/// Weights in a sub-block.
const S: usize = 16;

/// Passes over the weights at most; ggml's limit.
const PASSES: usize = 5;

/// A code stays if the quotient that is rounded to the new one is less than
/// this away from it: a bit less than one half.
const SURELY_STAYS: f32 = 0.499;

/// At the ends of the code range the quotient may lie anywhere up to this.
/// Far greater ones wrap when they are rounded.
const SURELY_LIMITED: f32 = 2_097_152.0;

/// `make_q3_quants` of ggml for many sub-blocks: the step between codes, of
/// either sign, of each; 0 where all weights are negligible.
///
/// Squared weights serve as importances. `scales` has room for whole vectors.
#[inline(always)]
pub(in crate::blocks) fn fit_by_descent<I: Isa, const N: usize>(
    isa: I,
    x: &[[f32; S]],
    half: f32,
    scales: &mut [f32; N],
) {
    let mut open = [0; N];
    for (at, x) in (0..).step_by(I::LANES).zip(x.chunks(I::LANES)) {
        let state = State::start(isa, &isa.transpose(x), half);
        state.scale().store(&mut scales[at..]);
        state.open().store_bytes(&mut open[at..]);
    }

    let (mut places, mut count) = ([0_u16; N], 0);
    for (place, open) in (0..).zip(&open[..x.len()]) {
        places[count] = place;
        count += usize::from(*open);
    }
    let mut rows = [[0.0; S]; MAX_LANES];
    for places in places[..count].chunks(I::LANES) {
        for (row, &place) in rows.iter_mut().zip(places) {
            *row = x[usize::from(place)];
        }
        let mut state = State::start(isa, &isa.transpose(&rows[..places.len()]), half);
        state.descend();
        let mut found = [0.0; MAX_LANES];
        state.scale().store(&mut found);
        for (&place, &scale) in places.iter().zip(&found) {
            scales[usize::from(place)] = scale;
        }
    }
}

/// The codes behind the scales of sub-blocks, plus `half`; zeros, without the
/// offset, for negligible weights.
#[inline(always)]
pub(in crate::blocks) fn codes_by_descent<I: Isa, const N: usize>(
    isa: I,
    x: &[[f32; S]; N],
    half: f32,
) -> [[u8; S]; N] {
    let mut codes = [[0; S]; N];
    for (x, codes) in x.chunks(I::LANES).zip(codes.chunks_mut(I::LANES)) {
        let mut state = State::start(isa, &isa.transpose(x), half);
        let negligible = state.negligible();
        if negligible.all() {
            continue;
        }
        state.descend();
        for (i, &code) in state.code.iter().enumerate() {
            let code = Vector::select(negligible, isa.splat(0.0), code + isa.splat(half));
            let mut column = [0; MAX_LANES];
            code.store_bytes(&mut column);
            for (codes, code) in codes.iter_mut().zip(column) {
                codes[i] = code;
            }
        }
    }
    codes
}

/// What the codes of a sub-block in each lane give.
#[derive(Clone, Copy)]
struct Sums<V> {
    /// Σ x³ × code.
    lx: V,
    /// Σ x² × code².
    l2: V,
}

/// Codes of a sub-block in each lane, and the sums that they give.
struct State<I: Isa> {
    isa: I,
    x: [I::F32; S],
    code: [I::F32; S],
    /// Each weight's part of `sums.lx`: x³ × code.
    part_lx: [I::F32; S],
    /// Each weight's part of `sums.l2`: x² × code².
    part_l2: [I::F32; S],
    sums: Sums<I::F32>,
    /// Largest magnitude of a weight.
    magnitude: I::F32,
    half: f32,
}

impl<I: Isa> State<I> {
    /// Rounds at the scale that maps the largest weight to −half.
    #[inline(always)]
    fn start(isa: I, x: &[I::F32; S], half: f32) -> Self {
        let zero = isa.splat(0.0);
        let (peak, magnitude) = peak(isa, x);
        let mut state = Self {
            isa,
            x: *x,
            code: [zero; S],
            part_lx: [zero; S],
            part_l2: [zero; S],
            sums: Sums { lx: zero, l2: zero },
            magnitude,
            half,
        };
        let rate = isa.splat(-half) / peak;
        let top = isa.splat(half - 1.0);
        let mut sums = state.sums;
        for (i, &x) in x.iter().enumerate() {
            // No weight is below −half at this rate.
            let code = (rate * x).round().smaller(top);
            let w = x * x;
            state.code[i] = code;
            state.part_lx[i] = w * x * code;
            state.part_l2[i] = w * code * code;
            sums.lx = sums.lx + state.part_lx[i];
            sums.l2 = sums.l2 + state.part_l2[i];
        }
        state.sums = sums;
        state
    }

    #[inline(always)]
    fn negligible(&self) -> <I::F32 as Vector>::Mask {
        self.magnitude.lt(self.isa.splat(NEGLIGIBLE))
    }

    /// The best scale for the codes.
    #[inline(always)]
    fn scale(&self) -> I::F32 {
        let zero = self.isa.splat(0.0);
        let solved = self.sums.l2.gt(zero) & !self.negligible();
        Vector::select(solved, self.sums.lx / self.sums.l2, zero)
    }

    /// 1 in lanes where a code might change, else 0. As long as none does, the
    /// sums stay, so the weights can be looked at all at once.
    #[inline(always)]
    fn open(&self) -> I::F32 {
        let mut open = self.may_change(0, &self.sums);
        for i in 1..S {
            open = open | self.may_change(i, &self.sums);
        }
        let (zero, one) = (self.isa.splat(0.0), self.isa.splat(1.0));
        Vector::select(open & !self.negligible(), one, zero)
    }

    /// Moves codes until no move lowers an error.
    #[inline(always)]
    fn descend(&mut self) {
        let zero = self.isa.splat(0.0);
        let mut sums = self.sums;
        // Where the last pass moved something: nothing will move elsewhere.
        let mut active = zero.eq(zero);
        for pass in 0..PASSES {
            let mut moved = zero.lt(zero);
            for i in 0..S {
                if pass == 0 || (self.may_change(i, &sums) & active).any() {
                    moved = moved | self.improve(i, &mut sums);
                }
            }
            if !moved.any() {
                break;
            }
            active = moved;
        }
        self.sums = sums;
    }

    /// Lanes where [`improve`](Self::improve) may find another code: those where
    /// x × l2 ÷ lx is not surely rounded or limited to the present one.
    ///
    /// Multiplied out there is no division to wait for. Both sides are rounded,
    /// which keeps their order, so no change is missed; NaN counts as one.
    #[inline(always)]
    fn may_change(&self, i: usize, sums: &Sums<I::F32>) -> <I::F32 as Vector>::Mask {
        let zero = self.isa.splat(0.0);
        let margin = self.isa.splat(SURELY_STAYS);
        let limit = self.isa.splat(SURELY_LIMITED);
        let (low, high) = (self.isa.splat(-self.half), self.isa.splat(self.half - 1.0));
        let code = self.code[i];
        let lx = sums.lx - self.part_lx[i];
        let l2 = sums.l2 - self.part_l2[i];
        let upper = Vector::select(code.lt(high), code + margin, limit);
        let lower = Vector::select(code.gt(low), code - margin, zero - limit);
        let product = self.x[i] * l2;
        let stays = product.lt(upper * lx) & product.gt(lower * lx);
        lx.gt(zero) & !stays
    }

    /// Moves the code of one weight to where the other codes' best scale puts
    /// it, in the lanes where that lowers the error. Tells which they are.
    #[inline(always)]
    fn improve(&mut self, i: usize, sums: &mut Sums<I::F32>) -> <I::F32 as Vector>::Mask {
        let zero = self.isa.splat(0.0);
        let (low, high) = (self.isa.splat(-self.half), self.isa.splat(self.half - 1.0));
        let x = self.x[i];
        let w = x * x;
        let lx = sums.lx - self.part_lx[i];
        let l2 = sums.l2 - self.part_l2[i];
        let code = (x * l2 / lx).round_wrapping().smaller(high).larger(low);
        let part_lx = w * x * code;
        let part_l2 = w * code * code;
        let (new_lx, new_l2) = (lx + part_lx, l2 + part_l2);
        let explained = sums.lx * sums.lx * new_l2;
        let better = lx.gt(zero)
            & !code.eq(self.code[i])
            & new_l2.gt(zero)
            & (new_lx * new_lx * sums.l2).gt(explained);
        self.code[i] = Vector::select(better, code, self.code[i]);
        self.part_lx[i] = Vector::select(better, part_lx, self.part_lx[i]);
        self.part_l2[i] = Vector::select(better, part_l2, self.part_l2[i]);
        sums.lx = Vector::select(better, new_lx, sums.lx);
        sums.l2 = Vector::select(better, new_l2, sums.l2);
        better
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::{Kernel, Level};

    use super::*;

    /// Fits 40 sub-blocks.
    struct Fit<'a>(&'a [[f32; S]; 40]);

    impl Kernel for Fit<'_> {
        /// Scales and codes.
        type Output = ([f32; 64], [[u8; S]; 40]);

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let mut scales = [f32::NAN; 64];
            fit_by_descent(isa, self.0, 4.0, &mut scales);
            (scales, codes_by_descent(isa, self.0, 4.0))
        }
    }

    #[test]
    fn exact_grids_are_recovered() {
        let step = |k: usize| k as f32 - 19.5;
        let x = std::array::from_fn(|k| std::array::from_fn(|i| ((i % 8) as f32 - 4.0) * step(k)));
        for level in Level::all() {
            let (scales, codes) = level.dispatch(Fit(&x));
            for (k, codes) in codes.iter().enumerate() {
                assert!((scales[k] - step(k)).abs() < 1e-5);
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
        let mut x = [[1.0; S]; 40];
        x[18] = [1e-20; S];
        for level in Level::all() {
            let (scales, codes) = level.dispatch(Fit(&x));
            assert_eq!((scales[17], scales[18], scales[19]), (-0.25, 0.0, -0.25));
            assert_eq!((codes[18], codes[19]), ([0; S], [0; S]));
        }
    }

    /// ggml's loop, word for word.
    fn reference(x: &[f32; S]) -> (f32, [u8; S]) {
        let peak = x.iter().fold(
            0.0_f32,
            |peak, x| if x.abs() > peak.abs() { *x } else { peak },
        );
        if peak.abs() < NEGLIGIBLE {
            return (0.0, [0; S]);
        }
        let rounded =
            |value: f32| crate::blocks::scalars::round_wrapping(value).clamp(-4, 3) as f32;
        let mut codes = x.map(|x| rounded(-4.0 / peak * x));
        let (mut lx, mut l2) = (0.0, 0.0);
        for (x, code) in x.iter().zip(&codes) {
            lx += x * x * x * code;
            l2 += x * x * code * code;
        }
        for _ in 0..PASSES {
            let mut moved = false;
            for (x, code) in x.iter().zip(&mut codes) {
                let w = x * x;
                let (mut new_lx, mut new_l2) = (lx - w * x * *code, l2 - w * *code * *code);
                let new = rounded(x * new_l2 / new_lx);
                if new_lx > 0.0 && new != *code {
                    new_lx += w * x * new;
                    new_l2 += w * new * new;
                    if new_l2 > 0.0 && new_lx * new_lx * l2 > lx * lx * new_l2 {
                        (*code, lx, l2, moved) = (new, new_lx, new_l2, true);
                    }
                }
            }
            if !moved {
                break;
            }
        }
        let scale = if l2 > 0.0 { lx / l2 } else { 0.0 };
        (scale, codes.map(|code| (code + 4.0) as u8))
    }

    use proptest::prelude::*;

    /// Sub-blocks of few and of many magnitudes, down to where squares underflow
    /// and up to where they overflow.
    fn sub_block() -> impl Strategy<Value = [f32; S]> {
        let weight = prop_oneof![
            -1.0f32..1.0,
            (-8i32..8).prop_map(|n| n as f32 / 8.0),
            Just(0.0),
            any::<f32>().prop_map(|x| if x.is_finite() { x } else { 1.0 }),
        ];
        let ordinary = prop::array::uniform16(-1.0f32..1.0);
        let exponent = prop_oneof![Just(0), -48i32..38];
        (
            prop_oneof![ordinary, prop::array::uniform16(weight)],
            exponent,
        )
            .prop_map(|(x, e)| x.map(|x| (f64::from(x) * 10_f64.powi(e)).clamp(-3e38, 3e38) as f32))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn sub_blocks_end_where_ggml_ends(x in prop::collection::vec(sub_block(), 40)) {
            let x: &[[f32; S]; 40] = x.as_slice().try_into()?;
            for level in Level::all() {
                let (scales, codes) = level.dispatch(Fit(x));
                for (x, (scale, codes)) in x.iter().zip(scales.iter().zip(codes)) {
                    let (expected, expected_codes) = reference(x);
                    let same = scale.to_bits() == expected.to_bits()
                        || (scale.is_nan() && expected.is_nan());
                    prop_assert!(same, "{}: {scale:e} and not {expected:e}", level.name());
                    prop_assert_eq!(codes, expected_codes);
                }
            }
        }
    }
}
