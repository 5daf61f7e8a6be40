//! Conversion between the stored float types and single precision, with the best instructions of
//! the machine.
//!
//! [`float16`] has the rounding and the kernels.

use ndarray::Array2;

use super::float16;
use super::parallel::{Parallel, try_hand_out};
use super::simd::{Isa, Kernel, Level};
use crate::interface::{ElementType, Error, Result, TensorView};

/// Numbers that one task widens.
const TASK: usize = 1 << 18;

/// Reads little-endian numbers of a type into single precision.
///
/// # Errors
/// If the lengths do not fit each other, or the type is raw.
pub fn to_f32(element: ElementType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    if bytes.len() != out.len() * element.bytes() {
        return Err(Error::internal(format!(
            "{} bytes are not {} numbers of {element:?}",
            bytes.len(),
            out.len()
        )));
    }
    match element {
        ElementType::F32 => f32_from_le(bytes, out),
        ElementType::BF16 | ElementType::F16 => Level::detect().dispatch(Widen {
            element,
            stored: bytes.as_chunks().0,
            out,
        }),
        ElementType::Raw => return Err(Error::internal("raw bytes have no numbers")),
    }
    Ok(())
}

/// Little-endian bytes as single-precision numbers, without a copy; `None` if they
/// are not aligned for that (or the machine is big-endian).
pub fn as_f32(bytes: &[u8]) -> Option<&[f32]> {
    if cfg!(target_endian = "big") {
        return None;
    }
    // SAFETY: every bit pattern is a valid f32.
    let (head, numbers, tail) = unsafe { bytes.align_to::<f32>() };
    (head.is_empty() && tail.is_empty()).then_some(numbers)
}

fn f32_from_le(bytes: &[u8], out: &mut [f32]) {
    for (number, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *number = f32::from_le_bytes(*bytes);
    }
}

/// Widens 16-bit numbers.
struct Widen<'a> {
    element: ElementType,
    stored: &'a [float16::Bytes],
    out: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.element {
            ElementType::BF16 => float16::bf16s_to_f32s(isa, self.stored, self.out),
            _ => float16::f16s_to_f32s(isa, self.stored, self.out),
        }
    }
}

/// Writes single precision as little-endian numbers of a type.
///
/// # Errors
/// If the lengths do not fit each other, or the type is raw.
pub fn from_f32(element: ElementType, numbers: &[f32], out: &mut [u8]) -> Result<()> {
    if out.len() != numbers.len() * element.bytes() {
        return Err(Error::internal(format!(
            "{} numbers of {element:?} do not fill {} bytes",
            numbers.len(),
            out.len()
        )));
    }
    match element {
        ElementType::F32 => {
            for (bytes, number) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
                *bytes = number.to_le_bytes();
            }
        }
        ElementType::BF16 | ElementType::F16 => Level::detect().dispatch(Narrow {
            element,
            numbers,
            out: out.as_chunks_mut().0,
        }),
        ElementType::Raw => return Err(Error::internal("numbers cannot be written as raw bytes")),
    }
    Ok(())
}

/// Narrows to 16-bit numbers.
struct Narrow<'a> {
    element: ElementType,
    numbers: &'a [f32],
    out: &'a mut [float16::Bytes],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        match self.element {
            ElementType::BF16 => float16::f32s_to_bf16s(isa, self.numbers, self.out),
            _ => float16::f32s_to_f16s(isa, self.numbers, self.out),
        }
    }
}

/// All numbers of a view in single precision.
///
/// # Errors
/// If the view is raw.
pub fn widen(parallel: &dyn Parallel, view: &TensorView<'_>) -> Result<Array2<f32>> {
    let (rows, cols) = (view.rows(), view.cols());
    let mut numbers = Array2::zeros((rows, cols));
    let rows_each = (TASK / cols.max(1)).max(1);
    let length = rows_each * cols * view.element().bytes();
    if let Some(numbers) = numbers.as_slice_mut() {
        let parts = numbers.chunks_mut((rows_each * cols).max(1));
        let parts = parts.zip(view.bytes().chunks(length.max(1)));
        try_hand_out(parallel, parts.collect(), |_, (numbers, bytes)| {
            to_f32(view.element(), bytes, numbers)
        })?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use half::{bf16, f16};
    use proptest::prelude::*;

    #[test]
    fn every_16_bit_number_widens_exactly_and_comes_back() {
        for element in [ElementType::F16, ElementType::BF16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut wide = vec![0.0f32; 65536];
            to_f32(element, &bytes, &mut wide).unwrap();
            for (bits, number) in (0..=u16::MAX).zip(&wide) {
                let expected = match element {
                    ElementType::F16 => f16::from_bits(bits).to_f32(),
                    _ => bf16::from_bits(bits).to_f32(),
                };
                assert!(number.to_bits() == expected.to_bits() || expected.is_nan());
            }
            let mut back = vec![0u8; bytes.len()];
            from_f32(element, &wide, &mut back).unwrap();
            for (i, number) in wide.iter().enumerate() {
                assert!(number.is_nan() || back[2 * i..2 * i + 2] == bytes[2 * i..2 * i + 2]);
            }
        }
    }

    #[test]
    fn views_are_widened_in_parts() {
        let exact: Vec<f32> = (0..700 * 500).map(|n| (n % 977) as f32 - 400.0).collect();
        let mut bytes = vec![0; exact.len() * 2];
        from_f32(ElementType::F16, &exact, &mut bytes).unwrap();
        let view = TensorView::new(ElementType::F16, 700, 500, &bytes).unwrap();
        let wide = widen(&Serial, &view).unwrap();
        assert!(wide.dim() == (700, 500) && wide.iter().eq(&exact));
        let raw = TensorView::new(ElementType::Raw, 1, 4, &bytes[..4]).unwrap();
        assert!(widen(&Serial, &raw).is_err());
        let empty = TensorView::new(ElementType::F32, 0, 4, &[]).unwrap();
        assert_eq!(widen(&Serial, &empty).unwrap().dim(), (0, 4));
    }

    #[test]
    fn lengths_are_checked() {
        assert!(to_f32(ElementType::F16, &[0; 3], &mut [0.0]).is_err());
        assert!(to_f32(ElementType::Raw, &[0], &mut [0.0]).is_err());
        assert!(from_f32(ElementType::F32, &[0.0], &mut [0; 3]).is_err());
    }

    proptest! {
        #[test]
        fn narrowing_rounds_to_nearest_even(numbers in prop::collection::vec(any::<f32>(), 0..600)) {
            let mut bytes = vec![0u8; numbers.len() * 2];
            from_f32(ElementType::F16, &numbers, &mut bytes).unwrap();
            for (number, bytes) in numbers.iter().zip(bytes.as_chunks::<2>().0) {
                prop_assert_eq!(f16::from_le_bytes(*bytes).to_bits(), f16::from_f32(*number).to_bits());
            }
        }
    }
}
