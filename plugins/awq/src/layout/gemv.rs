//! The rows of `gemv`: an output's codes are a stream, and so are its zeros.

use llm_quantize_plugin_api::kernels::bits;
use llm_quantize_plugin_api::{Error, Result};
use ndarray::{ArrayView2, ArrayViewMut2};

use crate::levels::BITS;

/// Codes in a byte.
const PER_BYTE: usize = 2;

/// Packs a matrix of codes, a row each output, into streams of `length` codes; those that a row
/// lacks are zero.
///
/// # Errors
/// If rows are longer, or the streams do not fill `out`.
pub fn pack(codes: ArrayView2<'_, u8>, length: usize, out: &mut [u8]) -> Result<()> {
    let (outputs, inputs) = codes.dim();
    let stream = length / PER_BYTE;
    if inputs > length || out.len() != outputs * stream {
        return Err(Error::internal(format!(
            "{outputs} streams of {length} codes, of {inputs} each, do not fill {} bytes",
            out.len()
        )));
    }
    let mut row = vec![0; length];
    let streams = out.chunks_exact_mut(stream.max(1));
    for (codes, out) in codes.outer_iter().zip(streams) {
        for (code, stored) in codes.iter().zip(&mut row) {
            *stored = *code;
        }
        bits::pack(BITS, &row, out)?;
    }
    Ok(())
}

/// Unpacks the codes of outputs, as many as `codes` has rows, from `first` on.
///
/// # Errors
/// If there are no such outputs.
pub fn unpack(packed: &[u8], first: usize, mut codes: ArrayViewMut2<'_, u8>) -> Result<()> {
    let length = codes.ncols() / PER_BYTE;
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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn a_stream_is_padded_with_zeros() {
        let codes = Array2::from_shape_fn((2, 5), |(row, at)| (5 * row + at) as u8);
        let mut out = [0xAA; 8];
        pack(codes.view(), 8, &mut out).unwrap();
        assert_eq!(out, [0x10, 0x32, 0x04, 0, 0x65, 0x87, 0x09, 0]);
        assert!(pack(codes.view(), 8, &mut [0; 4]).is_err());
        assert!(pack(codes.view(), 4, &mut [0; 4]).is_err());
    }
}
