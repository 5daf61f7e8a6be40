//! Blocks of 32 weights without importances: the extremes of a block give its scale, and each
//! weight is rounded once.
//!
//! Extremes and codes are taken with the weights of one block in the lanes of a vector. What
//! there is one of in a block, like the scale, is computed for as many blocks as a vector has
//! lanes.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Mask, Vector};

use super::small_blocks::{Codes, WEIGHTS};

/// A half-precision number as stored.
type Half = [u8; 2];

/// Blocks that are fitted at once, at most.
type Blocks<'a> = &'a [[f32; WEIGHTS]];

/// Scales of blocks of signed weights around zero.
pub(super) struct SymmetricFits {
    /// As stored.
    pub(super) scale: [Half; MAX_LANES],
    rate: [f32; MAX_LANES],
    half: f32,
}

/// Scales and lowest weights of blocks.
pub(super) struct AffineFits {
    /// As stored.
    pub(super) scale: [Half; MAX_LANES],
    /// As stored.
    pub(super) low: [Half; MAX_LANES],
    lowest: [f32; MAX_LANES],
    rate: [f32; MAX_LANES],
    max_code: f32,
}

/// Scales of blocks of signed bytes.
pub(super) struct ByteFits {
    /// As stored.
    pub(super) scale: [Half; MAX_LANES],
    rate: [f32; MAX_LANES],
}

/// The blocks of a row, as many at a time as a vector has lanes; fewer at the end.
#[inline(always)]
pub(super) fn groups<I: Isa>(row: &[f32]) -> std::slice::Chunks<'_, [f32; WEIGHTS]> {
    row.as_chunks::<WEIGHTS>().0.chunks(I::LANES)
}

/// As [`groups`], to be written to.
#[inline(always)]
pub(super) fn groups_mut<I: Isa>(row: &mut [f32]) -> std::slice::ChunksMut<'_, [f32; WEIGHTS]> {
    row.as_chunks_mut::<WEIGHTS>().0.chunks_mut(I::LANES)
}

/// The scales of up to a vector of blocks in which the first weight of largest magnitude becomes
/// code 0, which stands for −`half`.
#[inline(always)]
pub(super) fn fit_symmetric<I: Isa>(isa: I, blocks: Blocks, half: u8) -> SymmetricFits {
    let half = f32::from(half);
    let scale = peaks(isa, blocks) / isa.splat(-half);
    SymmetricFits {
        scale: halves::<I>(scale),
        rate: numbers::<I>(rate(isa, scale)),
        half,
    }
}

/// The scales of up to a vector of blocks whose range is cut into `max_code` steps.
#[inline(always)]
pub(super) fn fit_affine<I: Isa>(isa: I, blocks: Blocks, max_code: u8) -> AffineFits {
    let max_code = f32::from(max_code);
    let (low, high) = ranges(isa, blocks);
    let scale = (high - low) / isa.splat(max_code);
    AffineFits {
        scale: halves::<I>(scale),
        low: halves::<I>(low),
        lowest: numbers::<I>(low),
        rate: numbers::<I>(rate(isa, scale)),
        max_code,
    }
}

/// The scales of up to a vector of blocks whose weight of largest magnitude becomes ±127.
#[inline(always)]
pub(super) fn fit_bytes<I: Isa>(isa: I, blocks: Blocks) -> ByteFits {
    let mut magnitudes = [0.0; MAX_LANES];
    for (magnitude, x) in magnitudes.iter_mut().zip(blocks) {
        let mut largest = isa.load(x).abs();
        for x in x[I::LANES..].chunks_exact(I::LANES) {
            largest = largest.larger(isa.load(x).abs());
        }
        *magnitude = largest.max_lane();
    }
    let scale = isa.load(&magnitudes) / isa.splat(127.0);
    ByteFits {
        scale: halves::<I>(scale),
        rate: numbers::<I>(rate(isa, scale)),
    }
}

impl SymmetricFits {
    /// The codes of block `k`.
    #[inline(always)]
    pub(super) fn codes<I: Isa>(&self, isa: I, k: usize, x: &[f32; WEIGHTS]) -> Codes {
        let rate = isa.splat(self.rate[k]);
        let (shift, limit) = (isa.splat(self.half + 0.5), isa.splat(2.0 * self.half - 1.0));
        let mut codes = [0; WEIGHTS];
        for (x, codes) in vectors::<I>(x).zip(codes.chunks_exact_mut(I::LANES)) {
            let code = isa.load(x) * rate + shift;
            limit.smaller(code).store_bytes(codes);
        }
        codes
    }
}

impl AffineFits {
    /// The codes of block `k`.
    #[inline(always)]
    pub(super) fn codes<I: Isa>(&self, isa: I, k: usize, x: &[f32; WEIGHTS]) -> Codes {
        let (rate, low) = (isa.splat(self.rate[k]), isa.splat(self.lowest[k]));
        let (shift, limit) = (isa.splat(0.5), isa.splat(self.max_code));
        let mut codes = [0; WEIGHTS];
        for (x, codes) in vectors::<I>(x).zip(codes.chunks_exact_mut(I::LANES)) {
            let code = (isa.load(x) - low) * rate + shift;
            limit.smaller(code).store_bytes(codes);
        }
        codes
    }
}

