//! How far the weights of an output are from the model's.

use llm_quantize_plugin_api::Inputs;

use crate::error::{Error, Result};
use crate::source::SourceModel;

/// Numbers that are compared at once.
const CHUNK: u64 = 1 << 18;

/// Root of the squared error over the squared weights, of all matrices of a model. The
/// output is read back as a Hugging Face model, so names and row order are the
/// original's.
///
/// # Errors
/// If a matrix is missing from the output or cannot be read.
pub fn relative_error(original: &SourceModel, output: &SourceModel) -> Result<f64> {
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    let matrices = original.model().tensors.iter().enumerate();
    for (index, tensor) in matrices.filter(|(_, tensor)| tensor.shape.len() > 1) {
        let found = output.model().tensor_index(&tensor.name).ok_or_else(|| {
            Error::validation(format!("\"{}\" is missing from the output", tensor.name))
        })?;
        let (rows, cols) = (tensor.rows().unwrap_or(0), tensor.cols().max(1));
        let step = (CHUNK / cols).max(1);
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + step);
            let count = ((end - start) * cols) as usize;
            let (mut a, mut b) = (vec![0.0f32; count], vec![0.0f32; count]);
            original.decode_rows(index, start..end, &mut a)?;
            output.decode_rows(found, start..end, &mut b)?;
            for (a, b) in a.iter().zip(&b) {
                error += f64::from(a - b).powi(2);
                norm += f64::from(*a).powi(2);
            }
            start = end;
        }
    }
    Ok(if norm > 0.0 {
        (error / norm).sqrt()
    } else {
        0.0
    })
}
