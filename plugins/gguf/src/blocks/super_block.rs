//! What the K types share: super-blocks of 256 weights, made of eight
//! sub-blocks of 32 or sixteen of 16.

use llm_quantize_plugin_api::kernels::simd::{Isa, Vector};

use super::lanes::{LANES, Lanes, map, round_wrapping};

/// Weights in a super-block.
pub(super) const WEIGHTS: usize = 256;

/// A super-block as eight sub-blocks of 32.
pub(super) type By32 = [[f32; 32]; 8];

/// A super-block as sixteen sub-blocks of 16, in two groups of [`LANES`].
pub(super) type By16 = [[[f32; 16]; LANES]; 2];

/// The super-blocks of a row, as sub-blocks of 16.
#[inline(always)]
pub(super) fn by_16(row: &[f32]) -> &[By16] {
    row.as_chunks::<16>()
        .0
        .as_chunks::<LANES>()
        .0
        .as_chunks::<2>()
        .0
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

/// Importances of transposed sub-blocks: the given ones, scaled by
/// √(`spread` + x²) so that large weights count more.
#[inline(always)]
pub(super) fn scaled_importance<const S: usize>(
    x: &[Lanes; S],
    importance: &[Lanes; S],
    spread: f32,
) -> [Lanes; S] {
    let mut out = [[0.0; LANES]; S];
    for i in 0..S {
        out[i] = map(|k| importance[i][k] * (spread + x[i][k] * x[i][k]).sqrt());
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

/// A number for each weight of a super-block from one for each sub-block of 16.
#[inline(always)]
pub(super) fn expand(values: &[f32; 16]) -> [f32; WEIGHTS] {
    let mut out = [[0.0; 16]; 16];
    for (out, &value) in out.iter_mut().zip(values) {
        *out = [value; 16];
    }
    let mut flat = [0.0; WEIGHTS];
    flat.copy_from_slice(out.as_flattened());
    flat
}

/// Codes of a sub-block for its stored step, plus `half`.
#[inline(always)]
pub(super) fn symmetric_codes<const S: usize>(x: &[f32; S], step: f32, half: i32) -> [u8; S] {
    let mut codes = [0; S];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (round_wrapping(x / step).clamp(-half, half - 1) + half) as u8;
    }
    codes
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
        assert_eq!(
            symmetric_codes(&[-9.0, -0.5, 0.0, 9.0], 1.0, 4),
            [0, 4, 4, 7]
        );
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
