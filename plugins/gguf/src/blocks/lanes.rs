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

/// Nearest integer, halves away from zero, for |value| < 2^22.
#[inline(always)]
pub(super) fn round_half_away(value: f32) -> i32 {
    // The largest number below one half: with 0.5 itself, 0.49999997 would
    // round up on the way.
    const BELOW_HALF: f32 = 0.499_999_97;
    let magnitude = truncate(value.abs() + BELOW_HALF) as i32;
    let sign = value.to_bits() as i32 >> 31;
    (magnitude ^ sign) - sign
}

/// Integer part of a number from 0 up to 2^22.
///
/// A conversion with `as` would also have to be right about what is out of
/// range, which takes longer than the rounding.
#[inline(always)]
pub(super) fn truncate(value: f32) -> u32 {
    let rounded = value + ROUND;
    let excess = u32::from(rounded - ROUND > value);
    (rounded.to_bits() & 0x003f_ffff) - excess
}

/// Largest magnitude.
#[inline(always)]
pub(super) fn abs_max(x: &[f32; 32]) -> f32 {
    let mut best = [0.0_f32; LANES];
    for chunk in x.as_chunks::<LANES>().0 {
        best = map(|k| larger(chunk[k].abs(), best[k]));
    }
    fold(best, larger)
}

/// Smallest and largest value.
#[inline(always)]
pub(super) fn min_max(x: &[f32; 32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::MAX; LANES], [-f32::MAX; LANES]);
    for chunk in x.as_chunks::<LANES>().0 {
        low = map(|k| smaller(chunk[k], low[k]));
        high = map(|k| larger(chunk[k], high[k]));
    }
    (fold(low, smaller), fold(high, larger))
}

/// Combines all lanes, halves at a time.
#[inline(always)]
fn fold(x: Lanes, f: impl Fn(f32, f32) -> f32) -> f32 {
    let [a, b, c, d, e, g, h, i] = x;
    let (a, b, c, d) = (f(a, e), f(b, g), f(c, h), f(d, i));
    f(f(a, c), f(b, d))
}

/// `a` if it is larger than `b`, else `b`: one instruction, where `f32::max`
/// takes several to be right about NaN.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `a` if it is smaller than `b`, else `b`.
#[inline(always)]
pub(super) fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_ties() {
        for (value, even, away) in [
            (0.5, 0, 1),
            (1.5, 2, 2),
            (2.5, 2, 3),
            (-0.5, 0, -1),
            (-2.5, -2, -3),
            (0.499_999_97, 0, 0),
            (-126.5, -126, -127),
            (126.499_99, 126, 126),
        ] {
            assert_eq!(round_wrapping(value), even, "{value}");
            assert_eq!(round_half_away(value), away, "{value}");
        }
    }

    #[test]
    fn integer_parts() {
        for (value, whole) in [(0.0, 0), (0.999_999_9, 0), (1.0, 1), (7.5, 7), (8.5, 8)] {
            assert_eq!(truncate(value), whole, "{value}");
        }
        for whole in 1..300_u32 {
            let value = whole as f32;
            assert_eq!(truncate(value), whole);
            assert_eq!(truncate(value.next_down()), whole - 1);
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
    fn extremes_are_found_in_every_position() {
        for i in 0..32 {
            let mut x = [0.5; 32];
            x[i] = -3.0;
            assert_eq!(abs_max(&x), 3.0);
            assert_eq!(min_max(&x), (-3.0, 0.5));
            x[i] = 4.0;
            assert_eq!(min_max(&x), (0.5, 4.0));
        }
    }
}
