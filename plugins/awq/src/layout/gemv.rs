//! The rows of `gemv`: an output's codes are a stream, and so are its zeros.

use llm_quantize_plugin_api::kernels::bits;
use llm_quantize_plugin_api::{Error, Result};
use ndarray::ArrayViewMut2;

use crate::levels::BITS;

/// Unpacks the codes of outputs, as many as `codes` has rows, from `first` on.
///
/// # Errors
/// If there are no such outputs.
pub fn unpack(packed: &[u8], first: usize, mut codes: ArrayViewMut2<'_, u8>) -> Result<()> {
    let length = codes.ncols() / 2;
    let rows = packed.chunks_exact(length.max(1)).skip(first);
    for (mut codes, stored) in codes.rows_mut().into_iter().zip(rows) {
        let codes = codes.as_slice_mut();
        let codes = codes.ok_or_else(|| Error::internal("codes do not lie in rows"))?;
        bits::unpack(BITS, stored, codes)?;
    }
    Ok(())
}

/// The zero of a group of an output, of whose zeros `padded` are stored.
#[must_use]
pub fn zero(packed: &[u8], padded: usize, output: usize, group: usize) -> Option<u8> {
    bits::code_at(BITS, packed, output * padded + group)
}
