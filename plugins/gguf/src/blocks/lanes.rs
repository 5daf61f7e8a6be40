//! Arithmetic on small fixed-size arrays that compiles to vector code.
//!
//! Sums of floats may not be reordered if the bytes are to match ggml's, so a
//! single sum cannot be spread over a vector. What can is the same sum for
//! eight independent sub-blocks: lane `k` of a [`Lanes`] belongs to sub-block
//! `k`, and each lane adds in the reference's order.

/// Sub-blocks searched side by side.
pub(super) const LANES: usize = 8;

/// One number for each of [`LANES`] sub-blocks.
pub(super) type Lanes = [f32; LANES];

/// `f` on each lane.
#[inline(always)]
pub(super) fn map(f: impl Fn(usize) -> f32) -> Lanes {
    let mut out = [0.0; LANES];
    for (k, out) in out.iter_mut().enumerate() {
        *out = f(k);
    }
    out
}

/// `f` of each element.
///
/// The array's own `map` may stay a call of its own, and then misses the
/// instructions that its caller is compiled for.
#[inline(always)]
pub(super) fn map_array<T: Copy, U: Copy + Default, const N: usize>(
    x: &[T; N],
    f: impl Fn(T) -> U,
) -> [U; N] {
    let mut out = [U::default(); N];
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
    out
}

/// Turns `LANES` sub-blocks of `S` weights, one after the other, into `S`
/// positions of `LANES` lanes.
#[inline(always)]
pub(super) fn transpose<const S: usize>(x: &[[f32; S]; LANES]) -> [Lanes; S] {
    let mut out = [[0.0; LANES]; S];
    for (i, out) in out.iter_mut().enumerate() {
        *out = map(|k| x[k][i]);
    }
    out
}

/// 1.5 × 2^23: adding it leaves no bits for a fraction, so the addition rounds
/// to an integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// Nearest integer, ties to even, of a number of at most 2^22.
#[inline(always)]
pub(super) fn round_small(value: f32) -> f32 {
    (value + ROUND) - ROUND
}

/// Nearest integer, ties to even. Beyond ±2^22 the result is the low 23 bits
/// of the rounded sum, as in ggml, whose codes for degenerate blocks depend
/// on it; NaN gives 0.
#[inline(always)]
pub(super) fn round_wrapping(value: f32) -> i32 {
    ((value + ROUND).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_ties() {
        for (value, even) in [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-2.5, -2),
            (0.499_999_97, 0),
            (-126.5, -126),
            (126.499_99, 126),
        ] {
            assert_eq!(round_small(value), even as f32, "{value}");
            assert_eq!(round_wrapping(value), even, "{value}");
        }
    }

    #[test]
    fn wrapping_round_of_what_is_not_a_small_number() {
        assert_eq!(round_wrapping(f32::NAN), 0);
        assert_eq!(round_wrapping(f32::INFINITY), -0x0040_0000);
        assert_eq!(round_wrapping(-4_194_304.0), -0x0040_0000);
        assert_eq!(round_wrapping(4_194_303.0), 0x003f_ffff);
    }

    #[test]
    fn transposing_moves_sub_blocks_to_lanes() {
        let x: [[f32; 3]; LANES] =
            std::array::from_fn(|k| std::array::from_fn(|i| (10 * k + i) as f32));
        let t = transpose(&x);
        assert_eq!(t[2][5], 52.0);
        assert_eq!(t[0][7], 70.0);
    }
}
