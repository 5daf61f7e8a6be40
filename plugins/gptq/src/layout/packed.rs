//! The bytes of a stored layer: written from a solution, and read back.

use std::ops::Range;

use llm_quantize_plugin_api::hf_folder::quantized::{Groups, Rows};
use llm_quantize_plugin_api::kernels::{Parallel, bits, convert, float16};
use llm_quantize_plugin_api::{ElementType, Error, Result};
use ndarray::{Array2, ArrayView2};

use super::{Shape, Version};
use crate::solver::Solution;

/// Writes a solution into the bytes of `qweight`, `qzeros` and `scales`.
///
/// # Errors
/// If sizes do not fit, or the version cannot hold a zero.
pub fn write(
    parallel: &dyn Parallel,
    shape: &Shape,
    version: Version,
    solution: &Solution,
    [qweight, qzeros, scales]: [&mut [u8]; 3],
) -> Result<()> {
    let (rows, groups) = (shape.outputs, shape.groups());
    let sizes = (
        solution.codes.dim(),
        solution.scales.dim(),
        solution.zeros.dim(),
    );
    if sizes != ((rows, shape.inputs), (rows, groups), (rows, groups))
        || scales.len() != rows * groups * 2
        || qzeros.len() != shape.zero_words() * groups * 4
    {
        return Err(Error::internal(format!(
            "a solution of other sizes ({sizes:?}) than the layer's ({shape:?})"
        )));
    }
    bits::pack_columns(parallel, shape.bits, solution.codes.view(), qweight)?;
    write_zeros(shape, version, solution.zeros.view(), qzeros)?;
    for (row, out) in solution
        .scales
        .columns()
        .into_iter()
        .zip(scales.chunks_exact_mut(2 * rows.max(1)))
    {
        for (scale, out) in row.iter().zip(out.as_chunks_mut().0) {
            *out = float16::f32_to_f16(*scale);
        }
    }
    Ok(())
}

fn write_zeros(
    shape: &Shape,
    version: Version,
    zeros: ArrayView2<'_, u8>,
    qzeros: &mut [u8],
) -> Result<()> {
    let length = shape.zero_words() * 4;
    let mut stored = vec![0; shape.outputs];
    for (group, out) in zeros
        .columns()
        .into_iter()
        .zip(qzeros.chunks_exact_mut(length.max(1)))
    {
        for (zero, stored) in group.iter().zip(&mut stored) {
            *stored = zero.checked_sub(version.lowest_zero()).ok_or_else(|| {
                Error::internal(format!("a zero of {zero} cannot be stored as {version:?}"))
            })?;
        }
        bits::pack(shape.bits, &stored, out)?;
    }
    Ok(())
}

/// A stored layer.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    /// Its sizes.
    pub shape: Shape,
    /// How its zeros are stored.
    pub version: Version,
    /// The bytes of `qweight`.
    pub qweight: &'a [u8],
    /// The bytes of `qzeros`.
    pub qzeros: &'a [u8],
    /// The bytes of `scales`.
    pub scales: &'a [u8],
    /// Their type.
    pub scale_type: ElementType,
    /// The bytes of `g_idx`, if the layer has it.
    pub g_idx: Option<&'a [u8]>,
}

impl Packed<'_> {
    /// The group of each input, if they do not simply follow each other.
    ///
    /// # Errors
    /// If there are not as many as inputs, or one is no group.
    pub fn permutation(&self) -> Result<Option<Vec<u32>>> {
        let Some(bytes) = self.g_idx else {
            return Ok(None);
        };
        let (words, rest) = bytes.as_chunks();
        if words.len() != self.shape.inputs || !rest.is_empty() {
            return Err(Error::corrupt(format!(
                "\"g_idx\" has {} bytes for {} inputs",
                bytes.len(),
                self.shape.inputs
            )));
        }
        let groups: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let count = self.shape.groups() as u32;
        if let Some(input) = groups.iter().position(|group| *group >= count) {
            return Err(Error::corrupt(format!(
                "\"g_idx\" puts input {input} into group {}, of {count}",
                groups[input] as i32
            )));
        }
        let group = self.shape.group;
        let trivial = |(input, number): (usize, &u32)| input / group == *number as usize;
        // Some writers leave it zero; then it says nothing.
        let ordinary = groups.iter().enumerate().all(trivial) || groups.iter().all(|g| *g == 0);
        Ok((!ordinary).then_some(groups))
    }

    /// Unpacks the codes and groups of rows.
    ///
    /// # Errors
    /// If there are no such rows, or the bytes are fewer than the sizes say.
    pub fn rows(&self, rows: Range<usize>) -> Result<Rows> {
        let groups = self.groups(rows.clone())?;
        let mut codes = Array2::zeros((rows.len(), self.shape.inputs));
        bits::unpack_columns(
            self.shape.bits,
            self.qweight,
            self.shape.outputs,
            rows.start,
            codes.view_mut(),
        )?;
        Ok(Rows { codes, groups })
    }

    /// Unpacks the groups of rows.
    ///
    /// # Errors
    /// As [`rows`](Self::rows).
    pub fn groups(&self, rows: Range<usize>) -> Result<Groups> {
        let (columns, groups) = (self.shape.outputs, self.shape.groups());
        if rows.start > rows.end || rows.end > columns {
            return Err(Error::internal(format!(
                "there are no rows {rows:?} of {columns}"
            )));
        }
        let count = rows.len();
        let mut unpacked = Groups::zeros(count, groups);
        let short = || Error::internal("scales or zeros are fewer than the layer's groups");
        let zero_bytes = self.shape.zero_words() * 4;
        let size = self.scale_type.bytes();
        let mut numbers = vec![0.0; count];
        for group in 0..groups {
            let start = (group * columns + rows.start) * size;
            let stored = self.scales.get(start..start + count * size);
            convert::to_f32(self.scale_type, stored.ok_or_else(short)?, &mut numbers)?;
            let zeros = self
                .qzeros
                .get(group * zero_bytes..(group + 1) * zero_bytes);
            let zeros = zeros.ok_or_else(short)?;
            for (row, scale) in numbers.iter().enumerate() {
                let zero = bits::code_at(self.shape.bits, zeros, rows.start + row);
                unpacked.scales[[row, group]] = *scale;
                unpacked.zeros[[row, group]] =
                    f32::from(zero.ok_or_else(short)?) + f32::from(self.version.lowest_zero());
            }
        }
        Ok(unpacked)
    }

    /// Decodes rows; `out` holds exactly those.
    ///
    /// # Errors
    /// As [`rows`](Self::rows) and [`permutation`](Self::permutation), and if `out` has another
    /// length.
    pub fn decode(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let (inputs, group) = (self.shape.inputs, self.shape.group);
        let permutation = self.permutation()?;
        let unpack = |rows| self.rows(rows);
        Rows::decode(
            rows,
            inputs,
            out,
            unpack,
            |part, row, out| match &permutation {
                None => part.decode_row(row, group, out),
                Some(groups) => part.decode_permuted_row(row, groups, out),
            },
        )
    }
}

#[cfg(test)]
mod tests;
