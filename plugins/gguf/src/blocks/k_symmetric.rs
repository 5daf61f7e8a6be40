//! The part that Q3_K and Q6_K share: sixteen sub-blocks of 16 weights, each
//! with a signed scale.

use llm_quantize_plugin_api::kernels::simd::{Isa, MAX_LANES, Mask, Vector};

use super::float::{f16_bytes, get_f16};
use super::scale_search::peak;
use super::super_block::{CHUNK, CHUNK_PARTS, PARTS, WEIGHTS, expand};

/// Scales of a chunk as they are stored: a factor for each super-block and a
/// whole number for each sub-block.
pub(super) struct Scales {
    /// Half-precision factor of each super-block.
    pub(super) d: [[u8; 2]; CHUNK],
    /// Whole numbers of the sub-blocks, plus their offset.
    pub(super) bytes: [[u8; PARTS]; CHUNK],
    /// Steps between codes: factor × whole number.
    steps: [[f32; PARTS]; CHUNK],
    /// Their reciprocals.
    rates: [[f32; PARTS]; CHUNK],
}

impl Scales {
    /// Scales × rates, rounded and limited to −half..half, are the numbers to be
    /// stored with `offset` added; `d` and `rates` are those of the super-blocks.
    #[inline(always)]
    pub(super) fn new<I: Isa>(
        isa: I,
        scales: &[f32; CHUNK_PARTS],
        d: &[f32; CHUNK],
        rates: &[f32; CHUNK],
        half: f32,
        offset: f32,
    ) -> Self {
        let mut found = Self {
            d: [[0; 2]; CHUNK],
            bytes: [[0; PARTS]; CHUNK],
            steps: [[0.0; PARTS]; CHUNK],
            rates: [[0.0; PARTS]; CHUNK],
        };
        let mut read = [0.0; CHUNK];
        for k in 0..CHUNK {
            found.d[k] = f16_bytes(d[k]);
            read[k] = get_f16(found.d[k]);
        }
        let (d, rates) = (expand(isa, &read), expand(isa, rates));
        let (low, high) = (isa.splat(-half), isa.splat(half - 1.0));
        let (offset, one) = (isa.splat(offset), isa.splat(1.0));
        for at in (0..CHUNK_PARTS).step_by(I::LANES) {
            let number = (isa.load(&rates[at..]) * isa.load(&scales[at..])).round_wrapping();
            let number = number.smaller(high).larger(low);
            let step = isa.load(&d[at..]) * number;
            (number + offset).store_bytes(&mut found.bytes.as_flattened_mut()[at..]);
            step.store(&mut found.steps.as_flattened_mut()[at..]);
            (one / step).store(&mut found.rates.as_flattened_mut()[at..]);
        }
        found
    }

    /// Without a search: the scale of largest magnitude in a super-block gets the
    /// number −half. Also gives those scales.
    #[inline(always)]
    pub(super) fn shared<I: Isa>(
        isa: I,
        scales: &[f32; CHUNK_PARTS],
        half: f32,
        offset: f32,
    ) -> (Self, [f32; MAX_LANES]) {
        let [mut peaks, mut d, mut rates] = [[0.0; MAX_LANES]; 3];
        let blocks = scales.as_chunks::<PARTS>().0.chunks(I::LANES);
        for (at, scales) in (0..).step_by(I::LANES).zip(blocks) {
            let (peak, _) = peak::<I, PARTS>(isa, &isa.transpose(scales));
            let rate = isa.splat(-half) / peak;
            peak.store(&mut peaks[at..]);
            (isa.splat(1.0) / rate).store(&mut d[at..]);
            rate.store(&mut rates[at..]);
        }
        let scales = Self::new(isa, scales, first(&d), first(&rates), half, offset);
        (scales, peaks)
    }

    /// Stores nothing but zeros for super-block `k`, whose steps are zero.
    #[inline(always)]
    pub(super) fn clear(&mut self, k: usize) {
        (self.d[k], self.bytes[k]) = ([0; 2], [0; PARTS]);
        self.steps[k] = [0.0; PARTS];
    }

