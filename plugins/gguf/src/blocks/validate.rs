//! Checks encoded rows for infinities and NaNs, with the verdict of ggml's
//! `ggml_validate_row_data`: loaders refuse files that fail it.

use super::{BlockType, InvalidRow};

/// Where a type keeps floating-point numbers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    /// Each block is a single-precision number.
    F32,
    /// Each block is a half-precision number.
    F16,
    /// Each block is a bfloat16 number.
    BF16,
    /// Half-precision numbers at these offsets of a block.
    Scales(&'static [usize]),
    /// A power of two at this offset of a block, stored as a byte whose value
    /// 255 means NaN (E8M0).
    Exponent(usize),
}

/// Checks encoded rows of `row_bytes` bytes each, laid end to end.
///
/// # Errors
/// Index of the first row with an infinite or NaN value or scale, and where in
/// the row it is. A last row, or a `row_bytes`, that is not whole blocks is an
/// error too.
pub fn validate_rows(
    ty: BlockType,
    bytes: &[u8],
    row_bytes: usize,
) -> Result<(), (usize, InvalidRow)> {
    if bytes.is_empty() {
        return Ok(());
    }
    if row_bytes == 0 {
        return Err((0, InvalidRow::PartialBlock));
    }
    for (index, row) in bytes.chunks(row_bytes).enumerate() {
        validate_row(ty, row).map_err(|reason| (index, reason))?;
    }
    let rest = bytes.len() % row_bytes;
    if rest != 0 {
        return Err((bytes.len() / row_bytes, InvalidRow::PartialBlock));
    }
    Ok(())
}

fn validate_row(ty: BlockType, row: &[u8]) -> Result<(), InvalidRow> {
    let codec = ty.codec();
    match codec.check {
        Check::F32 => {
            let (values, rest) = row.as_chunks::<4>();
            first_bad(values, rest, |b| u32::from_le_bytes(*b), 0x7f80_0000)
        }
        Check::F16 => {
            let (values, rest) = row.as_chunks::<2>();
            first_bad(values, rest, half, 0x7c00)
        }
        Check::BF16 => {
            let (values, rest) = row.as_chunks::<2>();
            first_bad(values, rest, half, 0x7f80)
        }
        Check::Scales(offsets) => check_blocks(row, codec.layout.block_bytes, |index, block| {
            offsets
                .iter()
                .try_for_each(|&at| check_number(half(&[block[at], block[at + 1]]), 0x7c00, index))
        }),
        Check::Exponent(at) => check_blocks(row, codec.layout.block_bytes, |block, bytes| {
            match bytes[at] {
                0xff => Err(InvalidRow::NotANumber { block }),
                _ => Ok(()),
            }
        }),
    }
}

fn half(bytes: &[u8; 2]) -> u32 {
    u32::from(u16::from_le_bytes(*bytes))
}

