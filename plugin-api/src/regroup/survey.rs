//! Goes through the groups of a weight to find out what is to be known about them.

use crate::interface::{AffineGroups, GroupFacts};
use crate::kernels::float16::{f16_to_f32, f32_to_f16};

/// What was found so far in the rows of a weight. Parts that were gone through apart are
/// [joined](Self::join); any cut into rows gives the same facts.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    bits: u32,
    group_size: u32,
    in_order: bool,
    whole_zeros: bool,
    zeros: [f32; 2],
    steps: [f32; 2],
    negative_scales: bool,
    scale_change: f64,
    offset_change: f64,
}

impl Survey {
    /// Goes through some rows of so many columns, which have been
    /// [checked](AffineGroups::check).
    #[must_use]
    pub fn of(groups: &AffineGroups, cols: usize) -> Self {
        let mut survey = Self {
            bits: groups.bits,
            group_size: groups.group_size,
            in_order: groups.permutation.is_none(),
            whole_zeros: true,
            zeros: [f32::INFINITY, f32::NEG_INFINITY],
            steps: [f32::INFINITY, f32::NEG_INFINITY],
            negative_scales: false,
            scale_change: 0.0,
            offset_change: 0.0,
        };
        // Without their order the groups fit nowhere, so what else is true of them does not matter.
        if survey.in_order && cols > 0 {
            let in_row = cols.div_ceil(groups.group_size as usize);
            let rows = groups.codes.chunks_exact(cols);
            let scales = groups.scales.chunks_exact(in_row);
            let zeros = groups.zeros.chunks_exact(in_row);
            for ((codes, scales), zeros) in rows.zip(scales).zip(zeros) {
                let codes = codes.chunks(groups.group_size as usize);
                for ((codes, scale), zero) in codes.zip(scales).zip(zeros) {
                    survey.add(codes, *scale, *zero);
                }
            }
        }
        survey
    }

    fn add(&mut self, codes: &[u8], scale: f32, zero: f32) {
        let codes = codes.iter().copied();
        let (Some(low), Some(high)) = (codes.clone().min(), codes.max()) else {
            return;
        };
        let steps = turned([low, high].map(|code| f32::from(code) - zero));
        let is_code = zero.fract() == 0.0 && (0.0..256.0).contains(&zero);
        self.whole_zeros &= is_code;
        self.negative_scales |= scale < 0.0;
        self.zeros = widened(self.zeros, [zero, zero]);
        self.steps = widened(self.steps, steps);
        self.scale_change = self.scale_change.max(scale_change(scale));
        let change = offset_change(scale, zero, [low, high]);
        self.offset_change = self.offset_change.max(change);
    }

    /// What was found in both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let same = self.bits == other.bits && self.group_size == other.group_size;
        Self {
            bits: self.bits,
            group_size: self.group_size,
            in_order: self.in_order && other.in_order && same,
            whole_zeros: self.whole_zeros && other.whole_zeros,
            zeros: widened(self.zeros, other.zeros),
            steps: widened(self.steps, other.steps),
            negative_scales: self.negative_scales || other.negative_scales,
            scale_change: self.scale_change.max(other.scale_change),
            offset_change: self.offset_change.max(other.offset_change),
        }
    }

    /// The facts.
    #[must_use]
    pub fn facts(&self) -> GroupFacts {
        // Of what is no number at all `as` makes a zero.
        let outwards = |[low, high]: [f32; 2]| [low.floor() as i32, high.ceil() as i32];
        let finite = |change: f64| change.is_finite().then_some(change);
        GroupFacts {
            bits: self.bits,
            group_size: self.group_size,
            in_order: self.in_order,
            whole_zeros: self.whole_zeros,
            zeros: outwards(self.zeros),
            steps: outwards(self.steps),
            negative_scales: self.negative_scales,
            scale_change: finite(self.scale_change),
            offset_change: finite(self.offset_change),
        }
    }
}

/// The steps of a group, the largest of them below zero: with a zero in the middle there is one more
/// code below it than above, and the scale may have any sign.
fn turned([low, high]: [f32; 2]) -> [f32; 2] {
    match high > -low {
        true => [-high, -low],
        false => [low, high],
    }
}

fn widened([low, high]: [f32; 2], [other_low, other_high]: [f32; 2]) -> [f32; 2] {
    [low.min(other_low), high.max(other_high)]
}

/// The half-precision number nearest to this one, or infinity.
fn half(number: f32) -> f64 {
    f64::from(f16_to_f32(f32_to_f16(number)))
}

/// The relative change of a scale that is rounded; infinite if it is no finite number or becomes
/// none.
fn scale_change(scale: f32) -> f64 {
    let exact = f64::from(scale);
    let rounded = half(scale);
    match (exact == rounded, rounded.is_finite() && exact.is_finite()) {
        (true, true) => 0.0,
        (false, true) => ((rounded - exact) / exact).abs(),
        (_, false) => f64::INFINITY,
    }
}

