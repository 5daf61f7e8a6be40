//! Weights that are affine in groups: what GPTQ, AWQ and some GGUF blocks share.

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// Rows of a weight as integer codes with a scale and a zero for each group:
/// `w = scale · (code - zero)`.
/// With this a converter repacks one affine format into another without touching
/// the numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct AffineGroups {
    /// Bits of a code.
    pub bits: u32,
    /// Weights in a group, along the row.
    pub group_size: u32,
    /// Codes, `rows × cols`.
    pub codes: Vec<u8>,
    /// Scales, `rows × groups`.
    pub scales: Vec<f32>,
    /// Zeros, `rows × groups`; whole numbers in the integer formats.
    pub zeros: Vec<f32>,
    /// Group of each column, if they do not simply follow each other.
    pub permutation: Option<Vec<u32>>,
}

impl AffineGroups {
    /// Checks that there are as many codes, scales and zeros as so many rows and columns have.
    ///
    /// # Errors
    /// With the first number that does not fit.
    pub fn check(&self, rows: usize, cols: usize) -> Result<()> {
        let fail = |what: String| Err(Error::internal(format!("groups of a weight: {what}")));
        if !(1..=8).contains(&self.bits) || self.group_size == 0 {
            let (bits, size) = (self.bits, self.group_size);
            return fail(format!("{bits} bits in groups of {size}"));
        }
        let groups = cols.div_ceil(self.group_size as usize);
        let counts = (self.codes.len(), self.scales.len(), self.zeros.len());
        let expected = rows
            .checked_mul(cols)
            .zip(rows.checked_mul(groups))
            .map(|(codes, groups)| (codes, groups, groups));
        if expected != Some(counts) {
            return fail(format!("{counts:?} numbers for {rows} x {cols} weights"));
        }
        match &self.permutation {
            Some(order) if order.len() != cols => {
                fail(format!("{} columns, not {cols}", order.len()))
            }
            _ => Ok(()),
        }
    }
}

/// What is to be known about all groups of a weight to say which formats can hold them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupFacts {
    /// Bits of a code.
    pub bits: u32,
    /// Weights in a group, along the row.
    pub group_size: u32,
    /// Whether groups follow each other along the row.
    pub in_order: bool,
    /// Whether all zeros are whole numbers that a code could be.
    pub whole_zeros: bool,
    /// The smallest and the largest zero, rounded down and up.
    pub zeros: [i32; 2],
    /// The smallest and the largest difference of a code and its zero, rounded down and up, where
    /// groups whose largest difference is above zero are turned over, with their scales.
    pub steps: [i32; 2],
    /// Whether there are scales below zero.
    pub negative_scales: bool,
    /// The largest relative change of a scale that is rounded to half precision: 0 if all of them
    /// are such numbers; `None` if one has no such number near it.
    pub scale_change: Option<f64>,
    /// The largest change of a weight, relative to the largest weight of its group, if it becomes
    /// `scale · code + offset` with both in half precision; `None` if they have no such numbers.
    pub offset_change: Option<f64>,
}
