//! The row order of query and key projections.
//!
//! Hugging Face stores the rows of a head in two halves: the first elements of all rotary
//! pairs, then the second ones. llama.cpp rotates neighbouring rows for the `llama`
//! architecture, so the converter interleaves the halves
//! (`LlamaModel.permute` in llama.cpp's `conversion/llama.py`). Both directions are given
//! here as "which input row becomes output row `r`", so that rows can be moved in pieces.

/// The Hugging Face row that becomes GGUF row `row`.
///
/// `head_rows` is the number of rows of one head; it must be even and not zero.
#[must_use]
pub fn permuted_row(head_rows: usize, row: usize) -> usize {
    let (head, within) = (row / head_rows, row % head_rows);
    head * head_rows + (within % 2) * (head_rows / 2) + within / 2
}

/// The GGUF row that becomes Hugging Face row `row`: the inverse of [`permuted_row`].
///
/// `head_rows` is the number of rows of one head; it must be even and not zero.
#[must_use]
pub fn unpermuted_row(head_rows: usize, row: usize) -> usize {
    let (head, within) = (row / head_rows, row % head_rows);
    let half = head_rows / 2;
    head * head_rows + (within % half) * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `rows.reshape(heads, 2, half).swapaxes(1, 2).flatten()`, axis by axis.
    fn reshape_and_swap(heads: usize, head_rows: usize) -> Vec<usize> {
        let half = head_rows / 2;
        let mut view = vec![vec![vec![0; half]; 2]; heads];
        for (row, part) in view.iter_mut().flatten().flatten().enumerate() {
            *part = row;
        }
        let mut out = Vec::new();
        for head in &view {
            for pair in 0..half {
                out.extend(head.iter().map(|side| side[pair]));
            }
        }
        out
    }

    #[test]
    fn a_head_of_six_rows_interleaves_its_halves() {
        let order: Vec<_> = (0..12).map(|row| permuted_row(6, row)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    proptest! {
        #[test]
        fn agrees_with_reshaping(heads in 1usize..6, half in 1usize..40) {
            let order: Vec<_> = (0..heads * half * 2).map(|row| permuted_row(half * 2, row)).collect();
            prop_assert_eq!(order, reshape_and_swap(heads, half * 2));
        }

        #[test]
        fn the_inverse_undoes_it(half in 1usize..200, row in 0usize..100_000) {
            let head_rows = half * 2;
            prop_assert_eq!(unpermuted_row(head_rows, permuted_row(head_rows, row)), row);
            prop_assert_eq!(permuted_row(head_rows, unpermuted_row(head_rows, row)), row);
        }
    }
}
