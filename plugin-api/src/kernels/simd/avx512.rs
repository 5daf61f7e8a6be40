//! x86-64 with AVX-512 F, BW, VL and DQ: sixteen lanes.

use std::arch::x86_64::*;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::{Isa, Kernel, Mask, ROUND, ROUNDED_BITS, ROUNDED_ZERO, Vector, array};
use crate::kernels::float16::Bytes;

const LANES: usize = 16;

/// Proof that the machine has the instructions.
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// Sixteen numbers; as only an [`Avx512`] makes them, proof as well.
#[derive(Debug, Clone, Copy)]
pub struct F32x16(__m512);

/// Sixteen truth values.
#[derive(Debug, Clone, Copy)]
pub struct Mask16(__mmask16);

impl Avx512 {
    /// The proof, on machines that have the instructions.
    pub(super) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }

    /// Runs a kernel in a function that is compiled for the instructions.
    #[inline]
    pub(super) fn enter<K: Kernel, I: Isa>(self, isa: I, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
        fn compiled<K: Kernel, I: Isa>(isa: I, kernel: K) -> K::Output {
            kernel.run(isa)
        }
        // SAFETY: `self` proves that the machine has these instructions.
        unsafe { compiled(isa, kernel) }
    }
}

impl Isa for Avx512 {
    type F32 = F32x16;

    #[inline(always)]
    fn splat(self, value: f32) -> F32x16 {
        // SAFETY: `self` proves the instructions.
        F32x16(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> F32x16 {
        let values = &values[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 numbers.
        F32x16(unsafe { _mm512_loadu_ps(values.as_ptr()) })
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> F32x16 {
        let bytes = &bytes[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 bytes.
        unsafe {
            let integers = _mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()));
            F32x16(_mm512_cvtepi32_ps(integers))
        }
    }

    #[inline(always)]
    fn load_f16(self, stored: &[Bytes]) -> F32x16 {
        let stored = &stored[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 numbers.
        F32x16(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(stored.as_ptr().cast())) })
    }

    #[inline(always)]
    fn load_bf16(self, stored: &[Bytes]) -> F32x16 {
        let stored = &stored[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 numbers.
        unsafe {
            let upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256(stored.as_ptr().cast()));
            F32x16(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(upper)))
        }
    }

    #[inline(always)]
    fn transpose<const S: usize>(self, rows: &[[f32; S]]) -> [F32x16; S] {
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

/// Turns sixteen rows of sixteen numbers into columns: pairs, then quadruples within each quarter
/// of a vector, then whole quarters.
#[inline(always)]
fn transpose_square(rows: [F32x16; LANES]) -> [F32x16; LANES] {
    let zero = rows[0];
    let (mut pairs, mut quads, mut columns) = ([zero; LANES], [zero; LANES], [zero; LANES]);
    for i in 0..LANES / 2 {
        let (a, b) = (rows[2 * i].0, rows[2 * i + 1].0);
        // SAFETY: the vectors prove the instructions.
        unsafe {
            pairs[2 * i] = F32x16(_mm512_unpacklo_ps(a, b));
            pairs[2 * i + 1] = F32x16(_mm512_unpackhi_ps(a, b));
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
            quads[4 * i] = F32x16(_mm512_shuffle_ps::<0x44>(a.0, c.0));
            quads[4 * i + 1] = F32x16(_mm512_shuffle_ps::<0xee>(a.0, c.0));
            quads[4 * i + 2] = F32x16(_mm512_shuffle_ps::<0x44>(b.0, d.0));
            quads[4 * i + 3] = F32x16(_mm512_shuffle_ps::<0xee>(b.0, d.0));
        }
    }
    for j in 0..4 {
        let [a, b, c, d] = [quads[j].0, quads[j + 4].0, quads[j + 8].0, quads[j + 12].0];
        // SAFETY: the vectors prove the instructions.
        unsafe {
            let even_low = _mm512_shuffle_f32x4::<0x88>(a, b);
            let odd_low = _mm512_shuffle_f32x4::<0xdd>(a, b);
            let even_high = _mm512_shuffle_f32x4::<0x88>(c, d);
            let odd_high = _mm512_shuffle_f32x4::<0xdd>(c, d);
            columns[j] = F32x16(_mm512_shuffle_f32x4::<0x88>(even_low, even_high));
            columns[j + 8] = F32x16(_mm512_shuffle_f32x4::<0xdd>(even_low, even_high));
            columns[j + 4] = F32x16(_mm512_shuffle_f32x4::<0x88>(odd_low, odd_high));
            columns[j + 12] = F32x16(_mm512_shuffle_f32x4::<0xdd>(odd_low, odd_high));
        }
    }
    columns
}

impl Vector for F32x16 {
    type Mask = Mask16;

    const LANES: usize = LANES;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 places.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), self.0) }
    }

    #[inline(always)]
    fn store_f16(self, out: &mut [Bytes]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 places.
        unsafe {
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(self.0);
            _mm256_storeu_si256(out.as_mut_ptr().cast(), halves);
        }
    }

    #[inline(always)]
    fn store_bf16(self, out: &mut [Bytes]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 places.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self.0, self.0);
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let number = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, up), is_nan, quiet);
            let upper = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(number));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), upper);
        }
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        let out = &mut out[..LANES];
        // SAFETY: `self` proves the instructions; the slice has 16 places.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(self.0));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn abs(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm512_abs_ps(self.0) })
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm512_sqrt_ps(self.0) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: `self` proves the instructions.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Mask16 {
        // SAFETY: `self` proves the instructions.
        Mask16(unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Mask16 {
        // SAFETY: `self` proves the instructions.
        Mask16(unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) })
    }

    #[inline(always)]
    fn select(mask: Mask16, yes: Self, no: Self) -> Self {
        // SAFETY: the vectors prove the instructions.
        Self(unsafe { _mm512_mask_blend_ps(mask.0, no.0, yes.0) })
    }

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let round = _mm512_set1_ps(ROUND);
            Self(_mm512_sub_ps(_mm512_add_ps(self.0, round), round))
        }
    }

    #[inline(always)]
    fn round_wrapping(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let sum = _mm512_castps_si512(_mm512_add_ps(self.0, _mm512_set1_ps(ROUND)));
            let bits = _mm512_and_si512(sum, _mm512_set1_epi32(ROUNDED_BITS));
            let number = _mm512_sub_epi32(bits, _mm512_set1_epi32(ROUNDED_ZERO));
            Self(_mm512_cvtepi32_ps(number))
        }
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(self.0), _mm512_set1_epi32(127));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn min_lane(self) -> f32 {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_reduce_min_ps(self.0) }
    }
}

impl Mask for Mask16 {
    #[inline(always)]
    fn any(self) -> bool {
        self.0 != 0
    }
}

macro_rules! arithmetic {
    ($($operator:ident $method:ident $instruction:ident;)*) => {$(
        impl $operator for F32x16 {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: `self` proves the instructions.
                Self(unsafe { $instruction(self.0, other.0) })
            }
        }
    )*};
}

arithmetic! {
    Add add _mm512_add_ps;
    Sub sub _mm512_sub_ps;
    Mul mul _mm512_mul_ps;
    Div div _mm512_div_ps;
}

impl BitAnd for Mask16 {
    type Output = Self;

    #[inline(always)]
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for Mask16 {
    type Output = Self;

    #[inline(always)]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Not for Mask16 {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0)
    }
}
