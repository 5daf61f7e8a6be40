//! What the K types share: super-blocks of 256 weights, made of eight
//! sub-blocks of 32 or sixteen of 16.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Vector};

/// Weights in a super-block.
pub(super) const WEIGHTS: usize = 256;

/// Super-blocks whose searches run together: sub-blocks enough to fill the lanes
/// of any instruction set several times.
pub(super) const CHUNK: usize = 16;

/// Sub-blocks of 16 weights in a super-block.
pub(super) const PARTS: usize = 16;

/// Sub-blocks of 16 weights in a chunk.
pub(super) const CHUNK_PARTS: usize = CHUNK * PARTS;

/// Numbers for as many weights as a super-block has, and room to write a vector
/// at any of them.
const EXPANDED: usize = WEIGHTS + MAX_LANES;

/// Up to [`CHUNK`] super-blocks of a row.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    /// The weights.
    pub(super) x: &'a [[f32; WEIGHTS]],
    /// As many importances, where there are any.
    pub(super) importance: Option<&'a [[f32; WEIGHTS]]>,
}

/// The chunks of a row, with the bytes for their super-blocks.
#[inline(always)]
pub(super) fn chunks<'a, const BYTES: usize>(
    row: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
) -> impl Iterator<Item = (Chunk<'a>, &'a mut [[u8; BYTES]])> {
    let importance = importance.map(|importance| importance.as_chunks::<WEIGHTS>().0);
    let blocks = row.as_chunks::<WEIGHTS>().0.chunks(CHUNK);
    let out = out.as_chunks_mut::<BYTES>().0.chunks_mut(CHUNK);
    blocks.zip(out).enumerate().map(move |(n, (x, out))| {
        let importance = importance.map(|importance| &importance[n * CHUNK..][..x.len()]);
        (Chunk { x, importance }, out)
    })
}

/// Super-blocks as sub-blocks of 16, one after the other.
#[inline(always)]
pub(super) fn parts(blocks: &[[f32; WEIGHTS]]) -> &[[f32; 16]] {
    blocks.as_flattened().as_chunks::<16>().0
}

/// A super-block as eight sub-blocks of 32.
pub(super) type By32 = [[f32; 32]; 8];

/// The super-blocks of a row, as sub-blocks of 32.
#[inline(always)]
pub(super) fn by_32(row: &[f32]) -> &[By32] {
    row.as_chunks::<32>().0.as_chunks::<8>().0
}

/// Super-blocks whose sums of squares are taken side by side.
pub(super) const SUMMED: usize = 4;

/// Σ x² of each of up to [`SUMMED`] super-blocks, added from first to last
/// weight. A strictly ordered sum leaves most of a core idle; four don't.
#[inline(always)]
pub(super) fn square_sums(row: &[f32]) -> [f32; SUMMED] {
    let blocks = row.as_chunks::<WEIGHTS>().0;
    let mut sums = [0.0; SUMMED];
    if let Some(blocks) = blocks.first_chunk::<SUMMED>() {
        for i in 0..WEIGHTS {
            for (sum, x) in sums.iter_mut().zip(blocks) {
                *sum += x[i] * x[i];
            }
        }
    } else {
        for (sum, x) in sums.iter_mut().zip(blocks) {
            *sum = square_sum(x);
        }
    }
    sums
}

/// Σ x², added from first to last.
#[inline(always)]
pub(super) fn square_sum(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x)
}

/// Squares of transposed sub-blocks.
#[inline(always)]
pub(super) fn squares<V: Vector, const S: usize>(x: &[V; S]) -> [V; S] {
    let mut out = *x;
    for out in &mut out {
        *out = *out * *out;
    }
    out
}

/// Importances of transposed sub-blocks: the given ones, scaled by
/// √(`spread` + x²) so that large weights count more.
#[inline(always)]
pub(super) fn importance_weights<V: Vector, const S: usize>(
    x: &[V; S],
    importance: &[V; S],
    spread: V,
) -> [V; S] {
    let mut out = *x;
    for (out, importance) in out.iter_mut().zip(importance) {
        *out = *importance * (spread + *out * *out).sqrt();
    }
    out
}

/// Codes for stored steps and minimums: (x + min) ÷ step, rounded and limited.
#[inline(always)]
pub(super) fn affine_codes<I: Isa>(
    isa: I,
    x: I::F32,
    step: I::F32,
    min: I::F32,
    max_code: u8,
) -> I::F32 {
    let code = ((x + min) / step).round_wrapping();
    let top = isa.splat(f32::from(max_code));
    code.smaller(top).larger(isa.splat(0.0))
}

/// A super-block as sub-blocks of 16.
#[inline(always)]
pub(super) fn by_16(x: &[f32; WEIGHTS]) -> &[[f32; 16]; PARTS] {
    &x.as_chunks::<16>().0.as_chunks().0[0]
}

/// Sixteen times each of sixteen numbers; the rest is left over. For numbers of a
/// super-block's sub-blocks or of a chunk's super-blocks.
#[inline(always)]
pub(super) fn expand<I: Isa>(isa: I, values: &[f32; 16]) -> [f32; EXPANDED] {
    let mut out = [0.0; EXPANDED];
    for (j, &value) in values.iter().enumerate() {
        // Wider vectors also write what the next ones overwrite.
        for at in (16 * j..16 * j + 16).step_by(I::LANES) {
            isa.splat(value).store(&mut out[at..]);
        }
    }
    out
}

/// Packs the two-bit parts of 256 codes: four codes 32 apart share a byte.
#[inline(always)]
pub(super) fn pack_two_bits(codes: &[u8; WEIGHTS], out: &mut [u8; 64]) {
    for (codes, out) in codes
        .as_chunks::<128>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<32>().0)
    {
        for l in 0..32 {
            out[l] = (codes[l] & 3)
                | (codes[l + 32] & 3) << 2
                | (codes[l + 64] & 3) << 4
                | (codes[l + 96] & 3) << 6;
        }
    }
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn square_sums_are_per_super_block() {
        let row: Vec<f32> = (0..4 * WEIGHTS).map(|i| (i / WEIGHTS) as f32).collect();
        assert_eq!(square_sums(&row), [0.0, 256.0, 1024.0, 2304.0]);
        assert_eq!(square_sums(&row[..3 * WEIGHTS]), [0.0, 256.0, 1024.0, 0.0]);
        assert_eq!(square_sums(&[]), [0.0; 4]);
    }

    #[test]
    fn codes_are_rounded_and_limited() {
        for (x, code) in [(-2.0, 0), (-1.0, 0), (0.0, 2), (0.26, 3), (9.0, 3)] {
            let [x, step, min] = [x, 0.5, 1.0].map(|value| Scalar.splat(value));
            let mut codes = [9];
            affine_codes(Scalar, x, step, min, 3).store_bytes(&mut codes);
            assert_eq!(codes, [code]);
        }
    }

    #[test]
    fn two_bit_codes_share_bytes_32_apart() {
        let mut codes = [0; WEIGHTS];
        (codes[5], codes[37], codes[69], codes[101]) = (1, 2, 3, 1);
        codes[128] = 2;
        let mut out = [0; 64];
        pack_two_bits(&codes, &mut out);
        assert_eq!((out[5], out[32]), (0b01_11_10_01, 2));
        assert_eq!(out.iter().filter(|&&b| b != 0).count(), 2);
    }
}
