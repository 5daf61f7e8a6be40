//! Rounding to the nearest: the base line of every search, and its last step.
//!
//! A group's numbers from `low` to `high` get the scale `(high - low) / 15`, rounded to half
//! precision, and the zero `-round(low / scale)`, as in AutoAWQ (Lin et al. 2023,
//! arXiv 2306.00978). `low` is not above zero and `high` not below: a zero is no code outside of
//! 0 to 15, and a group of one sign only would be cut off otherwise.

use llm_quantize_plugin_api::kernels::float16::{f16_to_f32, f32_to_f16};
use llm_quantize_plugin_api::kernels::grouped::{Part, Solution};
use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, Level, MAX_LANES, Vector};
use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{Array2, ArrayView2, Axis};

use crate::levels::HIGHEST;

/// Rows of a task.
const ROWS: usize = 32;
/// The least range of a group, so that there is a scale.
const LEAST_RANGE: f32 = 1e-5;
/// The largest number of half precision.
const LARGEST_SCALE: f32 = 65_504.0;

/// Rounds each weight (`N × K`) to the nearest number of its group's grid. Numbers must be finite.
///
/// # Panics
/// If the group does not divide the columns.
#[must_use]
pub fn round_to_nearest(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    group: usize,
) -> Solution {
    let whole = Array2::ones((weight.nrows(), weight.ncols() / group.max(1)));
    round_clipped(parallel, weight, group, whole.view())
}

/// As [`round_to_nearest`], with grids that cover the parts `clips` (`N × G`) of the groups'
/// ranges only; what lies outside goes to their ends.
///
/// # Panics
/// If the group does not divide the columns, or there are clips for other groups.
#[must_use]
pub fn round_clipped(
    parallel: &dyn Parallel,
    weight: ArrayView2<'_, f32>,
    group: usize,
    clips: ArrayView2<'_, f32>,
) -> Solution {
    let (rows, inputs) = weight.dim();
    assert!(group > 0 && inputs.is_multiple_of(group), "sizes of groups");
    assert_eq!(clips.dim(), (rows, inputs / group), "a clip for each group");
    let level = Level::detect();
    let mut solution = Solution::zeros(rows, inputs, inputs / group);
    let parts = solution.parts(ROWS);
    let parts = parts
        .zip(weight.axis_chunks_iter(Axis(0), ROWS))
        .zip(clips.axis_chunks_iter(Axis(0), ROWS));
    hand_out(parallel, parts.collect(), |_, ((part, weight), clips)| {
        level.dispatch(Nearest {
            weight,
            group,
            clips,
            part,
        });
    });
    solution
}

/// Replaces numbers by what they are rounded to, in groups one after the other. The grids cover
/// the part `clip` of the groups' ranges.
pub fn round_in_place(level: Level, numbers: &mut [f32], group: usize, clip: f32) {
    level.dispatch(InPlace {
        numbers,
        group,
        clip,
    });
}

/// Rounds groups one after the other.
struct InPlace<'a> {
    numbers: &'a mut [f32],
    group: usize,
    clip: f32,
}

impl Kernel for InPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        // Groups are padded with zeros, which are within every range.
        let mut padded = vec![0.0; self.group.next_multiple_of(MAX_LANES)];
        for numbers in self.numbers.chunks_exact_mut(self.group) {
            padded[..self.group].copy_from_slice(numbers);
            let grid = grid(isa, &padded, self.clip);
            for numbers in padded.chunks_exact_mut(I::LANES) {
                (steps(isa, numbers, grid) * isa.splat(grid[0])).store(numbers);
            }
            numbers.copy_from_slice(&padded[..self.group]);
        }
    }
}

/// Rounds some rows.
struct Nearest<'a> {
    weight: ArrayView2<'a, f32>,
    group: usize,
    clips: ArrayView2<'a, f32>,
    part: Part<'a>,
}

impl Kernel for Nearest<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self {
            weight,
            group,
            clips,
            mut part,
        } = self;
        // Groups are padded with zeros, which are within every range.
        let padded = group.next_multiple_of(MAX_LANES);
        let mut numbers = vec![0.0; padded];
        let mut codes = vec![0; padded];
        for (row, weight) in weight.outer_iter().enumerate() {
            for (index, weight) in weight.axis_chunks_iter(Axis(0), group).enumerate() {
                for (number, weight) in numbers.iter_mut().zip(weight) {
                    *number = *weight;
                }
                let [scale, zero] = grid(isa, &numbers, clips[[row, index]]);
                round(isa, &numbers, [scale, zero], &mut codes);
                part.scales[[row, index]] = scale;
                part.zeros[[row, index]] = zero as u8;
                let start = index * group;
                for (input, code) in codes[..group].iter().enumerate() {
                    part.codes[[row, start + input]] = *code;
                }
            }
        }
    }
}

/// Scale and zero of a group, for a part of its range.
#[inline(always)]
fn grid<I: Isa>(isa: I, numbers: &[f32], clip: f32) -> [f32; 2] {
    let (mut low, mut high) = (isa.splat(0.0), isa.splat(0.0));
    for numbers in numbers.chunks_exact(I::LANES) {
        let x = isa.load(numbers);
        low = x.smaller(low);
        high = x.larger(high);
    }
    let (low, high) = (clip * low.min_lane(), clip * high.max_lane());
    let scale = (high - low).max(LEAST_RANGE) / f32::from(HIGHEST);
    let scale = f16_to_f32(f32_to_f16(scale.min(LARGEST_SCALE)));
    let zero = -(low / scale).round_ties_even();
    [scale, zero.clamp(0.0, f32::from(HIGHEST))]
}

/// The codes of a group's numbers.
#[inline(always)]
fn round<I: Isa>(isa: I, numbers: &[f32], grid: [f32; 2], codes: &mut [u8]) {
    let zero = isa.splat(grid[1]);
    let numbers = numbers.chunks_exact(I::LANES);
    for (numbers, codes) in numbers.zip(codes.chunks_exact_mut(I::LANES)) {
        (steps(isa, numbers, grid) + zero).store_bytes(codes);
    }
}

/// Codes of numbers, less the zero.
#[inline(always)]
fn steps<I: Isa>(isa: I, numbers: &[f32], [scale, zero]: [f32; 2]) -> I::F32 {
    let low = isa.splat(-zero);
    let high = isa.splat(f32::from(HIGHEST) - zero);
    // The bounds are whole, so it does not matter that they come before the rounding.
    let steps = isa.load(numbers) / isa.splat(scale);
    steps.larger(low).smaller(high).round()
}

#[cfg(test)]
mod tests;
