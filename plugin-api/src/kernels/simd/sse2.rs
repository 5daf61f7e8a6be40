//! x86-64 with SSE2, which all of its processors have: four lanes.

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::four::{self, LANES};
use super::{Isa, Mask, ROUND, ROUNDED_BITS, ROUNDED_ZERO, Vector};
use crate::kernels::float16::{self, Bytes};

/// Proof that the machine has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Sse2(());

/// Four numbers; as only an [`Sse2`] makes them, proof as well.
#[derive(Debug, Clone, Copy)]
pub struct F32x4(__m128);

/// Four truth values, each all ones or all zeros.
#[derive(Debug, Clone, Copy)]
pub struct Mask4(__m128);

impl Sse2 {
    /// The proof. Everything is compiled for the instructions anyway, so kernels need no entry
    /// of their own and run wherever they are called.
    pub(super) const fn detect() -> Self {
        const { assert!(cfg!(target_feature = "sse2")) }
        Self(())
    }
}

impl Isa for Sse2 {
    type F32 = F32x4;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x4 {
        // SAFETY: `self` proves the instructions.
        F32x4(unsafe { _mm_set1_ps(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F32x4 {
        let values = &values[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 4 numbers.
        F32x4(unsafe { _mm_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> F32x4 {
        let bytes = &bytes[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 4 bytes.
        unsafe {
            let four = _mm_cvtsi32_si128(bytes.as_ptr().cast::<i32>().read_unaligned());
            let pairs = _mm_unpacklo_epi8(four, four);
            let upper = _mm_unpacklo_epi16(pairs, pairs);
            F32x4(_mm_cvtepi32_ps(_mm_srai_epi32::<24>(upper)))
        }
    }

    #[inline(always)]
    fn load_f16(self, stored: &[Bytes]) -> F32x4 {
        four::load(self, stored, float16::f16_to_f32)
    }

    #[inline(always)]
    fn load_bf16(self, stored: &[Bytes]) -> F32x4 {
        let stored = &stored[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 4 numbers.
        unsafe {
            let four = _mm_loadl_epi64(stored.as_ptr().cast());
            F32x4(_mm_castsi128_ps(_mm_unpacklo_epi16(
                _mm_setzero_si128(),
                four,
            )))
        }
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
        let low = [_mm_unpacklo_ps(a.0, b.0), _mm_unpacklo_ps(c.0, d.0)];
        let high = [_mm_unpackhi_ps(a.0, b.0), _mm_unpackhi_ps(c.0, d.0)];
        [
            F32x4(_mm_movelh_ps(low[0], low[1])),
            F32x4(_mm_movehl_ps(low[1], low[0])),
            F32x4(_mm_movelh_ps(high[0], high[1])),
            F32x4(_mm_movehl_ps(high[1], high[0])),
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
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_f16(self, out: &mut [Bytes]) {
        four::store(self, out, float16::f32_to_f16);
    }

    #[inline(always)]
    fn store_bf16(self, out: &mut [Bytes]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 4 places.
        unsafe {
            let bits = _mm_castps_si128(self.0);
            let odd = _mm_and_si128(_mm_srli_epi32::<16>(bits), _mm_set1_epi32(1));
            let up = _mm_add_epi32(odd, _mm_set1_epi32(0x7fff));
            let rounded = Self(_mm_castsi128_ps(_mm_add_epi32(bits, up)));
            let quiet = _mm_or_ps(self.0, _mm_castsi128_ps(_mm_set1_epi32(0x0040_0000)));
            let is_nan = Mask4(_mm_cmpunord_ps(self.0, self.0));
            let number = _mm_castps_si128(Self::select(is_nan, Self(quiet), rounded).0);
            // Shifted with its sign, what is packed saturates nowhere.
            let upper = _mm_srai_epi32::<16>(number);
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_packs_epi32(upper, upper));
        }
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        // SAFETY: `self` proves the instructions.
        let four = unsafe {
            // Packing saturates, which leaves the lowest bytes alone as they are.
            let lowest = _mm_and_si128(_mm_cvttps_epi32(self.0), _mm_set1_epi32(0xff));
            let words = _mm_packs_epi32(lowest, lowest);
            _mm_cvtsi128_si32(_mm_packus_epi16(words, words))
        };
        out[..LANES].copy_from_slice(&four.to_ne_bytes());
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm_andnot_ps(_mm_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Mask4 {
        // SAFETY: `self` proves the instructions.
        Mask4(unsafe { _mm_cmplt_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask4 {
        // SAFETY: `self` proves the instructions.
        Mask4(unsafe { _mm_cmpeq_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn select(mask: Mask4, yes: Self, no: Self) -> Self {
        // SAFETY: the vectors prove the instructions.
        unsafe {
            let (yes, no) = (_mm_and_ps(mask.0, yes.0), _mm_andnot_ps(mask.0, no.0));
            Self(_mm_or_ps(yes, no))
        }
    }

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let round = _mm_set1_ps(ROUND);
            Self(_mm_sub_ps(_mm_add_ps(self.0, round), round))
        }
    }

    #[inline(always)]
    fn round_wrapping(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let sum = _mm_castps_si128(_mm_add_ps(self.0, _mm_set1_ps(ROUND)));
            let bits = _mm_and_si128(sum, _mm_set1_epi32(ROUNDED_BITS));
            let number = _mm_sub_epi32(bits, _mm_set1_epi32(ROUNDED_ZERO));
            Self(_mm_cvtepi32_ps(number))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let exponent = _mm_add_epi32(_mm_cvtps_epi32(self.0), _mm_set1_epi32(127));
            Self(_mm_castsi128_ps(_mm_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let two = _mm_max_ps(self.0, _mm_movehl_ps(self.0, self.0));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn min_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let two = _mm_min_ps(self.0, _mm_movehl_ps(self.0, self.0));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

impl Mask for Mask4 {
    #[inline(always)]
    fn any(self) -> bool {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm_movemask_ps(self.0) != 0 }
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
    Add add F32x4 _mm_add_ps;
    Sub sub F32x4 _mm_sub_ps;
    Mul mul F32x4 _mm_mul_ps;
    Div div F32x4 _mm_div_ps;
    BitAnd bitand Mask4 _mm_and_ps;
    BitOr bitor Mask4 _mm_or_ps;
}

impl Not for Mask4 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let ones = _mm_castsi128_ps(_mm_set1_epi32(-1));
            Self(_mm_xor_ps(self.0, ones))
        }
    }
}
