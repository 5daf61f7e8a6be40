//! Which instruction set a kernel runs on.

#[cfg(target_arch = "aarch64")]
use super::Neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::Pair;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512, Sse2};
use super::{Isa, Scalar};
use crate::interface::CpuLevel;

/// A level of instructions that this machine is known to have.
///
/// There is no way to make one for instructions that the machine lacks, which is what makes
/// running code compiled for them sound.
#[derive(Debug, Clone, Copy)]
pub struct Level(Inner);

#[derive(Debug, Clone, Copy)]
enum Inner {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Sse2(Sse2),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// Work that can be done with any instruction set.
pub trait Kernel {
    /// What comes of it.
    type Output;

    /// Does the work. Implementations are `#[inline(always)]`, and so is all they call.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

impl Level {
    /// The best level of this machine.
    #[must_use]
    pub fn detect() -> Self {
        Self::at_most(CpuLevel::detect())
    }

    /// The best level of this machine that is not above `limit`.
    #[must_use]
    pub fn at_most(limit: CpuLevel) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if limit >= CpuLevel::Avx512
                && let Some(isa) = Avx512::detect()
            {
                return Self(Inner::Avx512(isa));
            }
            if limit >= CpuLevel::Avx2
                && let Some(isa) = Avx2::detect()
            {
                return Self(Inner::Avx2(isa));
            }
        }
        let _ = limit;
        Self::baseline()
    }

    /// What every processor of the architecture has: [`CpuLevel::Baseline`].
    const fn baseline() -> Self {
        #[cfg(target_arch = "x86_64")]
        let inner = Inner::Sse2(Sse2::detect());
        #[cfg(target_arch = "aarch64")]
        let inner = Inner::Neon(Neon::detect());
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let inner = Inner::Scalar;
        Self(inner)
    }

    /// Plain Rust: the reference for all others, in tests and benchmarks.
    #[must_use]
    pub const fn scalar() -> Self {
        Self(Inner::Scalar)
    }

    /// Every level of this machine, the scalar reference first.
    pub fn all() -> impl Iterator<Item = Self> {
        let levels = [
            Some(Self::scalar()),
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            Some(Self::baseline()),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(|isa| Self(Inner::Avx2(isa))),
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(|isa| Self(Inner::Avx512(isa))),
        ];
        levels.into_iter().flatten()
    }

    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Inner::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Inner::Sse2(_) => "sse2",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Inner::Neon(_) => "neon",
        }
    }

    /// Runs a kernel, compiled for this level. Vectors come in pairs, so that chains of
    /// dependent operations can overlap.
    #[inline]
    pub fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Inner::Scalar => kernel.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            Inner::Sse2(isa) => kernel.run(Pair(isa)),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx2(isa) => isa.enter(Pair(isa), kernel),
            #[cfg(target_arch = "x86_64")]
            Inner::Avx512(isa) => isa.enter(Pair(isa), kernel),
            #[cfg(target_arch = "aarch64")]
            Inner::Neon(isa) => kernel.run(Pair(isa)),
        }
    }
}