/// Refuses numbers whose exponent bits are all set; `exponent` masks them and,
/// being the bits of infinity, tells it from NaN.
#[inline(always)]
fn first_bad<const N: usize>(
    values: &[[u8; N]],
    rest: &[u8],
    bits: impl Fn(&[u8; N]) -> u32,
    exponent: u32,
) -> Result<(), InvalidRow> {
    let is_bad = |value| bits(value) & exponent == exponent;
    let any = values.iter().fold(false, |any, value| any | is_bad(value));
    if any {
        for (block, value) in values.iter().enumerate() {
            check_number(bits(value), exponent, block)?;
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(InvalidRow::PartialBlock)
    }
}

#[inline(always)]
fn check_number(bits: u32, exponent: u32, block: usize) -> Result<(), InvalidRow> {
    if bits & exponent != exponent {
        return Ok(());
    }
    let mantissa = bits & (exponent & exponent.wrapping_neg()).wrapping_sub(1);
    Err(if mantissa == 0 {
        InvalidRow::Infinite { block }
    } else {
        InvalidRow::NotANumber { block }
    })
}

/// Checks each block with its index, then that the last one is whole.
fn check_blocks(
    row: &[u8],
    block_bytes: usize,
    check: impl Fn(usize, &[u8]) -> Result<(), InvalidRow>,
) -> Result<(), InvalidRow> {
    let blocks = row.chunks_exact(block_bytes);
    let whole = blocks.remainder().is_empty();
    for (index, block) in blocks.enumerate() {
        check(index, block)?;
    }
    if whole {
        Ok(())
    } else {
        Err(InvalidRow::PartialBlock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_checked_one_by_one() {
        for (ty, infinity, nan) in [
            (BlockType::F16, vec![0x00, 0x7c], vec![0x01, 0xfc]),
            (BlockType::BF16, vec![0x80, 0xff], vec![0x81, 0x7f]),
            (
                BlockType::F32,
                vec![0, 0, 0x80, 0x7f],
                vec![1, 0, 0x80, 0xff],
            ),
        ] {
            let width = infinity.len();
            let zeros = vec![0; 3 * width];
            assert_eq!(validate_rows(ty, &zeros, width), Ok(()));
            let bytes = [zeros.clone(), infinity].concat();
            assert_eq!(
                validate_rows(ty, &bytes, 2 * width),
                Err((1, InvalidRow::Infinite { block: 1 }))
            );
            let bytes = [zeros, nan].concat();
            assert_eq!(
                validate_rows(ty, &bytes, 4 * width),
                Err((0, InvalidRow::NotANumber { block: 3 }))
            );
        }
    }

    #[test]
    fn codes_may_be_anything_but_scales_may_not() {
        let mut bytes = [0xff; 68];
        (bytes[1], bytes[35]) = (0, 0);
        assert_eq!(validate_rows(BlockType::Q8_0, &bytes, 34), Ok(()));
        bytes[35] = 0x7c;
        assert_eq!(
            validate_rows(BlockType::Q8_0, &bytes, 68),
            Err((0, InvalidRow::NotANumber { block: 1 }))
        );
        bytes[34] = 0;
        assert_eq!(
            validate_rows(BlockType::Q8_0, &bytes, 34),
            Err((1, InvalidRow::Infinite { block: 0 }))
        );
    }

    #[test]
    fn an_exponent_may_be_anything_but_255() {
        let mut bytes = [0xfe; 34];
        assert_eq!(validate_rows(BlockType::MXFP4, &bytes, 34), Ok(()));
        bytes[16] = 0xff; // codes
        assert_eq!(validate_rows(BlockType::MXFP4, &bytes, 34), Ok(()));
        bytes[17] = 0xff;
        let nan = |block| InvalidRow::NotANumber { block };
        assert_eq!(
            validate_rows(BlockType::MXFP4, &bytes, 34),
            Err((0, nan(1)))
        );
        assert_eq!(
            validate_rows(BlockType::MXFP4, &bytes, 17),
            Err((1, nan(0)))
        );
    }

    #[test]
    fn the_scale_of_ternary_blocks_is_at_their_end() {
        for (ty, width) in [(BlockType::TQ1_0, 54), (BlockType::TQ2_0, 66)] {
            let mut bytes = vec![0xff; width];
            bytes[width - 1] = 0;
            assert_eq!(validate_rows(ty, &bytes, width), Ok(()));
            (bytes[width - 2], bytes[width - 1]) = (0x00, 0xfc);
            assert_eq!(
                validate_rows(ty, &bytes, width),
                Err((0, InvalidRow::Infinite { block: 0 }))
            );
        }
    }

    #[test]
    fn rows_are_whole_blocks() {
        let bytes = [0; 68];
        let partial = Err((0, InvalidRow::PartialBlock));
        assert_eq!(validate_rows(BlockType::Q8_0, &bytes, 33), partial);
        assert_eq!(validate_rows(BlockType::Q8_0, &bytes, 0), partial);
        assert_eq!(
            validate_rows(BlockType::Q8_0, &bytes[..67], 34),
            Err((1, InvalidRow::PartialBlock))
        );
        assert_eq!(validate_rows(BlockType::Q8_0, &[], 34), Ok(()));
    }
}
