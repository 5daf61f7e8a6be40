//! The bytes of a stored layer: written from a solution, and read back.

use std::ops::Range;

use llm_quantize_plugin_api::hf_folder::quantized::{Groups, Rows};
use llm_quantize_plugin_api::kernels::grouped::Solution;
use llm_quantize_plugin_api::kernels::{Parallel, convert, float16};
use llm_quantize_plugin_api::{ElementType, Error, Result};
use ndarray::iter::Lanes;
use ndarray::{Array2, Ix1};

use super::{PACK, Shape, StoredSizes, Version, gemm, gemv, gemv_fast};

/// Writes a solution into the bytes of `qweight`, `qzeros` and `scales`.
///
/// # Errors
/// If sizes do not fit, or the version is one that is only read.
pub fn write(
    parallel: &dyn Parallel,
    shape: &Shape,
    solution: &Solution,
    [qweight, qzeros, scales]: [&mut [u8]; 3],
) -> Result<()> {
    let (rows, groups) = (shape.outputs, shape.groups());
    let sizes = (
        solution.codes.dim(),
        solution.scales.dim(),
        solution.zeros.dim(),
    );
    let lengths = [qweight.len(), qzeros.len(), scales.len()];
    let expected = shape.stored();
    if sizes != ((rows, shape.inputs), (rows, groups), (rows, groups))
        || expected.map(|stored| byte_lengths(&stored, ElementType::F16)) != Some(lengths)
    {
        return Err(Error::internal(format!(
            "a solution of other sizes ({sizes:?}) than the layer's ({shape:?})"
        )));
    }
    match shape.version {
        Version::Gemm => {
            gemm::pack(parallel, solution.codes.view(), qweight);
            gemm::pack(parallel, solution.zeros.view(), qzeros);
            store_halves(solution.scales.columns(), rows, scales);
        }
        Version::Gemv => {
            let padded = shape.padded_groups().unwrap_or(groups);
            gemv::pack(solution.codes.view(), shape.inputs, qweight)?;
            gemv::pack(solution.zeros.view(), padded, qzeros)?;
            store_halves(solution.scales.rows(), padded, scales);
        }
        Version::GemvFast => return Err(Error::internal("gemv_fast is only read")),
    }
    Ok(())
}

/// Stores each lane of a matrix in half precision, with zeros up to `length` numbers.
fn store_halves(lanes: Lanes<'_, f32, Ix1>, length: usize, out: &mut [u8]) {
    out.fill(0);
    let stored = out.chunks_exact_mut((2 * length).max(1));
    for (lane, stored) in lanes.into_iter().zip(stored) {
        for (number, stored) in lane.iter().zip(stored.as_chunks_mut().0) {
            *stored = float16::f32_to_f16(*number);
        }
    }
}

/// Bytes of `qweight`, `qzeros` and `scales`, if floats are of this type.
fn byte_lengths(stored: &StoredSizes, floats: ElementType) -> [usize; 3] {
    stored.map(|(dtype, [rows, columns])| {
        let element = match dtype {
            Some("I32") => 4,
            Some(_) => 2,
            None => floats.bytes(),
        };
        rows.saturating_mul(columns).saturating_mul(element)
    })
}

/// A stored layer.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Its sizes.
    pub shape: Shape,
    /// The bytes of `qweight`.
    pub qweight: &'a [u8],
    /// The bytes of `qzeros`.
    pub qzeros: &'a [u8],
    /// The bytes of `scales`.
    pub scales: &'a [u8],
    /// Their type, and that of zeros that are no codes.
    pub floats: ElementType,
}

impl Packed<'_> {
    /// Checks that there are such rows, and as many bytes as the sizes say.
    fn check(&self, rows: &Range<usize>) -> Result<()> {
        if rows.start > rows.end || rows.end > self.shape.outputs {
            let all = self.shape.outputs;
            return Err(Error::internal(format!(
                "there are no rows {rows:?} of {all}"
            )));
        }
        let stored = self.shape.stored();
        let lengths = [self.qweight, self.qzeros, self.scales].map(<[u8]>::len);
        match stored.map(|stored| byte_lengths(&stored, self.floats)) {
            Some(expected) if expected == lengths => Ok(()),
            expected => Err(Error::corrupt(format!(
                "its tensors have {lengths:?} bytes, expected {expected:?}"
            ))),
        }
    }

    /// Unpacks the codes and groups of rows.
    ///
    /// # Errors
    /// If there are no such rows, or the bytes are others than the sizes say.
    pub fn rows(&self, rows: Range<usize>) -> Result<Rows> {
        let groups = self.groups(rows.clone())?;
        let mut codes = Array2::zeros((rows.len(), self.shape.inputs));
        let (first, out) = (rows.start, codes.view_mut());
        match self.shape.version {
            Version::Gemm => gemm::unpack(self.qweight, self.shape.outputs / PACK, first, out),
            Version::Gemv => gemv::unpack(self.qweight, first, out)?,
            Version::GemvFast => gemv_fast::unpack(self.qweight, first, out)?,
        }
        Ok(Rows { codes, groups })
    }

    /// Unpacks the groups of rows.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn groups(&self, rows: Range<usize>) -> Result<Groups> {
        self.check(&rows)?;
        let mut unpacked = Groups::zeros(rows.len(), self.shape.groups());
        for ((row, group), scale) in unpacked.scales.indexed_iter_mut() {
            let output = rows.start + row;
            *scale = self.float(self.scales, output, group)?;
            unpacked.zeros[[row, group]] = self.zero(output, group, *scale)?;
        }
        Ok(unpacked)
    }

    /// The place of a group of an output in `scales`.
    fn place(&self, output: usize, group: usize) -> usize {
        let padded = self.shape.padded_groups().unwrap_or(0);
        match self.shape.version {
            Version::Gemm | Version::GemvFast => group * self.shape.outputs + output,
            Version::Gemv => output * padded + group,
        }
    }

    /// A number of a tensor that is laid out as the scales are.
    fn float(&self, stored: &[u8], output: usize, group: usize) -> Result<f32> {
        let size = self.floats.bytes();
        let at = self.place(output, group) * size;
        let mut number = [0.0];
        convert::to_f32(
            self.floats,
            stored.get(at..at + size).ok_or_else(short)?,
            &mut number,
        )?;
        Ok(number[0])
    }

    fn zero(&self, output: usize, group: usize, scale: f32) -> Result<f32> {
        match self.shape.version {
            Version::Gemm => {
                let at = group * self.shape.outputs / PACK + output / PACK;
                let word = self.qzeros.as_chunks().0.get(at).ok_or_else(short)?;
                let zeros = gemm::unpack_word(u32::from_le_bytes(*word));
                Ok(f32::from(zeros[output % PACK]))
            }
            Version::Gemv => {
                let padded = self.shape.padded_groups().unwrap_or(0);
                let zero = gemv::zero(self.qzeros, padded, output, group);
                zero.map(f32::from).ok_or_else(short)
            }
            Version::GemvFast => {
                let stored = self.float(self.qzeros, output, group)?;
                Ok(gemv_fast::zero(stored, scale))
            }
        }
    }

    /// Decodes rows; `out` holds exactly those.
    ///
    /// # Errors
    /// As [`rows`](Self::rows), and if `out` has another length.
    pub fn decode(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let Shape { inputs, group, .. } = self.shape;
        let unpack = |rows| self.rows(rows);
        Rows::decode(rows, inputs, out, unpack, |part, row, out| {
            part.decode_row(row, group, out);
        })
    }
}

fn short() -> Error {
    Error::internal("scales or zeros are fewer than the layer's groups")
}

#[cfg(test)]
mod tests;
