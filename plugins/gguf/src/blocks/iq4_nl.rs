//! IQ4_NL: blocks of 32 weights, one half-precision scale and four-bit indexes
//! into a fixed table of unevenly spaced values.
//!
//! Weight = scale × value of the code. The table is denser around zero, where
//! most weights are. [`fit_block`] and the table are shared with IQ4_XS.

use llm_quantize_plugin_api::kernels::simd::Isa;

use super::TypeLayout;
use super::codec::Codec;
use super::float::{f16_bytes, get_f16};
use super::validate::Check;

/// Weights in a block.
pub(super) const WEIGHTS: usize = 32;
/// Bytes in a block: scale, then 16 bytes of codes.
pub(super) const BYTES: usize = 18;

/// The weights, or their importances, of a block.
pub(super) type Block = [f32; WEIGHTS];

/// Values that codes stand for, before scaling.
const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// Halfway points between neighbouring values: from the first on, code 1 is
/// nearer than code 0, and so on.
const MIDPOINTS: [f32; 15] = {
    let mut points = [0.0; 15];
    let mut i = 0;
    while i < points.len() {
        points[i] = (VALUES[i] as f32 + VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    points
};

/// Blocks whose largest magnitude is below this are stored as zeros.
const VANISHING: f32 = 1e-15;

/// Scales tried on either side of the first guess.
const STEPS: i32 = 7;

/// The codec.
pub(super) struct Iq4Nl;

impl Codec for Iq4Nl {
    const LAYOUT: TypeLayout = TypeLayout {
        name: "IQ4_NL",
        id: 20,
        block_weights: WEIGHTS,
        block_bytes: BYTES,
    };
    const CHECK: Check = Check::Scales(&[0]);

    #[inline(always)]
    fn encode<I: Isa>(_: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode(row, importance, out);
    }

    #[inline(always)]
    fn decode<I: Isa>(_: I, bytes: &[u8], out: &mut [f32]) {
        decode(bytes, out);
    }
}

/// The code whose value is nearest; halfway, the upper one. NaN gives the last,
/// as in ggml, whose search finds every comparison with it false.
#[inline(always)]
pub(super) fn nearest(value: f32) -> u8 {
    let mut code = 0;
    for point in MIDPOINTS {
        code += u8::from(!matches!(
            value.partial_cmp(&point),
            Some(std::cmp::Ordering::Less)
        ));
    }
    code
}

/// The value that a code (0 to 15) stands for, before scaling.
#[inline(always)]
pub(super) fn value_of(code: u8) -> f32 {
    f32::from(VALUES[usize::from(code & 0x0f)])
}

/// How much each weight's squared error counts: its own square, or the given
/// importance scaled by √(`spread` + x²). `spread` is twice the mean square of
/// the weights that share a half-precision scale.
#[inline(always)]
pub(super) fn error_weights(x: &Block, importance: Option<&Block>, spread: f32) -> Block {
    match importance {
        Some(importance) => std::array::from_fn(|i| importance[i] * (spread + x[i] * x[i]).sqrt()),
        None => x.map(|x| x * x),
    }
}

/// Σ x², added from first to last, times 2 ÷ count.
#[inline(always)]
pub(super) fn spread(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |sum, x| sum + x * x) * (2.0 / x.len() as f32)
}

/// The scale with the smallest weighted squared error, of those that ggml tries:
/// the one that maps the peak to the table's largest magnitude, and fifteen
/// around it. It is negative where the peak is positive, since the table
/// reaches further down than up.
#[inline(always)]
pub(super) fn fit_block(x: &Block, weights: &Block) -> f32 {
    let peak = peak(x);
    if peak.abs() < VANISHING {
        return 0.0;
    }
    let lowest = f32::from(VALUES[0]);
    let first = Sums::of(x, weights, 1.0 / (-peak / lowest));
    let mut scale = match first.qq > 0.0 {
        true => first.qx / first.qq,
        false => 0.0,
    };
    let mut best = scale * first.qx;
    for step in -STEPS..=STEPS {
        let sums = Sums::of(x, weights, (step as f32 + lowest) / peak);
        if sums.qq > 0.0 && sums.qx * sums.qx > best * sums.qq {
            scale = sums.qx / sums.qq;
            best = scale * sums.qx;
        }
    }
    scale
}

/// The first of the weights with the largest magnitude.
#[inline(always)]
fn peak(x: &Block) -> f32 {
    let mut peak = 0.0_f32;
    for &x in x {
        if x.abs() > peak.abs() {
            peak = x;
        }
    }
    peak
}

/// Weighted sums over a block and its codes' values q: what the error depends on.
struct Sums {
    /// Σ w·q·x
    qx: f32,
    /// Σ w·q²
    qq: f32,
}

impl Sums {
    /// For the codes that an inverse scale gives.
    #[inline(always)]
    fn of(x: &Block, weights: &Block, inverse: f32) -> Self {
        let (mut qx, mut qq) = (0.0, 0.0);
        for (x, weight) in x.iter().zip(weights) {
            let q = value_of(nearest(inverse * x));
            qx += weight * q * x;
            qq += weight * q * q;
        }
        Self { qx, qq }
    }
}

/// Packs codes for an inverse scale: code `j` and code `j + 16` share a byte.
#[inline(always)]
pub(super) fn pack(x: &Block, inverse: f32, out: &mut [u8; WEIGHTS / 2]) {
    let (low, high) = x.split_at(WEIGHTS / 2);
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = nearest(inverse * low) | nearest(inverse * high) << 4;
    }
}