impl ByteFits {
    /// The codes of block `k`, signed: the nearest ones, halves away from zero.
    #[inline(always)]
    pub(super) fn codes<I: Isa>(&self, isa: I, k: usize, x: &[f32; WEIGHTS]) -> Codes {
        // The largest number below one half: with 0.5 itself, 0.49999997 would round up on the
        // way.
        const BELOW_HALF: f32 = 0.499_999_97;
        let rate = isa.splat(self.rate[k]);
        let (up, down, zero) = (
            isa.splat(BELOW_HALF),
            isa.splat(-BELOW_HALF),
            isa.splat(0.0),
        );
        let mut codes = [0; WEIGHTS];
        for (x, codes) in vectors::<I>(x).zip(codes.chunks_exact_mut(I::LANES)) {
            let code = isa.load(x) * rate;
            let shift = Vector::select(code.lt(zero), down, up);
            (code + shift).store_bytes(codes);
        }
        codes
    }
}

/// The weights of a block, a vector at a time.
#[inline(always)]
fn vectors<I: Isa>(x: &[f32; WEIGHTS]) -> std::slice::ChunksExact<'_, f32> {
    x.chunks_exact(I::LANES)
}

/// 1 ÷ scale; 0 for a scale of 0. Where it overflows it is NaN, of which all codes become 0:
/// ggml's conversion of an infinite float to a byte gives that on x86.
#[inline(always)]
fn rate<I: Isa>(isa: I, scale: I::F32) -> I::F32 {
    let (zero, infinity) = (isa.splat(0.0), isa.splat(f32::INFINITY));
    let rate = isa.splat(1.0) / scale;
    let rate = Vector::select(rate.abs().eq(infinity), isa.splat(f32::NAN), rate);
    Vector::select(scale.eq(zero), zero, rate)
}

/// Smallest and largest weight of each block. Which of several zeros is left open.
#[inline(always)]
fn extremes<I: Isa>(isa: I, blocks: Blocks) -> ([f32; MAX_LANES], [f32; MAX_LANES]) {
    let (mut lows, mut highs) = ([0.0; MAX_LANES], [0.0; MAX_LANES]);
    for ((low, high), x) in lows.iter_mut().zip(&mut highs).zip(blocks) {
        let first = isa.load(x);
        let (mut lowest, mut highest) = (first, first);
        for x in x[I::LANES..].chunks_exact(I::LANES) {
            let x = isa.load(x);
            (lowest, highest) = (lowest.smaller(x), highest.larger(x));
        }
        (*low, *high) = (lowest.min_lane(), highest.max_lane());
    }
    (lows, highs)
}

/// The first of the weights of largest magnitude of each block, with its sign; 0 where all are 0.
#[inline(always)]
fn peaks<I: Isa>(isa: I, blocks: Blocks) -> I::F32 {
    let (lows, highs) = extremes(isa, blocks);
    let (low, high) = (isa.load(&lows), isa.load(&highs));
    let depth = isa.splat(0.0) - low;
    let peak = Vector::select(high.gt(depth), high, low);
    if !high.eq(depth).any() {
        return peak;
    }
    let mut peaks = numbers::<I>(peak);
    for ((peak, high), x) in peaks.iter_mut().zip(highs).zip(blocks) {
        if high == -*peak {
            let first = x.iter().find(|x| x.abs() == high);
            *peak = first.map_or(0.0, |first| if high == 0.0 { 0.0 } else { *first });
        }
    }
    isa.load(&peaks)
}

/// Smallest and largest weight of each block. A zero has the sign of the block's first, since
/// that is stored.
#[inline(always)]
fn ranges<I: Isa>(isa: I, blocks: Blocks) -> (I::F32, I::F32) {
    let (mut lows, highs) = extremes(isa, blocks);
    let (low, high) = (isa.load(&lows), isa.load(&highs));
    let zero = isa.splat(0.0);
    if !low.eq(zero).any() {
        return (low, high);
    }
    for (low, x) in lows.iter_mut().zip(blocks) {
        if *low == 0.0 {
            *low = x.iter().copied().find(|x| *x == 0.0).unwrap_or(*low);
        }
    }
    let low = isa.load(&lows);
    // In blocks of zeros the largest is the same zero: the difference is then +0.
    (low, Vector::select(high.eq(low), low, high))
}

/// The numbers of a vector, at the start of an array.
#[inline(always)]
fn numbers<I: Isa>(vector: I::F32) -> [f32; MAX_LANES] {
    let mut out = [0.0; MAX_LANES];
    vector.store(&mut out);
    out
}

