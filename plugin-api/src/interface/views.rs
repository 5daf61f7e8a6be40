//! Borrowed views of the host's memory, and the call that fills the output.

use std::ops::Range;

use ndarray::ArrayView2;

use super::{ElementType, Error, Result};
use crate::kernels::convert;

/// Rows of a source tensor, as stored.
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a> {
    element: ElementType,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

impl<'a> TensorView<'a> {
    /// A view of `rows × cols` elements that lie one row after the other.
    ///
    /// # Errors
    /// If `bytes` has another length than that.
    pub fn new(element: ElementType, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self> {
        let expected = rows
            .checked_mul(cols)
            .and_then(|n| n.checked_mul(element.bytes()));
        if expected != Some(bytes.len()) {
            return Err(Error::internal(format!(
                "a view of {rows} x {cols} {element:?} cannot have {} bytes",
                bytes.len()
            )));
        }
        Ok(Self {
            element,
            rows,
            cols,
            bytes,
        })
    }

    /// How the numbers are stored.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The stored bytes of all rows.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The stored bytes of one row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_bytes(&self, row: usize) -> &'a [u8] {
        let len = self.cols * self.element.bytes();
        &self.bytes[row * len..(row + 1) * len]
    }

    /// Converts one row to single precision.
    ///
    /// # Errors
    /// If there is no such row, `out` is not a row long, or the view is raw.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) -> Result<()> {
        if row >= self.rows || out.len() != self.cols {
            return Err(Error::internal(format!(
                "row {row} of {} cannot be read into {} of {} numbers",
                self.rows,
                out.len(),
                self.cols
            )));
        }
        convert::to_f32(self.element, self.row_bytes(row), out)
    }

    /// The numbers as an ndarray view, without a copy; `None` if they are not
    /// aligned single-precision numbers.
    pub fn as_array(&self) -> Option<ArrayView2<'a, f32>> {
        if self.element != ElementType::F32 {
            return None;
        }
        let numbers = convert::as_f32(self.bytes)?;
        ArrayView2::from_shape((self.rows, self.cols), numbers).ok()
    }
}

/// A named file in memory (usually mapped).
#[derive(Debug, Clone, Copy)]
pub struct FileView<'a> {
    /// File name, without its folder.
    pub name: &'a str,
    /// The whole content.
    pub bytes: &'a [u8],
}

/// A calibration statistic: `rows × cols` numbers, one row after the other.
#[derive(Debug, Clone, Copy)]
pub struct StatisticView<'a> {
    /// Number of rows.
    pub rows: usize,
    /// Numbers in a row.
    pub cols: usize,
    /// All numbers.
    pub data: &'a [f32],
}

/// One call of [`super::Job::encode`].
#[derive(Debug)]
pub struct EncodeCall<'a> {
    /// Place of the unit in [`super::Plan::units`].
    pub unit: usize,
    /// The rows to encode; `0..1` if the unit is not split.
    pub rows: Range<u64>,
    /// The unit's inputs, in its order; only the rows above, unless `whole`.
    pub inputs: &'a [TensorView<'a>],
    /// The statistics that the unit asked for, in its order.
    pub statistics: &'a [StatisticView<'a>],
    /// The parts of the unit's output spans that these rows fill.
    pub outputs: &'a mut [&'a mut [u8]],
}

/// One call of [`super::Job::decode`].
#[derive(Debug)]
pub struct DecodeCall<'a> {
    /// Place of the unit in [`super::Plan::units`].
    pub unit: usize,
    /// Place of the tensor among the unit's inputs.
    pub input: usize,
    /// The tensor's rows that are wanted.
    pub rows: Range<u64>,
    /// The unit's inputs of one dimension (norms), in its order.
    pub vectors: &'a [TensorView<'a>],
    /// The unit's whole output spans, as they were encoded.
    pub outputs: &'a [&'a [u8]],
    /// Where the numbers go: exactly those rows.
    pub out: &'a mut [f32],
}

/// What a plugin tells about a piece of work.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncodeReport {
    /// Any figures; the host sums them up by subject and name over the job.
    pub measures: Vec<Measure>,
}

/// One figure of a report.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// What it is about, e.g. a layer (`model.layers.0.mlp.up_proj`); empty if it is about the
    /// whole output.
    pub subject: String,
    /// Name, e.g. `squared_error`.
    pub name: String,
    /// Value; sums over the pieces of a unit (and without a subject, over all units) must make
    /// sense.
    pub value: f64,
}

impl Measure {
    /// A figure about the whole output.
    pub fn new(name: &str, value: f64) -> Self {
        Self::of("", name, value)
    }

    /// A figure about a part of it, e.g. a layer.
    pub fn of(subject: &str, name: &str, value: f64) -> Self {
        Self {
            subject: subject.into(),
            name: name.into(),
            value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_must_have_its_bytes() {
        assert!(TensorView::new(ElementType::BF16, 2, 3, &[0; 12]).is_ok());
        assert!(TensorView::new(ElementType::BF16, 2, 3, &[0; 11]).is_err());
        assert!(TensorView::new(ElementType::F32, usize::MAX, 2, &[]).is_err());
    }

    #[test]
    fn rows_are_converted_and_checked() {
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let view = TensorView::new(ElementType::F32, 2, 2, &bytes).unwrap();
        let mut row = [0.0; 2];
        view.row_to_f32(1, &mut row).unwrap();
        assert_eq!(row, [3.0, 4.0]);
        assert!(view.row_to_f32(2, &mut row).is_err());
        assert!(view.row_to_f32(0, &mut [0.0; 3]).is_err());
    }
}