/// The weights behind [`pack`].
#[inline(always)]
pub(super) fn unpack(codes: &[u8; WEIGHTS / 2], scale: f32, out: &mut Block) {
    let (low, high) = out.split_at_mut(WEIGHTS / 2);
    for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
        *low = scale * value_of(*code);
        *high = scale * value_of(code >> 4);
    }
}

#[inline(always)]
pub(super) fn encode(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = row.as_chunks::<WEIGHTS>().0;
    let importance = importance.map(|importance| importance.as_chunks::<WEIGHTS>().0);
    for (index, (x, out)) in blocks
        .iter()
        .zip(out.as_chunks_mut::<BYTES>().0)
        .enumerate()
    {
        let importance = importance.and_then(|blocks| blocks.get(index));
        let scale = fit_block(x, &error_weights(x, importance, spread(x)));
        let [d0, d1, codes @ ..] = out;
        [*d0, *d1] = f16_bytes(scale);
        pack(x, inverse(scale), codes);
    }
}

/// 1 ÷ scale; 0 for 0.
#[inline(always)]
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[inline(always)]
pub(super) fn decode(bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.as_chunks::<BYTES>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<WEIGHTS>().0) {
        let [d0, d1, codes @ ..] = block;
        unpack(codes, get_f16([*d0, *d1]), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights that are the table's values times `scale`, twice.
    fn on_the_grid(scale: f32) -> Block {
        std::array::from_fn(|i| scale * f32::from(VALUES[i % 16]))
    }

    #[test]
    fn low_halves_are_the_first_sixteen_weights() {
        let mut block = [0x80; BYTES];
        (block[0], block[1]) = (0x00, 0x40); // 2.0
        block[2] = 0x7f;
        let mut out = [0.0; WEIGHTS];
        decode(&block, &mut out);
        assert_eq!((out[0], out[16]), (226.0, -20.0));
        assert_eq!((out[15], out[31]), (-254.0, 2.0));
    }

    #[test]
    fn codes_are_the_nearest_and_the_upper_one_halfway() {
        for (code, value) in VALUES.iter().enumerate() {
            assert_eq!(usize::from(nearest(f32::from(*value))), code);
        }
        assert_eq!((nearest(-115.5), nearest(-115.6)), (1, 0));
        assert_eq!((nearest(-4.5), nearest(-4.6), nearest(0.0)), (8, 7, 8));
        assert_eq!((nearest(-1e9), nearest(1e9)), (0, 15));
        assert_eq!((nearest(f32::NEG_INFINITY), nearest(f32::NAN)), (0, 15));
    }

    #[test]
    fn weights_on_the_grid_come_back_exactly() {
        for scale in [0.5, -0.5] {
            let x = on_the_grid(scale);
            let (mut out, mut back) = ([0xaa; BYTES], [0.0; WEIGHTS]);
            for importance in [None, Some(&[1.0; WEIGHTS][..])] {
                encode(&x, importance, &mut out);
                decode(&out, &mut back);
                assert_eq!(back, x);
            }
            assert_eq!(get_f16([out[0], out[1]]), scale);
            assert_eq!((out[2], out[17]), (0x00, 0xff));
        }
    }

    #[test]
    fn the_first_of_equal_peaks_decides() {
        let mut x = [0.0; WEIGHTS];
        (x[3], x[4]) = (2.0, -2.0);
        assert_eq!(peak(&x), 2.0);
        x[2] = -2.0;
        assert_eq!(peak(&x), -2.0);
    }

    #[test]
    fn importance_decides_which_weight_is_met() {
        let mut x = [0.0; WEIGHTS];
        (x[0], x[1]) = (1.0, 0.47);
        let error_of_second = |importance: &Block| {
            let (mut out, mut back) = ([0; BYTES], [0.0; WEIGHTS]);
            encode(&x, Some(importance), &mut out);
            decode(&out, &mut back);
            (back[1] - x[1]).abs()
        };
        let (mut first, mut second) = ([0.0; WEIGHTS], [0.0; WEIGHTS]);
        (first[0], second[1]) = (1.0, 1.0);
        assert!(error_of_second(&second) < 1e-3);
        assert!(error_of_second(&second) < error_of_second(&first));
    }

    #[test]
    fn zero_and_vanishing_blocks_have_scale_zero_and_the_value_next_to_zero() {
        for x in [[0.0; WEIGHTS], [9e-16; WEIGHTS]] {
            let mut out = [0xaa; BYTES];
            encode(&x, None, &mut out);
            assert_eq!(out[..2], [0, 0]);
            assert_eq!(out[2..], [0x88; 16]);
        }
    }
}
