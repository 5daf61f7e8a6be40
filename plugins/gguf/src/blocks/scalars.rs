//! Arithmetic on single numbers and small arrays, for what is too little to fill
//! vectors.

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

/// 1.5 × 2^23: adding it leaves no bits for a fraction, so the addition rounds
/// to an integer, ties to even.
const ROUND: f32 = 12_582_912.0;

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
}
