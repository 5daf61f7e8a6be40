//! Vectors of single-precision numbers whose width and instructions are chosen at run time.
//!
//! A kernel is written once, generic over an [`Isa`], and compiled for each instruction set:
//!
//! | file | instructions | lanes |
//! | --- | --- | --- |
//! | `scalar.rs` | plain Rust: the reference | 1 |
//! | `sse2.rs` | x86-64: SSE2, which all have | 4 |
//! | `avx2.rs` | x86-64 with AVX2, FMA and F16C | 8 |
//! | `avx512.rs` | x86-64 with AVX-512 F, BW, VL and DQ | 16 |
//! | `neon.rs` | aarch64: NEON, which all have | 4 |
//! | `pair.rs` | two vectors of any of them side by side | twice as many |
//!
//! Every operation rounds each lane as IEEE 754 says and as the scalar file does, so a kernel
//! that never mixes lanes gives the same bits on every instruction set. That is how formats whose
//! bytes are defined by somebody's scalar loop stay identical: each lane runs that loop for
//! another block. There is no fused multiply-add on purpose.
//!
//! An instruction set is a value that exists only on machines that have it ([`Level`] hands them
//! out), and so does every vector; that makes all of this safe to call. Kernels and everything
//! they call must be `#[inline(always)]`: only inlined into [`Level::dispatch`]'s entry are they
//! compiled for the instructions they use.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod four;
mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pair;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod sse2;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::float16;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use level::{Kernel, Level};
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use pair::Pair;
pub use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub use sse2::Sse2;

/// 1.5 × 2^23: adding it leaves no bits for a fraction, so the addition rounds to an integer,
/// ties to even.
const ROUND: f32 = 12_582_912.0;

/// Low bits of a number that [`ROUND`] was added to, and what is above zero there.
const ROUNDED_BITS: i32 = 0x007f_ffff;
const ROUNDED_ZERO: i32 = 0x0040_0000;

/// The most lanes that a vector has.
pub const MAX_LANES: usize = 32;

/// An instruction set that this machine has.
pub trait Isa: Copy {
    /// Its vectors.
    type F32: Vector;

    /// Numbers in a vector: a power of two, at most [`MAX_LANES`].
    const LANES: usize = Self::F32::LANES;

    /// A vector of equal numbers.
    fn splat(self, value: f32) -> Self::F32;

    /// The first [`LANES`](Self::LANES) numbers of a slice.
    ///
    /// # Panics
    /// If there are fewer.
    fn load(self, values: &[f32]) -> Self::F32;

    /// The first [`LANES`](Self::LANES) signed bytes of a slice.
    ///
    /// # Panics
    /// If there are fewer.
    fn load_i8(self, bytes: &[u8]) -> Self::F32;

    /// The first [`LANES`](Self::LANES) half-precision numbers of a slice.
    ///
    /// # Panics
    /// If there are fewer.
    fn load_f16(self, stored: &[float16::Bytes]) -> Self::F32;

    /// The first [`LANES`](Self::LANES) bfloat16 numbers of a slice.
    ///
    /// # Panics
    /// If there are fewer.
    fn load_bf16(self, stored: &[float16::Bytes]) -> Self::F32;

    /// Columns of up to [`LANES`](Self::LANES) rows: lane `k` of vector `i` is `rows[k][i]`.
    /// Missing rows are zeros. `S` is a multiple of 16.
    fn transpose<const S: usize>(self, rows: &[[f32; S]]) -> [Self::F32; S];
}

/// A vector of single-precision numbers.
pub trait Vector:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// One truth value for each lane.
    type Mask: Mask;

    /// Numbers in a vector.
    const LANES: usize;

    /// Writes the numbers to the first places of a slice.
    ///
    /// # Panics
    /// If there are too few.
    fn store(self, out: &mut [f32]);

    /// Writes half-precision numbers, rounded as [`float16::f32_to_f16`] does.
    ///
    /// # Panics
    /// If the slice has fewer places than the vector lanes.
    fn store_f16(self, out: &mut [float16::Bytes]);

    /// Writes bfloat16 numbers, rounded as [`float16::f32_to_bf16`] does.
    ///
    /// # Panics
    /// If the slice has fewer places than the vector lanes.
    fn store_bf16(self, out: &mut [float16::Bytes]);

    /// Writes the integer parts of numbers of magnitude below 2^31, each as its lowest eight bits,
    /// and 0 for NaN.
    ///
    /// # Panics
    /// If the slice has fewer places than the vector lanes.
    fn store_bytes(self, out: &mut [u8]);

    /// Magnitudes.
    fn abs(self) -> Self;

    /// Square roots.
    fn sqrt(self) -> Self;

    /// `self` where it is larger than `other`, else `other`, also where either is NaN.
    fn larger(self, other: Self) -> Self;

    /// `self` where it is smaller than `other`, else `other`, also where either is NaN.
    fn smaller(self, other: Self) -> Self;

    /// Where `self` < `other`; false for NaN.
    fn lt(self, other: Self) -> Self::Mask;

    /// Where `self` > `other`; false for NaN.
    #[inline(always)]
    fn gt(self, other: Self) -> Self::Mask {
        other.lt(self)
    }

    /// Where `self` = `other`; false for NaN.
    fn eq(self, other: Self) -> Self::Mask;

    /// `yes` where the mask is set, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;

    /// Nearest integers, ties to even, of numbers of magnitude up to 2^22.
    fn round(self) -> Self;

    /// As [`round`](Self::round); numbers of larger magnitude give the low 23 bits of their sum
    /// with 1.5 × 2^23, less 2^22, and NaN gives 0. That is what ggml's `nearest_int` does.
    fn round_wrapping(self) -> Self;

    /// Two to the power of each number, which are integers from -126 to 127.
    fn power_of_two(self) -> Self;

    /// The sum of the numbers: halves are added to each other until one is left.
    #[inline(always)]
    fn sum_lanes(self) -> f32 {
        let mut lanes = [0.0; MAX_LANES];
        self.store(&mut lanes);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The largest number; none may be NaN.
    fn max_lane(self) -> f32;

    /// The smallest number; none may be NaN.
    fn min_lane(self) -> f32;
}

/// One truth value for each lane of a vector.
pub trait Mask: Copy + BitAnd<Output = Self> + BitOr<Output = Self> + Not<Output = Self> {
    /// Whether any is set.
    fn any(self) -> bool;

    /// Whether all are set.
    #[inline(always)]
    fn all(self) -> bool {
        !(!self).any()
    }
}

/// An array of `f(0)`, `f(1)`, …
///
/// [`std::array::from_fn`] may remain a call of its own, which then lacks the instructions that
/// its caller is compiled for; and an array that is filled with zeros first costs a pass over it.
#[inline(always)]
pub fn array<T: Copy, const N: usize>(mut f: impl FnMut(usize) -> T) -> [T; N] {
    let mut out = [const { MaybeUninit::<T>::uninit() }; N];
    for (i, out) in out.iter_mut().enumerate() {
        out.write(f(i));
    }
    // SAFETY: every element was written, and an array of `MaybeUninit` has the layout of an
    // array of its type.
    unsafe { std::mem::transmute_copy(&out) }
}
