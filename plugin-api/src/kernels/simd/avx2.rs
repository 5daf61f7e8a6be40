//! x86-64 with AVX2, FMA and F16C: eight lanes.

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::{Isa, Kernel, Mask, ROUND, ROUNDED_BITS, ROUNDED_ZERO, Vector, array};
use crate::kernels::float16::Bytes;

const LANES: usize = 8;

/// Proof that the machine has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

/// Eight numbers; as only an [`Avx2`] makes them, proof as well.
#[derive(Debug, Clone, Copy)]
pub struct F32x8(__m256);

/// Eight truth values, each all ones or all zeros.
#[derive(Debug, Clone, Copy)]
pub struct Mask8(__m256);

impl Avx2 {
    /// The proof, on machines that have the instructions.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs a kernel in a function that is compiled for the instructions.
    #[inline]
    pub(super) fn enter<K: Kernel, I: Isa>(self, isa: I, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<K: Kernel, I: Isa>(isa: I, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // SAFETY: `self` proves that the machine has these instructions.
        unsafe { compiled(isa, kernel) }
    }
}

impl Isa for Avx2 {
    type F32 = F32x8;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x8 {
        // SAFETY: `self` proves the instructions.
        F32x8(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F32x8 {
        let values = &values[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 numbers.
        F32x8(unsafe { _mm256_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> F32x8 {
        let bytes = &bytes[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 bytes.
        unsafe {
            let integers = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()));
            F32x8(_mm256_cvtepi32_ps(integers))
        }
    }

    #[inline(always)]
    fn load_f16(self, stored: &[Bytes]) -> F32x8 {
        let stored = &stored[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 numbers.
        F32x8(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(stored.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_bf16(self, stored: &[Bytes]) -> F32x8 {
        let stored = &stored[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 numbers.
        unsafe {
            let upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(stored.as_ptr().cast()));
            F32x8(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(upper)))
        }
    }

    #[inline(always)]
    fn transpose<const S: usize>(self, rows: &[[f32; S]]) -> [F32x8; S] {
        const { assert!(S.is_multiple_of(LANES)) }
        // From the parts of the rows, square by square; nothing is filled with zeros first, which
        // would take longer than the rest.
        let zeros = [0.0; S];
        let mut columns: [Self::F32; S] = array(|i| {
            let row = rows.get(i % LANES).unwrap_or(&zeros);
            self.load(&row[i - i % LANES..])
        });
        for square in columns.as_chunks_mut::<LANES>().0 {
            *square = transpose_square(*square);
        }
        columns
    }
}

/// Turns eight rows of eight numbers into columns: pairs, then quadruples within each half of a
/// vector, then whole halves.
#[inline(always)]
fn transpose_square(rows: [F32x8; LANES]) -> [F32x8; LANES] {
    let zero = rows[0];
    let (mut pairs, mut quads, mut columns) = ([zero; LANES], [zero; LANES], [zero; LANES]);
    for i in 0..LANES / 2 {
        let (a, b) = (rows[2 * i].0, rows[2 * i + 1].0);
        // SAFETY: the vectors prove the instructions.
        unsafe {
            pairs[2 * i] = F32x8(_mm256_unpacklo_ps(a, b));
            pairs[2 * i + 1] = F32x8(_mm256_unpackhi_ps(a, b));
        }
    }
    for i in 0..LANES / 4 {
        let [a, b, c, d] = [
            pairs[4 * i],
            pairs[4 * i + 1],
            pairs[4 * i + 2],
            pairs[4 * i + 3],
        ];
        // SAFETY: the vectors prove the instructions.
        unsafe {
            quads[4 * i] = F32x8(_mm256_shuffle_ps::<0x44>(a.0, c.0));
            quads[4 * i + 1] = F32x8(_mm256_shuffle_ps::<0xee>(a.0, c.0));
            quads[4 * i + 2] = F32x8(_mm256_shuffle_ps::<0x44>(b.0, d.0));
            quads[4 * i + 3] = F32x8(_mm256_shuffle_ps::<0xee>(b.0, d.0));
        }
    }
    for j in 0..4 {
        let (low, high) = (quads[j].0, quads[j + 4].0);
        // SAFETY: the vectors prove the instructions.
        unsafe {
            columns[j] = F32x8(_mm256_permute2f128_ps::<0x20>(low, high));
            columns[j + 4] = F32x8(_mm256_permute2f128_ps::<0x31>(low, high));
        }
    }
    columns
}

impl Vector for F32x8 {
    type Mask = Mask8;

    const LANES: usize = LANES;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 places.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_f16(self, out: &mut [Bytes]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 places.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm_storeu_si128(out.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    fn store_bf16(self, out: &mut [Bytes]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 places.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_castsi256_ps(_mm256_add_epi32(bits, up));
            let quiet = _mm256_or_ps(self.0, _mm256_castsi256_ps(_mm256_set1_epi32(0x0040_0000)));
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0);
            let number = _mm256_castps_si256(_mm256_blendv_ps(rounded, quiet, is_nan));
            let upper = _mm256_srli_epi32::<16>(number);
            let (low, high) = (
                _mm256_castsi256_si128(upper),
                _mm256_extracti128_si256::<1>(upper),
            );
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_packus_epi32(low, high));
        }
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 8 places.
        unsafe {
            // The lowest byte of each number, to the front of each half.
            let front = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let bytes = _mm256_shuffle_epi8(_mm256_cvttps_epi32(self.0), front);
            let (low, high) = (
                _mm256_castsi256_si128(bytes),
                _mm256_extracti128_si256::<1>(bytes),
            );
            _mm_storel_epi64(out.as_mut_ptr().cast(), _mm_unpacklo_epi32(low, high));
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm256_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Mask8 {
        // SAFETY: `self` proves the instructions.
        Mask8(unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask8 {
        // SAFETY: `self` proves the instructions.
        Mask8(unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn select(mask: Mask8, yes: Self, no: Self) -> Self {
        // SAFETY: the vectors prove the instructions.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask.0) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let round = _mm256_set1_ps(ROUND);
            Self(_mm256_sub_ps(_mm256_add_ps(self.0, round), round))
        }
    }

    #[inline(always)]
    fn round_wrapping(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let sum = _mm256_castps_si256(_mm256_add_ps(self.0, _mm256_set1_ps(ROUND)));
            let bits = _mm256_and_si256(sum, _mm256_set1_epi32(ROUNDED_BITS));
            let number = _mm256_sub_epi32(bits, _mm256_set1_epi32(ROUNDED_ZERO));
            Self(_mm256_cvtepi32_ps(number))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self.0), _mm256_set1_epi32(127));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let high = _mm256_extractf128_ps::<1>(self.0);
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), high);
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn min_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let high = _mm256_extractf128_ps::<1>(self.0);
            let four = _mm_min_ps(_mm256_castps256_ps128(self.0), high);
            let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

impl Mask for Mask8 {
    #[inline(always)]
    fn any(self) -> bool {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm256_movemask_ps(self.0) != 0 }
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
    Add add F32x8 _mm256_add_ps;
    Sub sub F32x8 _mm256_sub_ps;
    Mul mul F32x8 _mm256_mul_ps;
    Div div F32x8 _mm256_div_ps;
    BitAnd bitand Mask8 _mm256_and_ps;
    BitOr bitor Mask8 _mm256_or_ps;
}

impl Not for Mask8 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
            Self(_mm256_xor_ps(self.0, ones))
        }
    }
}
