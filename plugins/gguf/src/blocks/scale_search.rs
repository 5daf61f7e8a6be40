//! Searches for the scales of a block that give the least weighted error.
//!
//! All of them try a few roundings and, for each, solve the least-squares
//! problem for the scale. They are the searches of ggml's `ggml-quants.c`
//! (named in each function's documentation), arranged so that sub-blocks, or
//! the trials of one search, run side by side in the lanes of a vector while
//! each sum keeps the reference's order.

mod affine;
mod descent;
mod nonnegative;
mod symmetric;

pub(super) use affine::{AffineFits, TrialGrid, fit_affine};
pub(super) use descent::fit_symmetric_by_descent;
pub(super) use nonnegative::fit_nonnegative;
pub(super) use symmetric::{SymmetricFit, fit_symmetric, fit_symmetric_single};

/// Blocks whose largest magnitude is below this are stored as zeros.
pub(super) const NEGLIGIBLE: f32 = 1e-15;