    /// Codes of super-block `k` for the scales as stored, from −half to half − 1,
    /// plus `half`. Where a scale is zero, they mean nothing.
    #[inline(always)]
    pub(super) fn codes<I: Isa>(
        &self,
        isa: I,
        k: usize,
        x: &[f32; WEIGHTS],
        half: f32,
    ) -> [u8; WEIGHTS] {
        let (steps, rates) = (expand(isa, &self.steps[k]), expand(isa, &self.rates[k]));
        let (half, high) = (isa.splat(half), isa.splat(half - 1.0));
        let low = isa.splat(0.0) - half;
        let mut codes = [0; WEIGHTS];
        for at in (0..WEIGHTS).step_by(I::LANES) {
            let code = rounded_quotient(isa, &x[at..], &steps[at..], &rates[at..]);
            let code = code.smaller(high).larger(low);
            (code + half).store_bytes(&mut codes[at..]);
        }
        codes
    }

    /// Whether a scale of super-block `k` is zero.
    #[inline(always)]
    pub(super) fn any_zero(&self, k: usize) -> bool {
        self.steps[k].contains(&0.0)
    }

    /// Takes the codes that the search found for the sub-blocks of super-block `k`
    /// whose scale is zero.
    #[inline(always)]
    pub(super) fn put_where_zero(
        &self,
        k: usize,
        searched: &[[u8; 16]; PARTS],
        codes: &mut [u8; WEIGHTS],
    ) {
        for (j, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            if self.steps[k][j] == 0.0 {
                *codes = searched[j];
            }
        }
    }
}

/// x ÷ step, rounded, for the reciprocals of steps in `rates`.
///
/// The product with the reciprocal differs from the quotient by less than one
/// part in 2^22. Unless that could matter, the slow division is left out.
#[inline(always)]
fn rounded_quotient<I: Isa>(isa: I, x: &[f32], steps: &[f32], rates: &[f32]) -> I::F32 {
    let x = isa.load(x);
    let estimate = x * isa.load(rates);
    let rounded = estimate.round();
    // NaN fails both comparisons.
    let clear =
        (estimate - rounded).abs().lt(isa.splat(0.499)) & estimate.abs().lt(isa.splat(1024.0));
    if clear.all() {
        return rounded;
    }
    (x / isa.load(steps)).round_wrapping()
}

/// What belongs to the super-blocks of a chunk.
#[inline(always)]
pub(super) fn first(numbers: &[f32; MAX_LANES]) -> &[f32; CHUNK] {
    const { assert!(CHUNK <= MAX_LANES) }
    &numbers.as_chunks().0[0]
}

#[cfg(test)]
mod tests {
    use llm_quantize_plugin_api::kernels::simd::Scalar;

    use super::*;

    #[test]
    fn codes_are_rounded_and_limited() {
        let mut found = [1.9; CHUNK_PARTS];
        (found[3 * PARTS], found[3 * PARTS + 15]) = (0.4, -4.0);
        let scales = Scales::new(Scalar, &found, &[0.5; CHUNK], &[1.0; CHUNK], 32.0, 32.0);
        assert_eq!((scales.d[3], scales.bytes[3][15]), ([0x00, 0x38], 28));

        let mut x = [0.0; WEIGHTS];
        (x[16], x[17], x[18], x[19], x[255]) = (-9.0, -0.5, 9.0, 0.500_01, 2.0);
        let mut codes = scales.codes(Scalar, 3, &x, 4.0);
        assert!(scales.any_zero(3) && !scales.any_zero(4));
        scales.put_where_zero(3, &[[9; 16]; PARTS], &mut codes);
        assert_eq!(codes[..16], [9; 16]);
        assert_eq!(codes[16..21], [0, 4, 7, 5, 4]);
        assert_eq!(codes[255], 3);
    }

    #[test]
    fn the_largest_scale_is_stored_as_the_least_number() {
        let mut scales = [0.5; CHUNK_PARTS];
        scales[17] = -8.0;
        let (shared, peaks) = Scales::shared(Scalar, &scales, 32.0, 32.0);
        assert_eq!((peaks[0], peaks[1]), (0.5, -8.0));
        assert_eq!(shared.bytes[0], [0; PARTS]);
        assert_eq!((shared.bytes[1][0], shared.bytes[1][1]), (34, 0));
        assert_eq!(get_f16(shared.d[1]), 0.25);
    }
}
