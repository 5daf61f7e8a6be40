//! Cuts a plan's units into pieces: what one thread encodes in one go.

use std::ops::Range;

use llm_quantize_plugin_api::{ModelDescription, Plan, Span, Unit};

/// Stored input bytes of a piece, as far as the unit's step allows: large enough
/// that the cost of a call vanishes, small enough for the caches and for all
/// threads to finish together.
const TARGET_BYTES: u64 = 1 << 20;

/// One piece of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Place of the unit in the plan.
    pub unit: usize,
    /// Its rows; `0..1` for a unit that is not split.
    pub rows: Range<u64>,
}

impl Piece {
    /// The ranges of the output that this piece fills.
    pub fn spans<'a>(&'a self, unit: &'a Unit) -> impl Iterator<Item = Span> + 'a {
        unit.outputs.iter().map(move |span| match unit.split {
            None => *span,
            Some(split) => {
                let row = span.len / split.rows;
                Span {
                    file: span.file,
                    offset: span.offset + row * self.rows.start,
                    len: row * (self.rows.end - self.rows.start),
                }
            }
        })
    }

    /// Rows of this piece that one input contributes: the piece's, or all of the
    /// tensor's.
    pub fn input_rows(&self, unit: &Unit, whole: bool, tensor_rows: u64) -> Range<u64> {
        match unit.split.is_some() && !whole {
            true => self.rows.clone(),
            false => 0..tensor_rows,
        }
    }
}

/// All pieces of a plan, in its order: outputs are written front to back, so memory
/// and page cache see two moving windows.
pub fn cut(plan: &Plan, model: &ModelDescription) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (index, unit) in plan.units.iter().enumerate() {
        let Some(split) = unit.split else {
            pieces.push(Piece {
                unit: index,
                rows: 0..1,
            });
            continue;
        };
        let row_bytes = stored_row_bytes(unit, model).max(1);
        let steps = (TARGET_BYTES / row_bytes / split.step).max(1);
        let len = steps.saturating_mul(split.step);
        let mut start = 0;
        while start < split.rows {
            let end = start.saturating_add(len).min(split.rows);
            pieces.push(Piece {
                unit: index,
                rows: start..end,
            });
            start = end;
        }
    }
    pieces
}

/// Stored bytes of one row of all inputs that are cut with the unit.
fn stored_row_bytes(unit: &Unit, model: &ModelDescription) -> u64 {
    let inputs = unit.inputs.iter().filter(|input| !input.whole);
    inputs
        .filter_map(|input| model.tensors.get(input.tensor))
        .map(|tensor| tensor.bytes / tensor.rows().unwrap_or(1).max(1))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::{RowSplit, TensorInfo, UnitInput};
    use proptest::prelude::*;

    fn model(rows: u64, cols: u64) -> ModelDescription {
        ModelDescription {
            tensors: vec![TensorInfo {
                name: "w".into(),
                dtype: "BF16".into(),
                shape: vec![rows, cols],
                bytes: rows * cols * 2,
            }],
            ..ModelDescription::default()
        }
    }

    fn plan(rows: u64, step: u64, row_len: u64) -> Plan {
        Plan {
            units: vec![Unit {
                inputs: vec![UnitInput::rows_of(0)],
                outputs: vec![Span {
                    file: 0,
                    offset: 64,
                    len: rows * row_len,
                }],
                split: Some(RowSplit { rows, step }),
                ..Unit::default()
            }],
            ..Plan::default()
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_every_row_once_in_steps(
            rows in 1u64..5000, cols in 1u64..5000, step in 1u64..200, row_len in 1u64..50
        ) {
            let plan = plan(rows, step, row_len);
            let mut next_row = 0;
            let mut next_byte = 64;
            for piece in cut(&plan, &model(rows, cols)) {
                prop_assert_eq!(piece.rows.start, next_row);
                prop_assert!(piece.rows.start % step == 0 && piece.rows.end > piece.rows.start);
                let span = piece.spans(&plan.units[0]).next().unwrap();
                prop_assert_eq!(span.offset, next_byte);
                next_row = piece.rows.end;
                next_byte += span.len;
            }
            prop_assert_eq!(next_row, rows);
            prop_assert_eq!(next_byte, 64 + rows * row_len);
        }
    }

    #[test]
    fn large_tensors_are_cut_near_the_target() {
        let pieces = cut(&plan(32_000, 1, 10), &model(32_000, 4096));
        let bytes = (pieces[0].rows.end - pieces[0].rows.start) * 4096 * 2;
        assert_eq!(bytes, TARGET_BYTES);
    }
}
