//! A planned GGUF file: encodes its tensors and verifies the result.

use llm_quantize_plugin_api::kernels::convert::as_f32;
use llm_quantize_plugin_api::{
    ElementType, EncodeCall, EncodeReport, Error, FileView, Host, Job, Plan, Result, StatisticView,
    TensorView,
};

use llm_quantize_plugin_api::kernels::simd::Level;
use llm_quantize_plugin_api::regroup::Grouped;

use super::importance::Weighing;
use super::repack::pack_row;
use super::verify;
use crate::blocks::{BlockType, InvalidRow, encode_row_on, validate_rows};
use crate::families::{Transform, permuted_row};

/// How a unit's rows become bytes.
pub struct Encoding {
    /// Name of the tensor, for errors.
    pub name: String,
    /// What is written.
    pub action: Action,
    /// What happens to the rows.
    pub transform: Transform,
    /// The tensor's first row that the unit writes; not 0 where it is one of several experts.
    pub first_row: u64,
}

/// What is written for a row.
pub enum Action {
    /// The source's bytes.
    Copy,
    /// Numbers, encoded.
    Encode {
        /// The type.
        ty: BlockType,
        /// How the errors of the columns are weighed.
        weighing: Weighing,
    },
    /// The groups of another format, packed into blocks of this type.
    Repack(BlockType),
}

/// The job.
pub struct GgufJob {
    pub(crate) host: Host,
    pub(crate) plan: Plan,
    pub(crate) blobs: Vec<Vec<u8>>,
    /// One for each unit of the plan.
    pub(crate) encodings: Vec<Encoding>,
}

impl Job for GgufJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.blobs.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let encoding = self
            .encodings
            .get(call.unit)
            .ok_or_else(|| Error::internal(format!("there is no unit {}", call.unit)))?;
        let (input, [output]) = (call.inputs, call.outputs) else {
            return Err(Error::internal("a unit has one output"));
        };
        if let Action::Repack(ty) = encoding.action {
            encoding.repack(ty, &Grouped::of(input)?, output)?;
            return Ok(EncodeReport::default());
        }
        let [input] = input else {
            return Err(Error::internal("a unit has one input"));
        };
        let level = Level::at_most(self.host.cpu_level());
        encoding.encode(level, input, call.rows.start, call.statistics, output)?;
        Ok(EncodeReport::default())
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        verify::verify(&self.host, &self.plan, &self.blobs, files)
    }
}

impl Encoding {
    /// Encodes the rows of a view that starts at row `first` of the tensor.
    fn encode(
        &self,
        level: Level,
        input: &TensorView<'_>,
        first: u64,
        statistics: &[StatisticView<'_>],
        output: &mut [u8],
    ) -> Result<()> {
        // A tensor without rows may claim any number of columns.
        if output.is_empty() {
            return Ok(());
        }
        let order = RowOrder::new(self.transform, [input.rows(), input.cols()])?;
        match &self.action {
            Action::Repack(_) => Err(Error::internal("groups are needed, not numbers")),
            Action::Copy => order.copy(input, output),
            Action::Encode { ty, .. }
                if is_stored_as(input.element(), *ty) && self.transform != Transform::AddOne =>
            {
                order.copy(input, output)
            }
            Action::Encode { ty, weighing } => {
                let importance = weighing.importance(&self.name, input.cols(), statistics)?;
                // One row at a time: it stays in the cache between the conversion and the
                // encoder, and one buffer serves all rows of the call.
                let mut row = vec![0.0; input.cols()];
                let mut swapped = Vec::new();
                let row_len = ty
                    .row_bytes(input.cols())
                    .filter(|len| len.checked_mul(input.rows()) == Some(output.len()))
                    .ok_or_else(|| {
                        Error::internal("the output has another length than the rows")
                    })?;
                for (index, out) in output.chunks_exact_mut(row_len).enumerate() {
                    let source = order.source_row(index);
                    let changes = order.elements || self.transform == Transform::AddOne;
                    let stored = stored_numbers(input, source).filter(|_| !changes);
                    let row = match stored {
                        Some(stored) => stored,
                        None => {
                            input.row_to_f32(source, &mut row)?;
                            order.swap_elements(&mut row, &mut swapped);
                            if self.transform == Transform::AddOne {
                                row.iter_mut().for_each(|number| *number += 1.0);
                            }
                            &row[..]
                        }
                    };
                    let weights = importance
                        .as_ref()
                        .map(|importance| {
                            importance.of_row(self.first_row + first + index as u64, row.len())
                        })
                        .transpose()?;
                    let number = || first + source as u64;
                    encode_row_on(level, *ty, row, weights, out).map_err(|error| {
                        Error::corrupt(format!(
                            "tensor \"{}\", row {}: {error}",
                            self.name,
                            number()
                        ))
                    })?;
                    // Here and not only when the file is read back: a long run need not
                    // go on, and the source's row is known.
                    validate_rows(*ty, out, row_len)
                        .map_err(|(_, reason)| overflow(&self.name, number(), *ty, reason))?;
                }
                Ok(())
            }
        }
    }
}

impl Encoding {
    /// Packs groups of rows that start at a whole head.
    fn repack(&self, ty: BlockType, groups: &Grouped<'_>, output: &mut [u8]) -> Result<()> {
        let row_len = ty.row_bytes(groups.cols());
        let row_len = row_len.filter(|len| len.checked_mul(groups.rows()) == Some(output.len()));
        let row_len = row_len
            .ok_or_else(|| Error::internal("the output has another length than the rows"))?;
        let order = RowOrder::new(self.transform, [groups.rows(), groups.cols()])?;
        for (index, out) in output.chunks_exact_mut(row_len.max(1)).enumerate() {
            pack_row(groups, order.source_row(index), ty, out).map_err(|error| Error {
                message: format!("tensor \"{}\": {}", self.name, error.message),
                ..error
            })?;
        }
        Ok(())
    }
}

/// Weights that are finite, but too large for the type's half-precision numbers, or too small
/// for MXFP4's exponents.
fn overflow(tensor: &str, row: u64, ty: BlockType, reason: InvalidRow) -> Error {
    Error::corrupt(format!(
        "tensor \"{tensor}\", row {row}: its weights do not fit {ty}: {reason}"
    ))
    .suggest(
        "check the model; a type with a larger range, such as BF16, holds them: --set tensor-type=REGEX=bf16",
    )
}

/// A row where it lies, if it needs no conversion.
fn stored_numbers<'a>(input: &TensorView<'a>, row: usize) -> Option<&'a [f32]> {
    match input.element() {
        ElementType::F32 if row < input.rows() => as_f32(input.row_bytes(row)),
        _ => None,
    }
}

