//! Rounding to nearest: the base line, and what is left without statistics.

use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, Level, Vector};
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{ArrayView2, Axis};

use super::chunk::{Choices, Chunk};
use super::descent::nearest;
use super::scales::{Lanes, whole};
use super::{Grid, Solution};

/// Rows of a task.
const ROWS: usize = 64;

/// See [`super::round_to_nearest`].
pub(super) fn round_to_nearest(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    grid: Grid,
    group: usize,
) -> Solution {
    let (rows, inputs) = weight.dim();
    assert!(group > 0 && inputs.is_multiple_of(group), "sizes of groups");
    let columns: Vec<usize> = (0..inputs).collect();
    let level = Level::detect();
    let mut solution = Solution::zeros(rows, inputs, inputs / group);
    let parts = solution
        .parts(ROWS)
        .zip(weight.axis_chunks_iter(Axis(0), ROWS));
    hand_out(parallel, parts.collect(), |_, (part, weight)| {
        let mut chunk = Chunk::new(&columns, weight, group);
        round_chunk(level, grid, &columns, &mut chunk);
        chunk.write(&columns, part);
    });
    solution
}

/// Rounds all places of a chunk to nearest.
pub(super) fn round_chunk(level: Level, grid: Grid, columns: &[usize], chunk: &mut Chunk) {
    let places = places(columns);
    for (g, places) in places.chunks_exact(chunk.group).enumerate() {
        level.dispatch(Nearest {
            grid,
            lanes: chunk.lanes,
            places,
            errors: &mut chunk.errors,
            steps: &mut chunk.steps,
            at: g * chunk.lanes,
            choices: &mut chunk.choices,
        });
    }
}

/// The place of each column.
pub(super) fn places(columns: &[usize]) -> Vec<usize> {
    let mut places = vec![0; columns.len()];
    for (place, column) in columns.iter().enumerate() {
        places[*column] = place;
    }
    places
}

/// Rounds the places of a group.
struct Nearest<'a> {
    grid: Grid,
    lanes: usize,
    places: &'a [usize],
    /// In: the weights. Out: what they lost.
    errors: &'a mut [f32],
    /// Out: codes less zeros.
    steps: &'a mut [f32],
    /// First place in `choices`.
    at: usize,
    choices: &'a mut Choices,
}

impl Kernel for Nearest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for lane in (0..self.lanes).step_by(I::LANES) {
            let (mut low, mut high) = (isa.splat(0.0), isa.splat(0.0));
            for place in self.places {
                let x = isa.load(&self.errors[place * self.lanes + lane..]);
                low = x.smaller(low);
                high = x.larger(high);
            }
            let grid: Lanes<I::F32> = whole(isa, self.grid, [low, high]);
            let bounds = grid.bounds(isa, self.grid);
            grid.store(self.choices, self.at + lane);
            for place in self.places {
                let at = place * self.lanes + lane;
                let x = isa.load(&self.errors[at..]);
                let steps = nearest(x, grid.inverse, bounds);
                (x - steps * grid.scale).store(&mut self.errors[at..]);
                steps.store(&mut self.steps[at..]);
            }
        }
    }
}
