//! Picks the machine code that a codec runs.
//!
//! The codecs are plain Rust over small arrays; the compiler turns them into
//! vector instructions. Compiling the same source once for the baseline and
//! once for AVX2 gives two builds with equal results: no step is reordered, and
//! Rust never fuses a multiplication with an addition by itself. Hand-written
//! variants would be chosen here as well.

use super::{
    float, iq4_nl, iq4_xs, mxfp4, q2_k, q3_k, q4, q4_k, q5, q5_k, q6_k, q8_0, tq1_0, tq2_0,
};

/// A level of instructions that this machine is known to have.
///
/// There is no way to build one for instructions the machine lacks, which is
/// what makes running code compiled for them sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLevel(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl CpuLevel {
    /// What a host allows, as far as this machine has it.
    pub fn at_most(level: llm_quantize_plugin_api::CpuLevel) -> Self {
        match level {
            llm_quantize_plugin_api::CpuLevel::Scalar => Self::baseline(),
            _ => Self::detect(),
        }
    }

    /// The instructions that the program was compiled for.
    pub const fn baseline() -> Self {
        Self(Level::Baseline)
    }

    /// The best level of this machine. Cheap: the answer is cached by `std`.
    #[inline]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self(Level::Avx2);
        }
        Self::baseline()
    }

    #[cfg(target_arch = "x86_64")]
    fn has_avx2(self) -> bool {
        self.0 == Level::Avx2
    }
}

/// Defines `$name(cpu, …)`, which runs the always-inlined `$body` as compiled
/// for the level that `cpu` stands for.
macro_rules! per_cpu_level {
    ($name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? => $body:path) => {
        pub(super) fn $name(cpu: CpuLevel, $($arg: $ty),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn with_avx2($($arg: $ty),*) $(-> $out)? {
                    $body($($arg),*)
                }
                if cpu.has_avx2() {
                    // SAFETY: a `CpuLevel` with AVX2 comes only from
                    // `CpuLevel::detect`, which found it on this machine.
                    return unsafe { with_avx2($($arg),*) };
                }
            }
            let _ = cpu;
            $body($($arg),*)
        }
    };
}

macro_rules! encoders {
    ($($name:ident => $body:path;)*) => {
        $(per_cpu_level!($name(
            row: &[f32], importance: Option<&[f32]>, out: &mut [u8]
        ) => $body);)*
    };
}

macro_rules! decoders {
    ($($name:ident => $body:path;)*) => {
        $(per_cpu_level!($name(bytes: &[u8], out: &mut [f32]) => $body);)*
    };
}

per_cpu_level!(all_finite(values: &[f32]) -> bool => float::all_finite);

encoders! {
    encode_f32 => float::encode_f32;
    encode_f16 => float::encode_f16;
    encode_bf16 => float::encode_bf16;
    encode_q4_0 => q4::encode_q4_0;
    encode_q4_1 => q4::encode_q4_1;
    encode_q5_0 => q5::encode_q5_0;
    encode_q5_1 => q5::encode_q5_1;
    encode_q8_0 => q8_0::encode;
    encode_q2_k => q2_k::encode;
    encode_q3_k => q3_k::encode;
    encode_q6_k => q6_k::encode;
    encode_iq4_nl => iq4_nl::encode;
    encode_iq4_xs => iq4_xs::encode;
    encode_tq1_0 => tq1_0::encode;
    encode_tq2_0 => tq2_0::encode;
    encode_mxfp4 => mxfp4::encode;
}

/// A function that gains nothing from being compiled for AVX2: the compiler does
/// not keep its lanes together in wide registers.
macro_rules! baseline_only {
    ($name:ident($($arg:ident: $ty:ty),*) => $body:path) => {
        pub(super) fn $name(_: CpuLevel, $($arg: $ty),*) {
            $body($($arg),*)
        }
    };
}

baseline_only!(encode_q4_k(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) => q4_k::encode);
baseline_only!(encode_q5_k(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) => q5_k::encode);
baseline_only!(decode_q2_k(bytes: &[u8], out: &mut [f32]) => q2_k::decode);
baseline_only!(decode_q6_k(bytes: &[u8], out: &mut [f32]) => q6_k::decode);

decoders! {
    decode_f32 => float::decode_f32;
    decode_f16 => float::decode_f16;
    decode_bf16 => float::decode_bf16;
    decode_q4_0 => q4::decode_q4_0;
    decode_q4_1 => q4::decode_q4_1;
    decode_q5_0 => q5::decode_q5_0;
    decode_q5_1 => q5::decode_q5_1;
    decode_q8_0 => q8_0::decode;
    decode_q3_k => q3_k::decode;
    decode_q4_k => q4_k::decode;
    decode_q5_k => q5_k::decode;
    decode_iq4_nl => iq4_nl::decode;
    decode_iq4_xs => iq4_xs::decode;
    decode_tq1_0 => tq1_0::decode;
    decode_tq2_0 => tq2_0::decode;
    decode_mxfp4 => mxfp4::decode;
}
