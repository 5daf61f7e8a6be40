//! From codes to weights, 32 at a time.
//!
//! Decoders first unpack the codes to a byte each, then come here.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Vector};

use super::small_blocks::{Codes, WEIGHTS};

/// The half-precision numbers at byte `at` of up to a vector of blocks, one for each.
#[inline(always)]
pub(super) fn widened<I: Isa, const BYTES: usize>(
    isa: I,
    blocks: &[[u8; BYTES]],
    at: usize,
) -> [f32; MAX_LANES] {
    let mut stored = [[0; 2]; MAX_LANES];
    for (stored, block) in stored.iter_mut().zip(blocks) {
        *stored = [block[at], block[at + 1]];
    }
    let mut wide = [0.0; MAX_LANES];
    isa.load_f16(&stored).store(&mut wide);
    wide
}

/// Scale × code, of signed codes.
#[inline(always)]
pub(super) fn scaled<I: Isa>(isa: I, codes: &Codes, scale: f32, out: &mut [f32; WEIGHTS]) {
    scaled_halves(isa, codes, [scale; 2], out);
}

/// Scale × code + low, of signed codes.
#[inline(always)]
pub(super) fn scaled_from<I: Isa>(
    isa: I,
    codes: &Codes,
    (scale, low): (f32, f32),
    out: &mut [f32; WEIGHTS],
) {
    scaled_halves_from(isa, codes, [scale; 2], [low; 2], out);
}

/// [`scaled`] with a scale for each half.
#[inline(always)]
pub(super) fn scaled_halves<I: Isa>(
    isa: I,
    codes: &Codes,
    scales: [f32; 2],
    out: &mut [f32; WEIGHTS],
) {
    let scales = spread(scales);
    let vectors = codes.chunks_exact(I::LANES);
    let vectors = vectors.zip(scales.chunks_exact(I::LANES));
    for ((codes, scales), out) in vectors.zip(out.chunks_exact_mut(I::LANES)) {
        (isa.load_i8(codes) * isa.load(scales)).store(out);
    }
}

/// [`scaled_from`] with numbers for each half.
#[inline(always)]
pub(super) fn scaled_halves_from<I: Isa>(
    isa: I,
    codes: &Codes,
    scales: [f32; 2],
    lows: [f32; 2],
    out: &mut [f32; WEIGHTS],
) {
    let (scales, lows) = (spread(scales), spread(lows));
    let vectors = codes.chunks_exact(I::LANES);
    let vectors = vectors.zip(scales.chunks_exact(I::LANES));
    let vectors = vectors.zip(lows.chunks_exact(I::LANES));
    for (((codes, scales), lows), out) in vectors.zip(out.chunks_exact_mut(I::LANES)) {
        (isa.load_i8(codes) * isa.load(scales) + isa.load(lows)).store(out);
    }
}

/// A number for each half of 32.
#[inline(always)]
fn spread([first, second]: [f32; 2]) -> [f32; WEIGHTS] {
    let mut out = [first; WEIGHTS];
    for out in &mut out[WEIGHTS / 2..] {
        *out = second;
    }
    out
}
