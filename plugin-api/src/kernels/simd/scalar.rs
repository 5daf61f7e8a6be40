//! One lane of plain Rust: what every other instruction set has to agree with.

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::{Isa, Mask, ROUND, ROUNDED_BITS, ROUNDED_ZERO, Vector};
use crate::kernels::float16::{self, Bytes};

/// What every machine has.
#[derive(Debug, Clone, Copy)]
pub struct Scalar;

/// One number.
#[derive(Debug, Clone, Copy)]
pub struct F32x1(f32);

/// One truth value.
#[derive(Debug, Clone, Copy)]
pub struct Mask1(bool);

impl Isa for Scalar {
    type F32 = F32x1;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x1 {
        F32x1(value)
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F32x1 {
        F32x1(values[0])
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> F32x1 {
        F32x1(f32::from(bytes[0] as i8))
    }

    #[inline(always)]
    fn load_f16(self, stored: &[Bytes]) -> F32x1 {
        F32x1(float16::f16_to_f32(stored[0]))
    }

    #[inline(always)]
    fn load_bf16(self, stored: &[Bytes]) -> F32x1 {
        F32x1(float16::bf16_to_f32(stored[0]))
    }

    #[inline(always)]
    fn transpose<const S: usize>(self, rows: &[[f32; S]]) -> [F32x1; S] {
        let mut columns = [F32x1(0.0); S];
        if let Some(row) = rows.first() {
            for (column, &value) in columns.iter_mut().zip(row) {
                *column = F32x1(value);
            }
        }
        columns
    }
}

impl Vector for F32x1 {
    type Mask = Mask1;

    const LANES: usize = 1;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        out[0] = self.0;
    }

    #[inline(always)]
    fn store_f16(self, out: &mut [Bytes]) {
        out[0] = float16::f32_to_f16(self.0);
    }

    #[inline(always)]
    fn store_bf16(self, out: &mut [Bytes]) {
        out[0] = float16::f32_to_bf16(self.0);
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        out[0] = self.0 as i32 as u8;
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs())
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt())
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        Self(if self.0 > other.0 { self.0 } else { other.0 })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        Self(if self.0 < other.0 { self.0 } else { other.0 })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Mask1 {
        Mask1(self.0 < other.0)
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask1 {
        Mask1(self.0 == other.0)
    }

    #[inline(always)]
    fn select(mask: Mask1, yes: Self, no: Self) -> Self {
        if mask.0 { yes } else { no }
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self((self.0 + ROUND) - ROUND)
    }

    #[inline(always)]
    fn round_wrapping(self) -> Self {
        let bits = (self.0 + ROUND).to_bits() as i32;
        Self(((bits & ROUNDED_BITS) - ROUNDED_ZERO) as f32)
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(f32::from_bits(((self.0 as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn min_lane(self) -> f32 {
        self.0
    }
}

impl Mask for Mask1 {
    #[inline(always)]
    fn any(self) -> bool {
        self.0
    }
}

macro_rules! arithmetic {
    ($($operator:ident $method:ident $symbol:tt;)*) => {$(
        impl $operator for F32x1 {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(self.0 $symbol other.0)
            }
        }
    )*};
}

arithmetic! {
    Add add +;
    Sub sub -;
    Mul mul *;
    Div div /;
}

impl BitAnd for Mask1 {
    type Output = Self;

    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Mask1 {
    type Output = Self;

    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for Mask1 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0)
    }
}
