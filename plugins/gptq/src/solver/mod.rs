//! From a weight and the Gram matrix of its inputs to codes, scales and zeros.
//!
//! A layer computes `y = W x`. For a rounded weight `Ŵ` the squared error of its outputs over all
//! calibration tokens is `tr(Δ H Δᵀ)`, with `Δ = W − Ŵ` and `H = XᵀX / T`; each row of `W` is a
//! problem of its own. GPTQ (Frantar et al. 2022, arXiv 2210.17323) rounds column after column and
//! lets the columns that are left make up for the error. Its textbook form inverts `H` and takes a
//! Cholesky factor of the inverse. LDLQ (Chee et al. 2023, arXiv 2307.13304, theorem 6) is the same
//! procedure, written with a factor of `H` itself, and that is what runs here: it takes a third of
//! the work, and no inverse, whose errors would go into the weights.
//!
//! With the columns in the order `0, 1, …` of processing, `H = (I + U) D (I + U)ᵀ` for a strictly
//! upper `U` and a diagonal `D`. Then
//!
//! ```text
//! Δ H Δᵀ = Σ_k D_k (w'_k − ŵ_k)²,    w'_k = w_k + Σ_{j<k} (w_j − ŵ_j) U_jk
//! ```
//!
//! so column `k` is rounded to the grid point nearest to its target `w'_k`, and `D_k` is what a
//! unit of squared error costs there.
//!
//! * [`grid`]: what numbers a group can hold;
//! * [`order`]: the order of columns;
//! * [`factor`]: [`Factor`], one for all layers that read the same input;
//! * `scales`, `trial`: the choice of a group's scale and zero;
//! * `feedback`: the pass over the columns, and `refine`: sweeps after it; `descent` is what they
//!   share;
//! * `rows`, `chunk`: rows of a weight side by side, so that each lane of a vector has another row;
//! * `nearest`, `measure`: rounding to nearest, and errors of outputs.

mod chunk;
mod descent;
pub mod factor;
mod feedback;
pub mod grid;
mod measure;
mod nearest;
pub mod order;
mod refine;
mod rows;
mod scales;
mod settings;
#[cfg(test)]
mod tests;
mod trial;

use llm_quantize_plugin_api::kernels::Parallel;
use ndarray::ArrayView2;

pub use factor::{Factor, FactorError};
pub use grid::Grid;
pub use llm_quantize_plugin_api::kernels::grouped::Solution;
pub use order::Order;
pub use settings::{Refinement, ScaleSearch, Settings, Weighting};

/// Why a weight was not quantized.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SolveError {
    /// The weight and the factor are for layers of different sizes.
    #[error(
        "the weight has {weight} inputs, but the Gram matrix {factor}: use the factor of the \
         layer's own input"
    )]
    Inputs {
        /// Columns of the weight.
        weight: usize,
        /// Columns of the Gram matrix.
        factor: usize,
    },
    /// The factor was made for another order or group.
    #[error("the factor was made for other groups or another order of columns: make one for these")]
    Settings,
    /// The weight cannot be rounded.
    #[error(
        "the weight has a number that is not finite in row {row}, column {column}: check the source"
    )]
    NotFinite {
        /// Row of the first one.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Quantizes a weight (outputs × inputs) for the inputs that a factor describes.
///
/// Also returns the relative error of the layer's outputs, `tr(Δ H Δᵀ) / tr(W H Wᵀ)` with `H` as it
/// was measured, without damping; zero if the outputs are all zero. Rows for which that is not
/// below the error of rounding to nearest are rounded to nearest. `cancelled` is asked now and then
/// from all threads. The result does not depend on the number of threads.
///
/// # Errors
/// If the weight does not fit the factor, is not finite, or on cancellation.
pub fn solve(
    parallel: &dyn Parallel,
    factor: &Factor,
    weight: ArrayView2<'_, f32>,
    settings: &Settings,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<(Solution, f64), SolveError> {
    rows::solve(parallel, factor, weight, settings, cancelled)
}

/// Rounds each weight to the nearest number of its group's grid: what others call RTN. Symmetric
/// scales are `2 max|w| / (2^bits − 1)`, asymmetric ones span from the smallest to the largest
/// number, and zero.
///
/// Numbers that are not finite are taken for zeros.
///
/// # Panics
/// If the group does not divide the columns.
#[must_use]
pub fn round_to_nearest(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    settings: &Settings,
) -> Solution {
    nearest::round_to_nearest(parallel, weight, settings.grid, settings.group)
}

/// Bytes that [`Factor::new`] and then [`solve`] allocate at most for a layer, factor and solution
/// included, the Gram matrix and the weight not.
#[must_use]
pub fn scratch_bytes(outputs: u64, inputs: u64, settings: &Settings) -> u64 {
    let square = inputs.saturating_mul(inputs);
    let double = if inputs <= factor::MOST_IN_DOUBLE as u64 {
        8
    } else {
        0
    };
    let groups = inputs / (settings.group as u64).max(1);
    let solution = outputs.saturating_mul(inputs.saturating_add(groups.saturating_mul(5)));
    // A thread has a chunk of rows, what rounding to nearest makes of it, and in sweeps at most as
    // much again where a group is the whole row.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let rows = rows::rows_of_chunk(outputs.try_into().unwrap_or(usize::MAX / 2));
    let in_flight = (rows as u64).saturating_mul(threads as u64);
    let in_flight = in_flight.min(outputs.saturating_add(rows as u64));
    let chunks = in_flight.saturating_mul(inputs).saturating_mul(4 * 8);
    let factor = square.saturating_mul(4 + double);
    factor.max(
        square
            .saturating_mul(4)
            .saturating_add(chunks)
            .saturating_add(solution),
    )
}
