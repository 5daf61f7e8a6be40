//! The two 16-bit floats, IEEE half precision and bfloat16, as they are stored: two bytes, the
//! low one first.
//!
//! Both widen exactly. Narrowing rounds to nearest, ties to even. A NaN keeps its sign and the
//! payload that fits, and becomes quiet; that is what the processors' own conversions do.

use super::simd::{Isa, Vector};

/// A stored number.
pub type Bytes = [u8; 2];

/// The half-precision number nearest to `value`.
///
/// Without branches or lookups, so that compilers make vector code of loops over it.
#[inline(always)]
#[must_use]
pub fn f32_to_f16(value: f32) -> Bytes {
    let bits = value.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let doubled = bits << 1;

    // Scaling up saturates what is too large to infinity, scaling back leaves the magnitude × 4.
    // Adding a power of two that is 2^13 units of the result above then makes the addition itself
    // round to half precision.
    let scale_up = f32::from_bits(0x7780_0000); // 2^112
    let scale_down = f32::from_bits(0x0880_0000); // 2^-110
    let magnitude = (value.abs() * scale_up) * scale_down;
    let exponent = (doubled & 0xff00_0000).max(0x7100_0000);
    let anchored = f32::from_bits((exponent >> 1) + 0x0780_0000) + magnitude;

    let rounded = anchored.to_bits();
    let number = ((rounded >> 13) & 0x7c00) + (rounded & 0x0fff);
    let quiet = 0x7e00 | ((bits >> 13) & 0x03ff);
    let is_nan = doubled > 0xff00_0000;
    ((sign | if is_nan { quiet } else { number }) as u16).to_le_bytes()
}

/// The value of a half-precision number.
#[inline(always)]
#[must_use]
pub fn f16_to_f32(half: Bytes) -> f32 {
    let bits = u32::from(u16::from_le_bytes(half));
    let sign = (bits & 0x8000) << 16;
    let magnitude = bits & 0x7fff;

    let shifted = magnitude << 13;
    let normal = shifted + ((127 - 15) << 23);
    // Infinity and NaN need the rest of the exponent; NaN the quiet bit too.
    let quiet = if magnitude > 0x7c00 { 0x0040_0000 } else { 0 };
    let special = shifted | 0x7f80_0000 | quiet;
    // A subnormal half is magnitude × 2^-24, exact in single precision.
    let subnormal = (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits();

    let number = if magnitude >= 0x7c00 {
        special
    } else if magnitude < 0x0400 {
        subnormal
    } else {
        normal
    };
    f32::from_bits(sign | number)
}

/// The bfloat16 number nearest to `value`.
#[inline(always)]
#[must_use]
pub fn f32_to_bf16(value: f32) -> Bytes {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let number = if is_nan { bits | 0x0040_0000 } else { rounded };
    ((number >> 16) as u16).to_le_bytes()
}

/// The value of a bfloat16 number; a NaN stays as it is.
#[inline(always)]
#[must_use]
pub fn bf16_to_f32(brain: Bytes) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(brain)) << 16)
}

/// Widens stored numbers of a type; the slices are of one length.
macro_rules! widen {
    ($(#[$doc:meta])* $name:ident $load:ident $one:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<I: Isa>(isa: I, stored: &[Bytes], out: &mut [f32]) {
            let vectors = stored.chunks_exact(I::LANES);
            let rest = vectors.remainder();
            let mut outs = out.chunks_exact_mut(I::LANES);
            for (stored, out) in vectors.zip(&mut outs) {
                isa.$load(stored).store(out);
            }
            for (stored, out) in rest.iter().zip(outs.into_remainder()) {
                *out = $one(*stored);
            }
        }
    };
}

/// Narrows numbers to a type; the slices are of one length.
macro_rules! narrow {
    ($(#[$doc:meta])* $name:ident $store:ident $one:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<I: Isa>(isa: I, numbers: &[f32], out: &mut [Bytes]) {
            let vectors = numbers.chunks_exact(I::LANES);
            let rest = vectors.remainder();
            let mut outs = out.chunks_exact_mut(I::LANES);
            for (numbers, out) in vectors.zip(&mut outs) {
                isa.load(numbers).$store(out);
            }
            for (number, out) in rest.iter().zip(outs.into_remainder()) {
                *out = $one(*number);
            }
        }
    };
}