/// Which source row each output row is, within a view of whole heads.
struct RowOrder {
    /// Rows of a head; 1 keeps the order.
    head_rows: usize,
    /// The rows are the elements of a vector (a bias).
    elements: bool,
}

impl RowOrder {
    fn new(transform: Transform, [rows, cols]: [usize; 2]) -> Result<Self> {
        let Transform::PermuteRows { head_rows, .. } = transform else {
            return Ok(Self {
                head_rows: 1,
                elements: false,
            });
        };
        let elements = rows == 1;
        let count = if elements { cols } else { rows };
        let head_rows = usize::try_from(head_rows).unwrap_or(0);
        if head_rows == 0 || count % head_rows != 0 {
            return Err(Error::internal(format!(
                "{count} rows are no whole heads of {head_rows}"
            )));
        }
        Ok(Self {
            head_rows,
            elements,
        })
    }

    fn source(&self, index: usize) -> usize {
        let head = index - index % self.head_rows;
        match self.head_rows {
            1 => index,
            rows => head + permuted_row(rows, index % rows),
        }
    }

    fn source_row(&self, row: usize) -> usize {
        match self.elements {
            true => row,
            false => self.source(row),
        }
    }

    fn swap_elements(&self, row: &mut [f32], scratch: &mut Vec<f32>) {
        if !self.elements {
            return;
        }
        scratch.clear();
        scratch.extend_from_slice(row);
        for (index, element) in row.iter_mut().enumerate() {
            *element = scratch[self.source(index)];
        }
    }

    /// Copies stored bytes, row by row or, for a vector, element by element.
    fn copy(&self, input: &TensorView<'_>, output: &mut [u8]) -> Result<()> {
        if output.len() != input.bytes().len() {
            return Err(Error::internal(
                "the output has another length than the input",
            ));
        }
        if self.head_rows == 1 {
            output.copy_from_slice(input.bytes());
            return Ok(());
        }
        let piece = match self.elements {
            true => input.element().bytes(),
            false => input.cols() * input.element().bytes(),
        };
        for (index, out) in output.chunks_exact_mut(piece.max(1)).enumerate() {
            let start = self.source(index) * piece;
            out.copy_from_slice(&input.bytes()[start..start + piece]);
        }
        Ok(())
    }
}

/// Whether stored numbers of this kind are the bytes of that type.
pub fn is_stored_as(element: ElementType, ty: BlockType) -> bool {
    matches!(
        (element, ty),
        (ElementType::F32, BlockType::F32)
            | (ElementType::F16, BlockType::F16)
            | (ElementType::BF16, BlockType::BF16)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of single-precision rows that begin so many bytes after an aligned place.
    fn encoded(transform: Transform, (rows, cols): (usize, usize), shift: usize) -> Vec<u8> {
        let numbers = (0..rows * cols).flat_map(|i| (i as f32 * 0.37).sin().to_le_bytes());
        let numbers: Vec<u8> = numbers.collect();
        let mut room = vec![0; numbers.len() + 8];
        let start = room.as_ptr().align_offset(align_of::<f32>()) + shift;
        room[start..start + numbers.len()].copy_from_slice(&numbers);
        let stored = &room[start..start + numbers.len()];
        let input = TensorView::new(ElementType::F32, rows, cols, stored).unwrap();
        assert_eq!(stored_numbers(&input, 0).is_some(), shift == 0);
        let encoding = Encoding {
            name: "w".into(),
            action: Action::Encode {
                ty: BlockType::Q8_0,
                weighing: Weighing::Even,
            },
            transform,
            first_row: 0,
        };
        let mut output = vec![0; rows * cols / 32 * 34];
        encoding
            .encode(Level::detect(), &input, 0, &[], &mut output)
            .unwrap();
        output
    }

    #[test]
    fn rows_are_encoded_where_they_lie_as_if_they_were_converted() {
        let permute = Transform::PermuteRows {
            heads: 2,
            head_rows: 4,
        };
        for shape in [(8, 64), (1, 64)] {
            let aligned = encoded(permute, shape, 0);
            assert_eq!(aligned, encoded(permute, shape, 1), "{shape:?}");
            assert_ne!(aligned, encoded(Transform::None, shape, 0), "{shape:?}");
        }
    }
}
