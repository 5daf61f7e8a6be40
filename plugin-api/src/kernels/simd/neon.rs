//! aarch64 with NEON, which all of its processors have: four lanes.

use std::arch::aarch64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::four::{self, LANES};
use super::{Isa, Mask, ROUND, ROUNDED_BITS, ROUNDED_ZERO, Vector};
use crate::kernels::float16::{self, Bytes};

/// Proof that the machine has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Neon(());

/// Four numbers; as only a [`Neon`] makes them, proof as well.
#[derive(Debug, Clone, Copy)]
pub struct F32x4(float32x4_t);

/// Four truth values, each all ones or all zeros.
#[derive(Debug, Clone, Copy)]
pub struct Mask4(uint32x4_t);

impl Neon {
    /// The proof. Everything is compiled for the instructions anyway, so kernels need no entry
    /// of their own and run wherever they are called.
    pub(super) const fn detect() -> Self {
        const { assert!(cfg!(target_feature = "neon")) }
        Self(())
    }
}

impl Isa for Neon {
    type F32 = F32x4;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x4 {
        // SAFETY: `self` proves the instructions.
        F32x4(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F32x4 {
        let values = &values[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 4 numbers.
        F32x4(unsafe { vld1q_f32(values.as_ptr()) })
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> F32x4 {
        four::load(self, bytes, |byte| f32::from(byte as i8))
    }

    #[inline(always)]
    fn load_f16(self, stored: &[Bytes]) -> F32x4 {
        four::load(self, stored, float16::f16_to_f32)
    }

    #[inline(always)]
    fn load_bf16(self, stored: &[Bytes]) -> F32x4 {
        four::load(self, stored, float16::bf16_to_f32)
    }

    #[inline(always)]
    fn transpose<const S: usize>(self, rows: &[[f32; S]]) -> [F32x4; S] {
        four::transpose(self, rows, transpose_square)
    }
}

/// Turns four rows of four numbers into columns: pairs of rows first, then halves of vectors.
#[inline(always)]
fn transpose_square([a, b, c, d]: [F32x4; LANES]) -> [F32x4; LANES] {
    // SAFETY: the vectors prove the instructions.
    unsafe {
        let even = [vtrn1q_f32(a.0, b.0), vtrn1q_f32(c.0, d.0)].map(|v| vreinterpretq_f64_f32(v));
        let odd = [vtrn2q_f32(a.0, b.0), vtrn2q_f32(c.0, d.0)].map(|v| vreinterpretq_f64_f32(v));
        [
            F32x4(vreinterpretq_f32_f64(vzip1q_f64(even[0], even[1]))),
            F32x4(vreinterpretq_f32_f64(vzip1q_f64(odd[0], odd[1]))),
            F32x4(vreinterpretq_f32_f64(vzip2q_f64(even[0], even[1]))),
            F32x4(vreinterpretq_f32_f64(vzip2q_f64(odd[0], odd[1]))),
        ]
    }
}

impl Vector for F32x4 {
    type Mask = Mask4;

    const LANES: usize = LANES;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 4 places.
        unsafe { vst1q_f32(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_f16(self, out: &mut [Bytes]) {
        four::store(self, out, float16::f32_to_f16);
    }

    #[inline(always)]
    fn store_bf16(self, out: &mut [Bytes]) {
        four::store(self, out, float16::f32_to_bf16);
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        // SAFETY: `self` proves the instructions.
        let four = unsafe {
            let words = vmovn_s32(vcvtq_s32_f32(self.0));
            let bytes = vmovn_s16(vcombine_s16(words, words));
            vget_lane_u32::<0>(vreinterpret_u32_s8(bytes))
        };
        out[..LANES].copy_from_slice(&four.to_ne_bytes());
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { vabsq_f32(self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { vsqrtq_f32(self.0) })
    }

    // NEON's own maximum and minimum are NaN where either operand is, and tell zeros apart.

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        Self::select(self.gt(other), self, other)
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        Self::select(self.lt(other), self, other)
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Mask4 {
        // SAFETY: `self` proves the instructions.
        Mask4(unsafe { vcltq_f32(self.0, other.0) })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask4 {
        // SAFETY: `self` proves the instructions.
        Mask4(unsafe { vceqq_f32(self.0, other.0) })
    }

    #[inline(always)]
    fn select(mask: Mask4, yes: Self, no: Self) -> Self {
        // SAFETY: the vectors prove the instructions.
        Self(unsafe { vbslq_f32(mask.0, yes.0, no.0) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let round = vdupq_n_f32(ROUND);
            Self(vsubq_f32(vaddq_f32(self.0, round), round))
        }
    }

    #[inline(always)]
    fn round_wrapping(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let sum = vreinterpretq_s32_f32(vaddq_f32(self.0, vdupq_n_f32(ROUND)));
            let bits = vandq_s32(sum, vdupq_n_s32(ROUNDED_BITS));
            let number = vsubq_s32(bits, vdupq_n_s32(ROUNDED_ZERO));
            Self(vcvtq_f32_s32(number))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(self.0), vdupq_n_s32(127));
            Self(vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { vmaxvq_f32(self.0) }
    }

    #[inline(always)]
    fn min_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { vminvq_f32(self.0) }
    }
}

impl Mask for Mask4 {
    #[inline(always)]
    fn any(self) -> bool {
        // SAFETY: `self` proves the instructions.
        unsafe { vmaxvq_u32(self.0) != 0 }
    }
}

macro_rules! lane_by_lane {
    ($($operator:ident $method:ident $type:ident $instruction:ident;)*) => {$(
        impl $operator for $type {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: `self` proves the instructions.
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    )*};
}

lane_by_lane! {
    Add add F32x4 vaddq_f32;
    Sub sub F32x4 vsubq_f32;
    Mul mul F32x4 vmulq_f32;
    Div div F32x4 vdivq_f32;
    BitAnd bitand Mask4 vandq_u32;
    BitOr bitor Mask4 vorrq_u32;
}

impl Not for Mask4 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { vmvnq_u32(self.0) })
    }
}
