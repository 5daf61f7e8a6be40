//! The factor of a Gram matrix.

use llm_quantize_plugin_api::kernels::Parallel;
use ndarray::{Array2, ArrayView2};

use super::{Order, Settings};

/// Why a Gram matrix has no factor.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum FactorError {
    /// Not a Gram matrix.
    #[error("a Gram matrix is square, not {0} x {1}")]
    NotSquare(usize, usize),
    /// The settings do not fit.
    #[error("groups of {group} do not divide {inputs} inputs: choose a group size that does")]
    Group {
        /// Size of a group.
        group: usize,
        /// Columns of the matrix.
        inputs: usize,
    },
    /// Nothing was measured.
    #[error("no token reached the layer: use more or other calibration text, or round to nearest")]
    NoTokens,
    /// Broken statistics.
    #[error(
        "the Gram matrix has a number that is not finite for channel {channel}: the model's \
         activations overflow on the calibration text"
    )]
    NotFinite {
        /// Row of the matrix.
        channel: usize,
    },
    /// Broken statistics, too.
    #[error("the Gram matrix is not positive definite, even with a damping of {damping}")]
    NotDefinite {
        /// The last damping that was tried.
        damping: f64,
    },
}

/// A Gram matrix `H = XᵀX / T + λI`, and its factors, in the order of processing.
#[derive(Debug)]
pub struct Factor {
    pub(super) group: usize,
    pub(super) order: Order,
    /// Original column of each place in the order.
    pub(super) columns: Vec<usize>,
    /// `U`, strictly upper.
    pub(super) upper: Array2<f32>,
    /// `D`.
    pub(super) pivots: Vec<f32>,
    /// Diagonal of the undamped `H`.
    pub(super) diagonal: Vec<f32>,
    /// `λ`.
    pub(super) lambda: f64,
    damping: f64,
}

impl Factor {
    /// Factors the sums `XᵀX` over some tokens.
    ///
    /// If the matrix is not positive definite, the damping is raised step by step.
    ///
    /// # Errors
    /// If the matrix is not one of finite sums, or not positive definite with any damping.
    pub fn new(
        parallel: &dyn Parallel,
        gram: ArrayView2<'_, f32>,
        tokens: u64,
        settings: &Settings,
    ) -> Result<Self, FactorError> {
        let _ = parallel;
        let inputs = gram.ncols();
        if gram.nrows() != inputs {
            return Err(FactorError::NotSquare(gram.nrows(), inputs));
        }
        if settings.group == 0 || !inputs.is_multiple_of(settings.group) {
            return Err(FactorError::Group {
                group: settings.group,
                inputs,
            });
        }
        if tokens == 0 {
            return Err(FactorError::NoTokens);
        }
        for (channel, row) in gram.rows().into_iter().enumerate() {
            if row.iter().any(|x| !x.is_finite()) {
                return Err(FactorError::NotFinite { channel });
            }
        }
        let scale = 1.0 / tokens as f64;
        let diagonal: Vec<f64> = gram.diag().iter().map(|x| f64::from(*x) * scale).collect();
        let mean = diagonal.iter().sum::<f64>() / inputs.max(1) as f64;
        let columns = settings.order.columns(&diagonal, settings.group);
        let mut damping = settings.damping;
        for _ in 0..10 {
            let lambda = if mean > 0.0 { damping * mean } else { 1.0 };
            let mut h = Array2::from_shape_fn((inputs, inputs), |(i, j)| {
                f64::from(gram[[columns[i], columns[j]]]) * scale
            });
            for i in 0..inputs {
                h[[i, i]] += lambda;
            }
            if let Some(pivots) = factor(&mut h) {
                return Ok(Self {
                    group: settings.group,
                    order: settings.order,
                    upper: h.mapv(|x| x as f32),
                    pivots,
                    diagonal: columns.iter().map(|c| diagonal[*c] as f32).collect(),
                    columns,
                    lambda,
                    damping,
                });
            }
            damping = (damping * 2.0).max(0.01);
        }
        Err(FactorError::NotDefinite { damping })
    }

    /// The damping that was needed.
    #[must_use]
    pub const fn damping(&self) -> f64 {
        self.damping
    }
}

/// Replaces the upper triangle by `U`, strictly, and returns `D`.
fn factor(h: &mut Array2<f64>) -> Option<Vec<f32>> {
    let n = h.ncols();
    let mut pivots = vec![0.0; n];
    for k in (0..n).rev() {
        let pivot = h[[k, k]];
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        pivots[k] = pivot as f32;
        for i in 0..k {
            let u = h[[i, k]] / pivot;
            for j in i..k {
                h[[i, j]] -= u * h[[j, k]];
            }
        }
        for i in 0..k {
            h[[i, k]] /= pivot;
        }
    }
    Some(pivots)
}
