//! Intel AMX: sums of 16 × 16 products of bfloat16 rows, 32 numbers at a time, in one instruction.
//!
//! The instructions are written out, as the compiler has no stable intrinsics for them. A thread's
//! tile registers are used within one call only.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::marker::PhantomData;
use std::sync::OnceLock;

use crate::kernels::float16::Bytes;

/// Rows of a tile.
pub const SIDE: usize = 16;
/// Numbers in a row of a tile: what one step adds up.
pub const STEP: usize = 32;
/// Rows and columns of a block: two tiles by two.
pub const BLOCK: usize = 2 * SIDE;

/// A row of a tile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
pub struct Row(pub [Bytes; STEP]);

/// What one step needs of a block's rows, or of its columns: two tiles.
pub type Panel = [[Row; SIDE]; 2];

/// The sums of a block.
#[derive(Debug, Clone, PartialEq)]
#[repr(C, align(64))]
pub struct Sums(pub [[f32; BLOCK]; BLOCK]);

/// Numbers as sums of two bfloat16 numbers, step by step.
#[derive(Debug, Clone, Copy)]
pub struct Halves<'a> {
    /// The nearest bfloat16 numbers.
    pub high: &'a [Panel],
    /// What they lack.
    pub low: &'a [Panel],
}

/// Proof that the machine has the instructions, and that this process may use them.
#[derive(Debug, Clone, Copy)]
pub struct Amx(());

/// How large tiles are, for `ldtilecfg`.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

/// Eight tiles of 16 rows of 64 bytes.
const CONFIGURATION: Configuration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = SIDE as u8;
        tile += 1;
    }
    Configuration(bytes)
};

impl Amx {
    /// The proof, on machines that have the instructions and systems that allow for them.
    pub fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = FOUND.get_or_init(|| has_instructions() && permitted());
        found.then_some(Self(()))
    }

    /// Runs `work` with tiles for this thread.
    ///
    /// Nothing in `work` may hand anything to other threads that uses them.
    pub fn with_tiles<T>(self, work: impl FnOnce(&mut Tiles) -> T) -> T {
        // SAFETY: `self` proves that the instruction is there; it reads 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &CONFIGURATION, options(nostack));
        }
        let result = work(&mut Tiles(PhantomData));
        // SAFETY: as above; nothing uses the tiles any more.
        unsafe {
            asm!("tilerelease", options(nostack));
        }
        result
    }
}

/// The tiles of a thread.
pub struct Tiles(PhantomData<*mut ()>);

impl Tiles {
    /// Adds up the products of all rows of `a` with all columns of `b`, all but those of two low
    /// halves.
    ///
    /// # Panics
    /// If there are other steps in one than in the other.
    pub fn multiply(&mut self, a: Halves<'_>, b: Halves<'_>, sums: &mut Sums) {
        let steps = a.high.len();
        assert!(
            [a.low.len(), b.high.len(), b.low.len()] == [steps; 3],
            "steps of a product"
        );
        if steps == 0 {
            *sums = Sums([[0.0; BLOCK]; BLOCK]);
            return;
        }
        let first = sums.0.as_mut_ptr().cast::<f32>();
        // SAFETY: `self` proves that the instructions are there. Each slice has `steps` panels of
        // two tiles of 1024 bytes, which is what is read; `sums` has two by two tiles of 16 rows,
        // with 128 bytes from one row to the next. The compiler keeps nothing in tile registers,
        // and they are released before anything else runs.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                // Low rows with high columns.
                "tileloadd tmm4, [{a_low} + {row}]",
                "tileloadd tmm6, [{b_high} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b_high} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a_low} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High rows with high columns.
                "tileloadd tmm4, [{a_high} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a_high} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // High rows with low columns.
                "tileloadd tmm6, [{b_low} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tileloadd tmm7, [{b_low} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a_low}, 2048",
                "add {a_high}, 2048",
                "add {b_low}, 2048",
                "add {b_high}, 2048",
                "dec {steps}",
                "jnz 2b",
                "mov {row}, 128",
                "tilestored [{sums} + {row}], tmm0",
                "tilestored [{sums} + {row} + 64], tmm1",
                "tilestored [{sums} + {row} + 2048], tmm2",
                "tilestored [{sums} + {row} + 2112], tmm3",
                a_low = inout(reg) a.low.as_ptr() => _,
                a_high = inout(reg) a.high.as_ptr() => _,
                b_low = inout(reg) b.low.as_ptr() => _,
                b_high = inout(reg) b.high.as_ptr() => _,
                steps = inout(reg) steps => _,
                row = inout(reg) 64_usize => _,
                sums = in(reg) first,
                options(nostack),
            );
        }
    }
}

/// AMX-TILE and AMX-BF16 in the processor, and tiles among what the system saves.
fn has_instructions() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const TILES: u64 = 0b11 << 17;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    // SAFETY: the system has switched the instruction on (OSXSAVE).
    let saved = unsafe { enabled_states() };
    features & AMX_BF16 != 0 && features & AMX_TILE != 0 && saved & TILES == TILES
}

/// What the system saves of a thread's registers.
#[target_feature(enable = "xsave")]
unsafe fn enabled_states() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

/// Linux gives tiles to processes that ask: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what this process may use.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}
