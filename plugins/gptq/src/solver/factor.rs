//! The factor of a Gram matrix.

use llm_quantize_plugin_api::kernels::cholesky::cholesky;
use llm_quantize_plugin_api::kernels::product::Real;
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView2, ArrayViewMut1, Axis};

use super::{Order, Settings};

/// Damping in the place of less, where the first attempts failed or channels were never seen.
const LEAST: f64 = 1e-4;

/// The most damping that is tried: the diagonal is twice its mean by then.
const MOST: f64 = 1.0;

/// Pivots are at least `λ` in exact arithmetic. If one is less than this part of it, rounding
/// errors are as large as what damping adds.
const TRUSTED: f64 = 0.5;

/// Larger matrices are not repeated in double precision, for the memory it takes: their damping is
/// raised.
pub(super) const MOST_IN_DOUBLE: usize = 8192;

/// Rows of a task that copies or scales.
const ROWS: usize = 64;

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
    /// Damping must be a number from 0 to 1.
    #[error("the damping is {0}, but must be from 0 to 1")]
    Damping(f64),
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
    #[error(
        "the Gram matrix is not positive definite, even with a damping of {damping}: the \
         statistics are damaged"
    )]
    NotDefinite {
        /// The last damping that was tried.
        damping: f64,
    },
}

/// A Gram matrix `H = XᵀX`, with the mean of its diagonal scaled to 1, and the factors of
/// `H + λI`, in the order of processing: one for all layers that read the same input.
///
/// Places are numbered backwards: the column that is processed first comes last. That turns the
/// upper factor of the method into the lower triangle of an ordinary Cholesky factor.
#[derive(Debug)]
pub struct Factor {
    group: usize,
    order: Order,
    /// Original column of each place.
    pub(super) columns: Vec<usize>,
    /// Below the diagonal `L` of `(I + L) D (I + L)ᵀ = H + λI`, and above it `H`.
    pub(super) matrix: Array2<f32>,
    /// The diagonal of `D`.
    pub(super) pivots: Vec<f32>,
    /// The diagonal of `H`.
    pub(super) diagonal: Vec<f32>,
    /// What was added to it, as a part of its mean.
    damping: f64,
}

impl Factor {
    /// Factors the sums `XᵀX` over `tokens` tokens; both triangles are read.
    ///
    /// Single precision comes first. If a pivot is not what damping guarantees, double precision
    /// follows, up to 8192 inputs; if that fails, too, the damping is raised step by step.
    ///
    /// # Errors
    /// If the matrix is not one of finite sums, or not positive definite with any damping; and if
    /// the settings do not fit.
    pub fn new(
        parallel: &dyn Parallel,
        gram: ArrayView2<'_, f32>,
        tokens: u64,
        settings: &Settings,
    ) -> Result<Self, FactorError> {
        check(gram, tokens, settings)?;
        let sums: Vec<f64> = gram.diag().iter().map(|x| f64::from(*x)).collect();
        let mean = sums.iter().sum::<f64>() / sums.len().max(1) as f64;
        let scale = if mean > 0.0 { 1.0 / mean } else { 1.0 };
        let mut columns = settings.order.columns(&sums, settings.group);
        columns.reverse();
        let source = Source {
            gram,
            columns: &columns,
            scale,
        };
        let unseen = sums.contains(&0.0);
        let mut damping = settings.damping.max(if unseen { LEAST } else { 0.0 });
        let mut matrix = Array2::zeros(gram.dim());
        let mut pivots = attempt(parallel, &source, damping, &mut matrix);
        // The first attempt in double precision has the damping that was asked for.
        let small = gram.ncols() <= MOST_IN_DOUBLE;
        let mut raise = !small;
        while pivots.is_none() {
            if raise && damping >= MOST {
                return Err(FactorError::NotDefinite { damping });
            }
            if raise {
                damping = (2.0 * damping).clamp(LEAST, MOST);
            }
            pivots = if small {
                let mut double = Array2::<f64>::zeros(gram.dim());
                let pivots = attempt(parallel, &source, damping, &mut double);
                narrow(parallel, &double, &mut matrix);
                pivots
            } else {
                attempt(parallel, &source, damping, &mut matrix)
            };
            raise = true;
        }
        Ok(Self {
            group: settings.group,
            order: settings.order,
            diagonal: columns.iter().map(|c| (sums[*c] * scale) as f32).collect(),
            columns,
            matrix,
            pivots: pivots.unwrap_or_default(),
            damping,
        })
    }

