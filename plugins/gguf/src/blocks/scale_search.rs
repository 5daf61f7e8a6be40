//! Searches for the scales of a block that give the least weighted error.
//!
//! All of them try a few roundings and, for each, solve the least-squares
//! problem for the scale. They are the searches of ggml's `ggml-quants.c`
//! (named in each function's documentation), arranged so that sub-blocks, or
//! the trials of one search, run side by side in the lanes of a vector while
//! each sum keeps the reference's order.

use llm_quantize_plugin_api::kernels::simd::{Isa, Mask, Vector};

mod affine;
mod descent;
mod nonnegative;
mod symmetric;

pub(super) use affine::{AffineFits, TrialGrid, fit_affine};
pub(super) use descent::{codes_by_descent, fit_by_descent};
pub(super) use nonnegative::fit_nonnegative;
pub(super) use symmetric::{all_codes_at_rates, codes_at_rate, fit_symmetric};

/// Blocks whose largest magnitude is below this are stored as zeros.
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// The first weight of largest magnitude in each lane, and that magnitude. NaN is
/// passed over.
#[inline(always)]
pub(super) fn peak<I: Isa, const S: usize>(isa: I, x: &[I::F32; S]) -> (I::F32, I::F32) {
    let zero = isa.splat(0.0);
    let (mut low, mut high) = (zero, zero);
    for &x in x {
        low = x.smaller(low);
        high = x.larger(high);
    }
    let depth = zero - low;
    if depth.eq(high).any() {
        return first_peak(isa, x);
    }
    let peak = Vector::select(high.lt(depth), low, high);
    (peak, depth.larger(high))
}

/// [`peak`] where the first of two weights that differ in sign has to be found.
#[inline(always)]
fn first_peak<I: Isa, const S: usize>(isa: I, x: &[I::F32; S]) -> (I::F32, I::F32) {
    let (mut peak, mut magnitude) = (isa.splat(0.0), isa.splat(0.0));
    for &x in x {
        let larger = magnitude.lt(x.abs());
        peak = Vector::select(larger, x, peak);
        magnitude = Vector::select(larger, x.abs(), magnitude);
    }
    (peak, magnitude)
}
