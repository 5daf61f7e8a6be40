//! The rows of `gemv_fast`: of four outputs, 64 inputs each in turn.
//!
//! Of these 64 inputs, every 32 are shuffled: field `8a + 4c + b` holds input `8b + 2a + c`, with
//! `a` and `b` below four and `c` below two.

use llm_quantize_plugin_api::kernels::bits;
use llm_quantize_plugin_api::{Error, Result};
use ndarray::{ArrayViewMut2, s};

use crate::levels::BITS;

/// Outputs that lie together.
pub const ROWS: usize = 4;
/// Inputs of an output that lie together.
pub const BLOCK: usize = 64;

/// The place of an input of a block.
const fn place(input: usize) -> usize {
    let (half, rest) = (input / 32, input % 32);
    let (a, b, c) = (rest % 8 / 2, rest / 8, rest % 2);
    half * 32 + a * 8 + c * 4 + b
}

/// Unpacks the codes of outputs, as many as `codes` has rows, from `first` on. Inputs come in
/// whole blocks.
///
/// # Errors
/// If there are no such outputs.
pub fn unpack(packed: &[u8], first: usize, mut codes: ArrayViewMut2<'_, u8>) -> Result<()> {
    let blocks = codes.ncols() / BLOCK;
    let missing = || Error::internal("codes are fewer than the layer's");
    for (row, mut codes) in codes.rows_mut().into_iter().enumerate() {
        let output = first + row;
        for block in 0..blocks {
            let at = ((output / ROWS * blocks + block) * ROWS + output % ROWS) * BLOCK / 2;
            let stored = packed.get(at..at + BLOCK / 2).ok_or_else(missing)?;
            let mut fields = [0; BLOCK];
            bits::unpack(BITS, stored, &mut fields)?;
            let mut codes = codes.slice_mut(s![block * BLOCK..(block + 1) * BLOCK]);
            for (input, code) in codes.iter_mut().enumerate() {
                *code = fields[place(input)];
            }
        }
    }
    Ok(())
}

/// The zero of a group: what is stored is the half-precision number nearest to its negative
/// product with the scale. Of codes up to 15 that rounding is too small to hide a whole number.
#[must_use]
pub fn zero(stored: f32, scale: f32) -> f32 {
    let zero = match scale == 0.0 {
        true => 0.0,
        false => -stored / scale,
    };
    let whole = zero.round_ties_even();
    match (zero - whole).abs() < TOLERANCE {
        true => whole,
        false => zero,
    }
}

/// Half precision is off by 2⁻¹¹ of a number at most, so a zero of up to 15 by 0.0074; more where
/// products are so small that they have fewer digits.
const TOLERANCE: f32 = 0.02;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_have_places_of_their_own() {
        let mut places: Vec<usize> = (0..BLOCK).map(place).collect();
        // Worked out by hand: 2, 3 and 8 are (a, b, c) = (1, 0, 0), (1, 0, 1) and (0, 1, 0).
        assert_eq!(
            [0, 1, 2, 3, 8, 32].map(|input| places[input]),
            [0, 4, 8, 12, 1, 32]
        );
        places.sort_unstable();
        assert!(places.into_iter().eq(0..BLOCK));
    }

    #[test]
    fn zeros_are_whole_again() {
        use llm_quantize_plugin_api::kernels::float16::{f16_to_f32, f32_to_f16};
        for scale in [0.003_14f32, 0.1, 7e-5] {
            let scale = f16_to_f32(f32_to_f16(scale));
            for whole in 0..16u8 {
                let product = -scale * f32::from(whole);
                let stored = f16_to_f32(f32_to_f16(product));
                assert_eq!(zero(stored, scale), f32::from(whole));
            }
        }
        assert_eq!(zero(-0.5, 1.0), 0.5);
        assert_eq!(zero(0.0, 0.0), 0.0);
    }
}
