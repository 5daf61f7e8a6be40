//! What can be chosen.

use super::{Grid, Order};

/// How a weight is quantized.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What numbers a group can hold.
    pub grid: Grid,
    /// Inputs that share a scale; divides the inputs, and is their number for a whole row.
    pub group: usize,
    /// In what order columns are rounded.
    pub order: Order,
    /// What is added to the diagonal of `H`, as a part of its mean.
    pub damping: f64,
    /// How scales are chosen.
    pub scales: ScaleSearch,
    /// What is done after the pass.
    pub refine: Refinement,
}

impl Settings {
    /// The settings that are best by measurement.
    #[must_use]
    pub const fn new(grid: Grid, group: usize) -> Self {
        // The fewer codes there are, the more is won by giving up the extremes.
        let (steps, smallest) = match grid.bits {
            0..=2 => (30, 0.4),
            3 => (30, 0.5),
            _ => (20, 0.7),
        };
        Self {
            grid,
            group,
            order: Order::GroupAware,
            damping: 0.02,
            scales: ScaleSearch {
                steps,
                smallest,
                weighting: Weighting::Pivots,
                signed: true,
                trials: true,
            },
            refine: Refinement { rounds: 2 },
        }
    }
}

/// The search for a group's scale (and zero): the range of its numbers is shrunk step by step, and
/// the step that costs least is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleSearch {
    /// Steps; 0 takes the whole range.
    pub steps: u32,
    /// The last step's part of the range.
    pub smallest: f32,
    /// What an error of a column counts.
    pub weighting: Weighting,
    /// Whether symmetric scales may be negative, which lets the extreme number be the larger end
    /// of the codes.
    pub signed: bool,
    /// Whether some scales around the best are tried by rounding the group with them; only where
    /// groups are neighbours in the order of columns, and no larger than 128.
    pub trials: bool,
}

/// What a squared error of a column counts in the search for scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// The same everywhere.
    Uniform,
    /// The mean square of the column's input.
    Diagonal,
    /// What rounding the column costs: the pivots `D_k`.
    Pivots,
}

/// What is done after the pass over the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refinement {
    /// Sweeps over all columns: scales are fitted to codes, and codes to all others. Scales only
    /// where groups are neighbours in the order of columns, and no larger than 512.
    pub rounds: u32,
}
