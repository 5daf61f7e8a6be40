//! Groups as they come to a plugin, and how they are arranged.

use ndarray::{Array2, ArrayView2};

use super::Zeros;
use crate::interface::{AffineGroups, ElementType, Error, Result, TensorView};
use crate::kernels::grouped::Solution;

/// Views that come for an input of [groups](crate::UnitInput::groups): codes, scales and zeros.
pub const VIEWS: usize = 3;

/// Rows of a weight in groups: `scale · (code - zero)`.
#[derive(Debug, Clone, Copy)]
pub struct Grouped<'a> {
    codes: ArrayView2<'a, u8>,
    scales: ArrayView2<'a, f32>,
    zeros: ArrayView2<'a, f32>,
}

impl AffineGroups {
    /// The views of so many rows that cross to a plugin.
    ///
    /// # Errors
    /// If there are not as many codes, scales or zeros.
    pub fn views(&self, rows: usize) -> Result<[TensorView<'_>; VIEWS]> {
        let columns = |count: usize| count.checked_div(rows).unwrap_or(0);
        let view = |element, count, bytes| TensorView::new(element, rows, columns(count), bytes);
        let [scales, zeros] = [&self.scales, &self.zeros];
        Ok([
            view(ElementType::Raw, self.codes.len(), &self.codes)?,
            view(ElementType::F32, scales.len(), bytemuck::cast_slice(scales))?,
            view(ElementType::F32, zeros.len(), bytemuck::cast_slice(zeros))?,
        ])
    }
}