/// The largest change of a group's weights, relative to the largest of them, if they become
/// `scale · code + offset` in half precision. Between the smallest and the largest code the
/// change is between theirs. Groups of zeros need no scale.
fn offset_change(scale: f32, zero: f32, codes: [u8; 2]) -> f64 {
    let exact = |code: u8| f64::from(scale) * (f64::from(code) - f64::from(zero));
    let largest = codes.map(|code| exact(code).abs());
    let largest = largest[0].max(largest[1]);
    if largest == 0.0 {
        return 0.0;
    }
    let offset = half(-scale * zero);
    let stored = |code: u8| half(scale) * f64::from(code) + offset;
    let changes = codes.map(|code| (stored(code) - exact(code)).abs() / largest);
    // A change that is no number is none to accept.
    match changes.iter().all(|change| change.is_finite()) {
        true => changes[0].max(changes[1]),
        false => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(codes: &[u8], scales: &[f32], zeros: &[f32]) -> AffineGroups {
        AffineGroups {
            bits: 4,
            group_size: 2,
            codes: codes.to_vec(),
            scales: scales.to_vec(),
            zeros: zeros.to_vec(),
            permutation: None,
        }
    }

    fn facts(codes: &[u8], scales: &[f32], zeros: &[f32]) -> GroupFacts {
        Survey::of(&groups(codes, scales, zeros), codes.len()).facts()
    }

    #[test]
    fn zeros_and_steps_are_bounded() {
        let found = facts(&[0, 15, 3, 4], &[0.5, -0.25], &[8.0, 2.0]);
        assert_eq!((found.zeros, found.steps), ([2, 8], [-8, 7]));
        assert!(found.negative_scales && found.whole_zeros && found.in_order);
        assert_eq!(
            (found.scale_change, found.offset_change),
            (Some(0.0), Some(0.0))
        );
        let found = facts(&[0, 15], &[0.5], &[7.5]);
        assert!(!found.whole_zeros);
        assert_eq!((found.zeros, found.steps), ([7, 8], [-8, 8]));
        // The second group is turned over.
        let found = facts(&[7, 15, 0, 8], &[0.5, 0.5], &[7.0, 8.0]);
        assert_eq!((found.zeros, found.steps), ([7, 8], [-8, 0]));
    }

    #[test]
    fn roundings_are_relative() {
        // One and a bit below the last one of half precision.
        let scale = 1.0 + f32::EPSILON;
        let found = facts(&[0, 15], &[scale], &[0.0]);
        let change = found.scale_change.unwrap();
        assert!(change > 0.0 && change < 1.3e-7, "{change}");
        // 11 bits hold 3 · 2049 no more than 4098, their neighbour.
        let found = facts(&[0, 4], &[2049.0 / 2048.0], &[3.0]);
        assert!(found.offset_change.unwrap() > 1e-4);
        for bad in [1e6, f32::INFINITY, f32::NAN] {
            let found = facts(&[0, 4], &[bad], &[3.0]);
            assert_eq!(
                (found.scale_change, found.offset_change),
                (None, None),
                "{bad}"
            );
        }
    }

    #[test]
    fn groups_of_zeros_change_nothing() {
        let found = facts(&[3, 3], &[2049.0 / 2048.0], &[3.0]);
        assert_eq!(found.offset_change, Some(0.0));
    }

    #[test]
    fn parts_join_to_the_whole() {
        let all = groups(
            &[1, 2, 3, 4, 9, 9, 0, 15],
            &[1.0, -2.0, 0.1, 3.0],
            &[1.0, 2.0, 3.0, 4.5],
        );
        let part = |codes: &[u8], scales: &[f32], zeros: &[f32]| {
            Survey::of(&groups(codes, scales, zeros), 4)
        };
        let first = part(&[1, 2, 3, 4], &[1.0, -2.0], &[1.0, 2.0]);
        let second = part(&[9, 9, 0, 15], &[0.1, 3.0], &[3.0, 4.5]);
        let whole = Survey::of(&all, 4);
        assert_eq!(first.clone().join(second.clone()), whole);
        assert_eq!(second.join(first).facts(), whole.facts());
    }

    #[test]
    fn permuted_groups_are_said_so() {
        let mut permuted = groups(&[1, 2], &[1.0], &[1.0]);
        permuted.permutation = Some(vec![0, 0]);
        let found = Survey::of(&permuted, 2);
        assert!(!found.facts().in_order);
        let other = Survey::of(&groups(&[1, 2], &[1.0], &[1.0]), 2);
        assert!(!other.join(found).facts().in_order);
    }
}