widen! {
    /// Widens half-precision numbers; the slices have the same length.
    f16s_to_f32s load_f16 f16_to_f32
}
widen! {
    /// Widens bfloat16 numbers; the slices have the same length.
    bf16s_to_f32s load_bf16 bf16_to_f32
}
narrow! {
    /// Narrows to half precision; the slices have the same length.
    f32s_to_f16s store_f16 f32_to_f16
}
narrow! {
    /// Narrows to bfloat16; the slices have the same length.
    f32s_to_bf16s store_bf16 f32_to_bf16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::simd::{Kernel, Level};
    use half::{bf16, f16};

    #[test]
    fn every_stored_number_agrees_with_the_half_crate_and_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let stored = bits.to_le_bytes();
            let (wide, theirs) = (f16_to_f32(stored), f16::from_bits(bits).to_f32_const());
            assert_eq!(wide.to_bits(), theirs.to_bits(), "{bits:#06x}");
            let quiet = if wide.is_nan() { bits | 0x0200 } else { bits };
            assert_eq!(f32_to_f16(wide), quiet.to_le_bytes(), "{bits:#06x}");

            let wide = bf16_to_f32(stored);
            assert_eq!(wide.to_bits(), u32::from(bits) << 16);
            let quiet = if wide.is_nan() { bits | 0x0040 } else { bits };
            assert_eq!(f32_to_bf16(wide), quiet.to_le_bytes(), "{bits:#06x}");
        }
    }

    /// Numbers of all exponents and signs, infinities and NaNs.
    fn walk() -> Vec<f32> {
        let numbers = (0..=u32::MAX).step_by(4099); // odd, so that ties and their neighbours turn up
        let ties = (0..=u32::MAX).step_by(1 << 12);
        numbers.chain(ties).map(f32::from_bits).collect()
    }

    #[test]
    fn narrowing_agrees_with_the_half_crate() {
        for value in walk() {
            let theirs = f16::from_f32_const(value).to_le_bytes();
            assert_eq!(f32_to_f16(value), theirs, "{value:e}");
            let theirs = bf16::from_f32_const(value).to_le_bytes();
            assert_eq!(f32_to_bf16(value), theirs, "{value:e}");
        }
    }

    #[test]
    fn ties_go_to_even_and_overflow_to_infinity() {
        for (value, bits) in [
            (1.0 + 1.0 / 2048.0, 0x3c00_u16),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (65519.0, 0x7bff),
            (65520.0, 0x7c00),
            (-1e30, 0xfc00),
        ] {
            assert_eq!(f32_to_f16(value), bits.to_le_bytes(), "{value}");
        }
    }

    /// All four conversions of slices that leave a remainder.
    struct Slices<'a>(&'a [f32], &'a [Bytes]);

    impl Kernel for Slices<'_> {
        type Output = ();

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            let mut narrow = vec![[0; 2]; self.0.len()];
            f32s_to_f16s(isa, self.0, &mut narrow);
            check(&narrow, self.0, f32_to_f16);
            f32s_to_bf16s(isa, self.0, &mut narrow);
            check(&narrow, self.0, f32_to_bf16);
            let mut wide = vec![0.0; self.1.len()];
            f16s_to_f32s(isa, self.1, &mut wide);
            check_bits(&wide, self.1, f16_to_f32);
            bf16s_to_f32s(isa, self.1, &mut wide);
            check_bits(&wide, self.1, bf16_to_f32);
        }
    }

    fn check(got: &[Bytes], from: &[f32], one: fn(f32) -> Bytes) {
        for (got, from) in got.iter().zip(from) {
            assert_eq!(*got, one(*from), "{from:e}");
        }
    }

    fn check_bits(got: &[f32], from: &[Bytes], one: fn(Bytes) -> f32) {
        for (got, from) in got.iter().zip(from) {
            assert_eq!(got.to_bits(), one(*from).to_bits(), "{from:x?}");
        }
    }

    #[test]
    fn slices_are_converted_like_single_numbers_on_every_level() {
        let numbers = walk();
        let stored: Vec<_> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        for level in Level::all() {
            level.dispatch(Slices(&numbers, &stored));
            for len in 0..70 {
                level.dispatch(Slices(&numbers[len..2 * len], &stored[len..2 * len]));
            }
        }
    }
}