impl<'a> Grouped<'a> {
    /// The groups in the views that came for an input.
    ///
    /// # Errors
    /// If they are others.
    pub fn of(views: &[TensorView<'a>]) -> Result<Self> {
        let [codes, scales, zeros] = views else {
            let count = views.len();
            return Err(Error::internal(format!(
                "groups are {VIEWS} views, not {count}"
            )));
        };
        let other = || Error::internal("codes, scales and zeros do not fit each other");
        let numbers = |view: &TensorView<'a>| view.as_array().ok_or_else(other);
        let found = Self {
            codes: ArrayView2::from_shape((codes.rows(), codes.cols()), codes.bytes())
                .map_err(|_| other())?,
            scales: numbers(scales)?,
            zeros: numbers(zeros)?,
        };
        let in_row = found.scales.ncols();
        let fits = codes.element() == ElementType::Raw
            && found.scales.dim() == found.zeros.dim()
            && found.scales.nrows() == found.codes.nrows()
            && in_row > 0
            && found.codes.ncols().is_multiple_of(in_row);
        match fits {
            true => Ok(found),
            false => Err(other()),
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.codes.nrows()
    }

    /// Weights in a row.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.codes.ncols()
    }

    /// The groups of a row, cut into smaller ones of so many weights: codes, scale and zero of
    /// each.
    pub fn row(&self, row: usize, group: usize) -> impl Iterator<Item = (&'a [u8], f32, f32)> {
        let cols = self.codes.ncols();
        let within = cols / self.scales.ncols();
        let codes = self.codes.to_slice().unwrap_or_default();
        let codes = &codes[row * cols..(row + 1) * cols];
        let (scales, zeros) = (self.scales, self.zeros);
        codes
            .chunks(group.max(1))
            .enumerate()
            .map(move |(number, codes)| {
                let place = [row, number * group / within];
                (codes, scales[place], zeros[place])
            })
    }

    /// The groups as a format stores them that has so many bits and weights in a group, and such
    /// zeros. Scales that are zero, which loaders refuse or never see, become one where they stand
    /// for nothing but zeros.
    ///
    /// # Errors
    /// If they do not fit: [`GroupFacts::fit`](crate::GroupFacts::fit) would have said so.
    pub fn arrange(&self, bits: u32, group: usize, zeros: Zeros) -> Result<Solution> {
        let (rows, cols) = self.codes.dim();
        if group == 0 || !(cols / self.scales.ncols()).is_multiple_of(group) {
            return Err(Error::internal(format!(
                "groups of {group} do not fit into those of the source"
            )));
        }
        let mut solution = Solution {
            codes: Array2::zeros((rows, cols)),
            scales: Array2::zeros((rows, cols / group)),
            zeros: Array2::zeros((rows, cols / group)),
        };
        let arrangement = Arrangement { bits, zeros };
        for row in 0..rows {
            for (number, (codes, scale, zero)) in self.row(row, group).enumerate() {
                let mut stored = solution.codes.row_mut(row);
                let stored = stored.as_slice_mut().unwrap_or_default();
                let stored = &mut stored[number * group..][..group];
                let (scale, zero) =
                    arrangement
                        .group(codes, scale, zero, stored)
                        .ok_or_else(|| {
                            Error::internal(format!("row {row}, group {number} does not fit"))
                        })?;
                solution.scales[[row, number]] = scale;
                solution.zeros[[row, number]] = zero;
            }
        }
        Ok(solution)
    }
}

/// How a group is stored.
#[derive(Clone, Copy)]
struct Arrangement {
    bits: u32,
    zeros: Zeros,
}

impl Arrangement {
    /// Stores a group's codes; returns its scale and its zero. `None` if it does not fit.
    fn group(self, codes: &[u8], scale: f32, zero: f32, stored: &mut [u8]) -> Option<(f32, u8)> {
        let (least, most) = (0i32, (1i32 << self.bits) - 1);
        let within = |code: i32| {
            let code = (least..=most).contains(&code).then_some(code)?;
            u8::try_from(code).ok()
        };
        let whole = (zero.fract() == 0.0 && (0.0..256.0).contains(&zero)).then_some(zero as i32)?;
        let (mirrored, target) = match self.zeros {
            Zeros::Middle => {
                let half = 1 << (self.bits - 1);
                let highest = codes
                    .iter()
                    .max()
                    .map_or(0, |code| i32::from(*code) - whole);
                (highest >= half, half)
            }
            Zeros::Codes { lowest } => {
                let mirrored = scale < 0.0;
                // The zero of a mirrored group: that of the whole range of codes.
                let target = if mirrored { most - whole } else { whole };
                (
                    mirrored,
                    Some(target).filter(|zero| *zero >= i32::from(lowest))?,
                )
            }
            Zeros::Offsets => return None,
        };
        let new_zero = within(target)?;
        if scale == 0.0 {
            stored.fill(new_zero);
            return Some((1.0, new_zero));
        }
        for (stored, code) in stored.iter_mut().zip(codes) {
            let step = i32::from(*code) - whole;
            *stored = within(target + if mirrored { -step } else { step })?;
        }
        Some((if mirrored { -scale } else { scale }, new_zero))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Survey;
    use super::*;
    use crate::regroup::Fit;
    use proptest::prelude::*;

    fn groups(bits: u32, codes: Vec<u8>, scales: Vec<f32>, zeros: Vec<f32>) -> AffineGroups {
        AffineGroups {
            bits,
            group_size: 4,
            codes,
            scales,
            zeros,
            permutation: None,
        }
    }

    fn numbers(groups: &AffineGroups) -> Vec<f32> {
        let codes = groups.codes.chunks(groups.group_size as usize);
        let groups = codes.zip(&groups.scales).zip(&groups.zeros);
        let numbers = groups.flat_map(|((codes, scale), zero)| {
            codes
                .iter()
                .map(move |code| scale * (f32::from(*code) - zero))
        });
        numbers.collect()
    }

    fn arranged(groups: &AffineGroups, bits: u32, group: usize, zeros: Zeros) -> Result<Solution> {
        let rows = groups.codes.len() / 8;
        Grouped::of(&groups.views(rows)?)?.arrange(bits, group, zeros)
    }

    #[test]
    fn the_same_arrangement_is_the_same() {
        let groups = groups(4, (0..8).collect(), vec![0.5, 2.0], vec![0.0, 15.0]);
        let solution = arranged(&groups, 4, 4, Zeros::Codes { lowest: 0 }).unwrap();
        assert_eq!(solution.codes.into_raw_vec_and_offset().0, groups.codes);
        assert_eq!(solution.scales.into_raw_vec_and_offset().0, [0.5, 2.0]);
        assert_eq!(solution.zeros.into_raw_vec_and_offset().0, [0, 15]);
    }

    #[test]
    fn negative_scales_are_mirrored_and_zero_scales_replaced() {
        let groups = groups(
            4,
            vec![0, 15, 8, 1, 3, 4, 5, 6],
            vec![-0.5, 0.0],
            vec![8.0, 8.0],
        );
        let solution = arranged(&groups, 4, 4, Zeros::Codes { lowest: 0 }).unwrap();
        assert_eq!(solution.scales.as_slice().unwrap(), [0.5, 1.0]);
        assert_eq!(solution.zeros.as_slice().unwrap(), [7, 8]);
        assert_eq!(solution.dequantize().as_slice().unwrap(), numbers(&groups));
        let kept = arranged(&groups, 4, 4, Zeros::Middle).unwrap();
        assert_eq!(kept.scales.as_slice().unwrap(), [-0.5, 1.0]);
    }

    #[test]
    fn groups_are_turned_over_where_the_middle_has_no_room() {
        // What Q4_0's negative scales become in AWQ, and back.
        let groups = groups(
            4,
            vec![15, 0, 7, 8, 15, 1, 8, 8],
            vec![0.5, 0.5],
            vec![7.0, 8.0],
        );
        let solution = arranged(&groups, 4, 4, Zeros::Middle).unwrap();
        assert_eq!(solution.scales.as_slice().unwrap(), [-0.5, 0.5]);
        assert_eq!(solution.codes.as_slice().unwrap()[..5], [0, 15, 8, 7, 15]);
        assert_eq!(solution.dequantize().as_slice().unwrap(), numbers(&groups));
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let groups = groups(4, vec![15; 8], vec![1.0; 2], vec![0.0; 2]);
        assert!(arranged(&groups, 4, 4, Zeros::Middle).is_err());
        assert!(arranged(&groups, 4, 4, Zeros::Codes { lowest: 1 }).is_err());
        assert!(arranged(&groups, 4, 8, Zeros::Codes { lowest: 0 }).is_err());
        assert!(arranged(&groups, 4, 4, Zeros::Offsets).is_err());
        assert!(Grouped::of(&[]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_fits_keeps_its_numbers(
            bits in 2u32..=8,
            target in 2u32..=8,
            lowest in 0u8..2,
            middle in any::<bool>(),
            group in prop::sample::select(vec![1usize, 2, 4]),
            seed in prop::collection::vec((any::<u8>(), -8i8..8, any::<u8>()), 16),
        ) {
            let mask = ((1u32 << bits) - 1) as u8;
            let codes = seed.iter().map(|(code, ..)| code & mask).collect();
            let scales = seed.iter().take(4).map(|(_, scale, _)| f32::from(*scale) / 16.0);
            let zeros = seed.iter().take(4).map(|(.., zero)| match middle {
                true => f32::from(1u16 << (bits - 1)),
                false => f32::from(zero & mask),
            });
            let groups = groups(bits, codes, scales.collect(), zeros.collect());
            groups.check(2, 8).unwrap();
            let facts = Survey::of(&groups, 8).facts();
            for zeros in [Zeros::Middle, Zeros::Codes { lowest }] {
                if facts.fit(target, zeros) == Some(Fit::Exact) {
                    let solution = arranged(&groups, target, group, zeros).unwrap();
                    let found = solution.dequantize();
                    prop_assert_eq!(found.as_slice().unwrap(), &numbers(&groups)[..]);
                }
            }
        }
    }
}