/// The numbers of a vector in half precision, at the start of an array.
#[inline(always)]
fn halves<I: Isa>(vector: I::F32) -> [Half; MAX_LANES] {
    let mut out = [[0; 2]; MAX_LANES];
    vector.store_f16(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::{Kernel, Level};

    use super::*;

    /// Fits a block that has others before it, and gives scale, lowest weight and codes.
    #[derive(Clone, Copy)]
    enum Fit {
        Symmetric(u8),
        Affine(u8),
        Bytes,
    }

    struct Last<'a>(&'a [f32; WEIGHTS], Fit);

    impl Kernel for Last<'_> {
        type Output = (Half, Half, Codes);

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Self::Output {
            let Self(x, fit) = self;
            let mut blocks = [[0.75; WEIGHTS]; MAX_LANES];
            let k = I::LANES - 1;
            blocks[k] = *x;
            let blocks = &blocks[..I::LANES];
            match fit {
                Fit::Symmetric(half) => {
                    let fits = fit_symmetric(isa, blocks, half);
                    (fits.scale[k], [0; 2], fits.codes(isa, k, x))
                }
                Fit::Affine(max_code) => {
                    let fits = fit_affine(isa, blocks, max_code);
                    (fits.scale[k], fits.low[k], fits.codes(isa, k, x))
                }
                Fit::Bytes => {
                    let fits = fit_bytes(isa, blocks);
                    (fits.scale[k], [0; 2], fits.codes(isa, k, x))
                }
            }
        }
    }

    /// Scale, lowest weight and codes, which have to be the same on every level.
    fn fit(x: &[f32; WEIGHTS], fit: Fit) -> (u16, u16, Codes) {
        let results: Vec<_> = Level::all()
            .map(|level| level.dispatch(Last(x, fit)))
            .collect();
        assert!(results.iter().all(|result| *result == results[0]));
        let (scale, low, codes) = results[0];
        (u16::from_le_bytes(scale), u16::from_le_bytes(low), codes)
    }

    const ONE: u16 = 0x3c00;
    const MINUS: u16 = 0x8000;

    #[test]
    fn codes_span_the_range() {
        let x = std::array::from_fn(|i| i as f32 - 16.0);
        let expected = std::array::from_fn(|i| i as u8);
        assert_eq!(fit(&x, Fit::Symmetric(16)), (ONE, 0, expected));
        assert_eq!(fit(&x, Fit::Affine(31)), (ONE, 0xcc00, expected));
    }

    #[test]
    fn the_first_of_equal_peaks_decides_the_sign() {
        let mut x = [0.5; WEIGHTS];
        for (at, value, sign) in [(20, -2.0, 0), (21, 2.0, 0), (3, 2.0, MINUS)] {
            x[at] = value;
            let (scale, _, codes) = fit(&x, Fit::Symmetric(2));
            assert_eq!(scale, ONE | sign);
            assert_eq!(codes[20], if sign == 0 { 0 } else { 3 });
        }
    }

    #[test]
    fn extremes_are_found_in_every_position() {
        for i in 0..WEIGHTS {
            let mut x = [0.5; WEIGHTS];
            x[i] = -127.0;
            assert_eq!(fit(&x, Fit::Bytes).0, ONE);
            assert_eq!(fit(&x, Fit::Symmetric(127)).0, ONE);
            x[i] = -1.0;
            x[(i + 9) % WEIGHTS] = 14.0;
            let (scale, low, codes) = fit(&x, Fit::Affine(15));
            assert_eq!((scale, low), (ONE, ONE | MINUS));
            assert_eq!((codes[i], codes[(i + 9) % WEIGHTS]), (0, 15));
        }
    }

    #[test]
    fn the_first_zero_decides_the_sign_of_a_lowest_weight_of_zero() {
        for (first, other, sign) in [(0.0, -0.0, 0), (-0.0, 0.0, MINUS)] {
            let mut x = [other; WEIGHTS];
            x[0] = first;
            assert_eq!(fit(&x, Fit::Affine(15)), (0, sign, [0; WEIGHTS]));
            x[7] = 15.0;
            let (scale, low, codes) = fit(&x, Fit::Affine(15));
            assert_eq!((scale, low, codes[7]), (ONE, sign, 15));
        }
    }

    #[test]
    fn halves_round_away_from_zero() {
        let mut x = [0.0; WEIGHTS];
        for (x, value) in x
            .iter_mut()
            .zip([127.0, -2.5, 2.5, 2.49, 0.499_999_97, -0.5])
        {
            *x = value;
        }
        let (scale, _, codes) = fit(&x, Fit::Bytes);
        assert_eq!(scale, ONE);
        assert_eq!(codes[..6], [127, -3_i8 as u8, 3, 2, 0, -1_i8 as u8]);
    }

    #[test]
    fn blocks_that_vanish_have_codes_of_zero() {
        for value in [0.0, 1e-42, -1e-42] {
            let x = [value; WEIGHTS];
            assert_eq!(fit(&x, Fit::Bytes), (0, 0, [0; WEIGHTS]));
        }
        let mut x = [0.0; WEIGHTS];
        x[4] = -1e-42;
        assert_eq!(fit(&x, Fit::Symmetric(8)), (0, 0, [0; WEIGHTS]));
        assert_eq!(fit(&x, Fit::Affine(15)), (0, MINUS, [0; WEIGHTS]));
    }
}
