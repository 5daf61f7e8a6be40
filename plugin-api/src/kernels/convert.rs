//! Conversion between the stored float types and single precision.
//!
//! Both 16-bit types widen exactly. Narrowing rounds to nearest, ties to even, as
//! IEEE 754 and every peer do. `half` picks F16C at run time; the bfloat16 loops
//! are shifts and adds that the compiler turns into vector code.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::interface::{ElementType, Error, Result};

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
        ElementType::BF16 => bf16_to_f32(bytes, out),
        ElementType::F16 => f16_to_f32(bytes, out),
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

fn bf16_to_f32(bytes: &[u8], out: &mut [f32]) {
    for (number, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *number = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// Numbers per step: small enough for the stack, long enough for vector code.
const STEP: usize = 256;

fn f16_to_f32(bytes: &[u8], out: &mut [f32]) {
    let mut halves = [f16::ZERO; STEP];
    for (numbers, bytes) in out.chunks_mut(STEP).zip(bytes.chunks(2 * STEP)) {
        let halves = &mut halves[..numbers.len()];
        for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        halves.convert_to_f32_slice(numbers);
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
        ElementType::BF16 => {
            for (bytes, number) in out.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
                *bytes = bf16::from_f32(*number).to_le_bytes();
            }
        }
        ElementType::F16 => f32_to_f16(numbers, out),
        ElementType::Raw => return Err(Error::internal("numbers cannot be written as raw bytes")),
    }
    Ok(())
}

fn f32_to_f16(numbers: &[f32], out: &mut [u8]) {
    let mut halves = [f16::ZERO; STEP];
    for (numbers, bytes) in numbers.chunks(STEP).zip(out.chunks_mut(2 * STEP)) {
        let halves = &mut halves[..numbers.len()];
        halves.convert_from_f32_slice(numbers);
        for (bytes, half) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(halves.iter()) {
            *bytes = half.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
