//! Rows of a layer, unpacked.

use std::ops::Range;

use ndarray::{Array2, s};

use crate::interface::{AffineGroups, Error, Result};

/// Rows that are unpacked at once.
const ROWS: usize = 64;

/// Rows of a stored layer: a weight is `scale · (code - zero)` of its group.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// `rows × K`.
    pub codes: Array2<u8>,
    /// What they mean.
    pub groups: Groups,
}

/// The groups of rows of a stored layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Groups {
    /// `rows × G`.
    pub scales: Array2<f32>,
    /// `rows × G`; whole numbers from 0 to 256 in most formats.
    pub zeros: Array2<f32>,
}

impl Rows {
    /// Decodes rows of a layer of so many inputs, some at a time: `unpack` is given a range of
    /// them, `decode` one of those it answered, by its place, and where its numbers go. `out`
    /// holds exactly the rows.
    ///
    /// # Errors
    /// If `out` has another length, and those of `unpack`.
    pub fn decode(
        rows: Range<usize>,
        inputs: usize,
        out: &mut [f32],
        unpack: impl Fn(Range<usize>) -> Result<Self>,
        decode: impl Fn(&Self, usize, &mut [f32]),
    ) -> Result<()> {
        let count = rows.end.saturating_sub(rows.start);
        if count.checked_mul(inputs) != Some(out.len()) {
            return Err(Error::internal(format!(
                "{count} rows of {inputs} do not fit {} numbers",
                out.len()
            )));
        }
        let chunks = out.chunks_mut((ROWS * inputs).max(1));
        for (first, out) in rows.clone().step_by(ROWS).zip(chunks) {
            let part = unpack(first..(first + ROWS).min(rows.end))?;
            for (row, out) in out.chunks_exact_mut(inputs.max(1)).enumerate() {
                decode(&part, row, out);
            }
        }
        Ok(())
    }

    /// Decodes one of the rows, whose groups are so long and follow each other.
    pub fn decode_row(&self, row: usize, group: usize, out: &mut [f32]) {
        let codes = self.codes.row(row);
        for (number, out) in out.chunks_mut(group).enumerate() {
            let (scale, zero) = self.groups.at(row, number);
            let codes = codes.slice(s![number * group..number * group + out.len()]);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = scale * (f32::from(*code) - zero);
            }
        }
    }

    /// Decodes one of the rows, given the group of each input.
    pub fn decode_permuted_row(&self, row: usize, groups: &[u32], out: &mut [f32]) {
        let codes = self.codes.row(row);
        for ((out, code), group) in out.iter_mut().zip(codes).zip(groups) {
            let (scale, zero) = self.groups.at(row, *group as usize);
            *out = scale * (f32::from(*code) - zero);
        }
    }

    /// The same, to cross the interface.
    ///
    /// # Errors
    /// If a group has more inputs than can be said there.
    pub fn into_affine(
        self,
        bits: u32,
        group: usize,
        permutation: Option<Vec<u32>>,
    ) -> Result<AffineGroups> {
        Ok(AffineGroups {
            bits,
            group_size: u32::try_from(group).map_err(|_| Error::corrupt("a group is too large"))?,
            codes: self.codes.into_raw_vec_and_offset().0,
            scales: self.groups.scales.into_raw_vec_and_offset().0,
            zeros: self.groups.zeros.into_raw_vec_and_offset().0,
            permutation,
        })
    }
}

impl Groups {
    /// For so many rows and groups, to be filled.
    #[must_use]
    pub fn zeros(rows: usize, groups: usize) -> Self {
        Self {
            scales: Array2::zeros((rows, groups)),
            zeros: Array2::zeros((rows, groups)),
        }
    }

    fn at(&self, row: usize, group: usize) -> (f32, f32) {
        (self.scales[[row, group]], self.zeros[[row, group]])
    }

    /// What is wrong about groups that a quantizer has written: scales that are no numbers or
    /// zero, zeros outside of a range.
    ///
    /// # Errors
    /// The first of it.
    pub fn check(&self, [low, high]: [f32; 2]) -> Result<()> {
        let mut scales = self.scales.indexed_iter();
        let odd = |scale: f32| !scale.is_finite() || scale == 0.0;
        if let Some(((row, group), scale)) = scales.find(|(_, scale)| odd(**scale)) {
            return Err(Error::verification(format!(
                "the scale of row {row}, group {group} is {scale}"
            )));
        }
        let mut zeros = self.zeros.indexed_iter();
        let outside = zeros.find(|(_, zero)| !(low..=high).contains(*zero));
        match outside {
            Some(((row, group), zero)) => Err(Error::verification(format!(
                "the zero of row {row}, group {group} is {zero}, outside of {low} to {high}"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn rows() -> Rows {
        Rows {
            codes: array![[0, 1, 2, 3], [4, 5, 6, 7]],
            groups: Groups {
                scales: array![[1.0, 2.0], [0.5, -1.0]],
                zeros: array![[0.0, 1.0], [4.0, 8.0]],
            },
        }
    }

    #[test]
    fn rows_decode_by_their_groups() {
        let mut row = [0.0; 4];
        rows().decode_row(1, 2, &mut row);
        assert_eq!(row, [0.0, 0.5, 2.0, 1.0]);
        rows().decode_permuted_row(0, &[1, 0, 1, 0], &mut row);
        assert_eq!(row, [-2.0, 1.0, 2.0, 3.0]);
        let affine = rows().into_affine(4, 2, None).unwrap();
        assert_eq!((affine.bits, affine.group_size), (4, 2));
        assert_eq!(affine.zeros, [0.0, 1.0, 4.0, 8.0]);
    }

    #[test]
    fn groups_that_nobody_writes_are_found() {
        assert_eq!(rows().groups.check([0.0, 8.0]), Ok(()));
        let found = rows().groups.check([0.0, 7.0]).unwrap_err();
        assert!(found.message.contains("row 1, group 1 is 8"), "{found}");
        for bad in [0.0, f32::INFINITY, f32::NAN] {
            let mut rows = rows();
            rows.groups.scales[[0, 1]] = bad;
            let found = rows.groups.check([0.0, 8.0]).unwrap_err();
            assert!(found.message.contains("scale of row 0, group 1"), "{found}");
        }
    }
}