    /// The damping that was needed.
    #[must_use]
    pub const fn damping(&self) -> f64 {
        self.damping
    }

    /// Whether it was made with these settings.
    pub(super) fn fits(&self, settings: &Settings) -> bool {
        self.group == settings.group && self.order == settings.order
    }
}

fn check(gram: ArrayView2<'_, f32>, tokens: u64, settings: &Settings) -> Result<(), FactorError> {
    let (rows, inputs) = gram.dim();
    if rows != inputs {
        return Err(FactorError::NotSquare(rows, inputs));
    }
    let group = settings.group;
    if group == 0 || !inputs.is_multiple_of(group) {
        return Err(FactorError::Group { group, inputs });
    }
    if !(0.0..=MOST).contains(&settings.damping) {
        return Err(FactorError::Damping(settings.damping));
    }
    if tokens == 0 {
        return Err(FactorError::NoTokens);
    }
    for (channel, row) in gram.rows().into_iter().enumerate() {
        if row.iter().any(|x| !x.is_finite()) {
            return Err(FactorError::NotFinite { channel });
        }
    }
    Ok(())
}

/// Where `H` comes from.
struct Source<'a> {
    gram: ArrayView2<'a, f32>,
    columns: &'a [usize],
    scale: f64,
}

/// Fills a matrix with `H` above the diagonal and `L` below it, and returns the pivots.
fn attempt<T: Real + Into<f64>>(
    parallel: &dyn Parallel,
    source: &Source<'_>,
    damping: f64,
    matrix: &mut Array2<T>,
) -> Option<Vec<f32>>
where
    f64: Narrow<T>,
{
    for_rows(parallel, matrix, |place, mut row| {
        let from = source.gram.row(source.columns[place]);
        for (to, column) in row.iter_mut().zip(source.columns) {
            *to = (f64::from(from[*column]) * source.scale).narrow();
        }
        row[place] = (row[place].into() + damping).narrow();
    });
    let noise = f64::EPSILON.max(f64::from(f32::EPSILON) * matrix.ncols() as f64 * 1e-3);
    let smallest = (TRUSTED * damping).max(noise);
    cholesky(parallel, matrix.view_mut(), smallest.narrow()).ok()?;
    let diagonal: Vec<T> = matrix.diag().iter().copied().collect();
    for_rows(parallel, matrix, |place, mut row| {
        for (x, d) in row.iter_mut().zip(&diagonal[..place]) {
            *x = *x / *d;
        }
    });
    let pivots = diagonal.into_iter().map(|d| (d * d).into() as f32);
    Some(pivots.collect())
}

/// Conversion from double precision, rounded.
trait Narrow<T> {
    fn narrow(self) -> T;
}

impl Narrow<f32> for f64 {
    fn narrow(self) -> f32 {
        self as f32
    }
}

impl Narrow<Self> for f64 {
    fn narrow(self) -> Self {
        self
    }
}

fn narrow(parallel: &dyn Parallel, from: &Array2<f64>, to: &mut Array2<f32>) {
    for_rows(parallel, to, |place, mut row| {
        for (to, from) in row.iter_mut().zip(from.row(place)) {
            *to = *from as f32;
        }
    });
}

/// Does something with each row, on all threads.
fn for_rows<T: Send + Sync>(
    parallel: &dyn Parallel,
    matrix: &mut Array2<T>,
    task: impl Fn(usize, ArrayViewMut1<'_, T>) + Sync,
) {
    let chunks = matrix.axis_chunks_iter_mut(Axis(0), ROWS).collect();
    hand_out(parallel, chunks, |index, mut rows| {
        for (i, row) in rows.rows_mut().into_iter().enumerate() {
            task(index * ROWS + i, row);
        }
    });
}
