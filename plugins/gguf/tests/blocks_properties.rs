//! Properties of the block codecs that hold for any input.

use llm_quantize_gguf::blocks::{BlockType, decode_row, encode_row, encode_row_on, validate_rows};
use llm_quantize_plugin_api::kernels::simd::Level;
use proptest::prelude::*;

fn any_type() -> impl Strategy<Value = BlockType> {
    prop::sample::select(BlockType::all().collect::<Vec<_>>())
}

fn encodable() -> impl Strategy<Value = BlockType> {
    let types = BlockType::all();
    prop::sample::select(types.collect::<Vec<_>>())
}

/// Largest error of a weight, in parts of the largest magnitude among the 256
/// weights around it.
fn tolerance(ty: BlockType) -> f32 {
    match ty {
        BlockType::F32 => 0.0,
        BlockType::F16 => 0.0005,
        BlockType::BF16 => 0.004,
        BlockType::Q8_0 => 0.0045,
        BlockType::Q6_K => 0.05,
        BlockType::Q5_0 => 0.065,
        BlockType::Q5_1 => 0.035,
        BlockType::Q5_K => 0.09,
        BlockType::Q4_0 => 0.13,
        BlockType::Q4_1 => 0.07,
        BlockType::Q4_K => 0.18,
        BlockType::Q3_K => 0.5,
        BlockType::Q2_K => 0.8,
        BlockType::IQ4_NL => 0.15,
        BlockType::IQ4_XS => 0.2,
        // Ternary: up to half of the largest weight.
        BlockType::TQ1_0 | BlockType::TQ2_0 => 0.5005,
        BlockType::MXFP4 => 0.26,
    }
}

/// Rows of two super-blocks whose values share a magnitude, large enough for
/// scales to be normal half-precision numbers.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    (prop::collection::vec(-1.0_f32..1.0, 512), 0_i32..4)
        .prop_map(|(row, exponent)| row.iter().map(|x| x * 10_f32.powi(exponent)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn decoded_weights_are_near(ty in encodable(), row in rows()) {
        let mut bytes = vec![0; ty.row_bytes(row.len()).unwrap()];
        let mut back = vec![f32::NAN; row.len()];
        prop_assert_eq!(encode_row(ty, &row, None, &mut bytes), Ok(()));
        prop_assert_eq!(validate_rows(ty, &bytes, bytes.len()), Ok(()));
        prop_assert_eq!(decode_row(ty, &bytes, &mut back), Ok(()));
        for (x, y) in row.chunks(256).zip(back.chunks(256)) {
            let largest = x.iter().fold(0.0_f32, |best, x| best.max(x.abs()));
            for (x, y) in x.iter().zip(y) {
                let error = (x - y).abs();
                prop_assert!(error <= tolerance(ty) * largest, "{ty}: {x} became {y}");
            }
        }
    }

    #[test]
    fn importance_lowers_the_weighted_error(
        ty in prop::sample::select(vec![
            BlockType::Q4_0,
            BlockType::Q2_K,
            BlockType::Q4_K,
            BlockType::IQ4_NL,
            BlockType::IQ4_XS,
        ]),
        row in rows(),
        weights in prop::collection::vec(0.01_f32..1.0, 512),
    ) {
        let weights: Vec<f32> = weights.iter().map(|w| w.powi(4)).collect();
        let error = |importance: Option<&[f32]>| {
            let mut bytes = vec![0; ty.row_bytes(row.len()).unwrap()];
            let mut back = vec![0.0; row.len()];
            encode_row(ty, &row, importance, &mut bytes).unwrap();
            decode_row(ty, &bytes, &mut back).unwrap();
            row.iter().zip(&back).zip(&weights).map(|((x, y), w)| w * (x - y) * (x - y)).sum::<f32>()
        };
        // The searches minimise a related measure, so allow a little.
        prop_assert!(error(Some(&weights)) <= 1.1 * error(None));
    }

    #[test]
    fn every_level_gives_the_scalar_bytes(
        ty in encodable(),
        bits in prop::collection::vec(any::<u32>(), 256..2600),
        weighted in any::<bool>(),
    ) {
        let finite = |bits: u32| Some(f32::from_bits(bits)).filter(|x| x.abs() < 1e9);
        let whole = bits.len() - bits.len() % ty.block_weights();
        let row: Vec<f32> = bits[..whole].iter().map(|&bits| finite(bits).unwrap_or(1.0)).collect();
        let weights: Vec<f32> = row.iter().rev().map(|x| x.abs()).collect();
        let encoded = |level| {
            let mut bytes = vec![0; ty.row_bytes(row.len()).unwrap()];
            encode_row_on(level, ty, &row, weighted.then_some(&weights[..]), &mut bytes).unwrap();
            bytes
        };
        let expected = encoded(Level::scalar());
        for level in Level::all() {
            prop_assert!(encoded(level) == expected, "{ty} on {}", level.name());
        }
    }

    #[test]
    fn any_bytes_decode_and_valid_ones_to_finite_weights(
        ty in any_type(),
        bytes in prop::collection::vec(any::<u8>(), 0..700),
    ) {
        let blocks = bytes.len() / ty.block_bytes();
        let mut out = vec![0.0; blocks * ty.block_weights()];
        let whole = &bytes[..blocks * ty.block_bytes()];
        prop_assert_eq!(decode_row(ty, whole, &mut out), Ok(()));
        let valid = validate_rows(ty, whole, whole.len()).is_ok();
        // The largest of MXFP4's exponents are valid, but their products with the
        // largest values are not; ggml lets them pass.
        let overflows = ty == BlockType::MXFP4 && whole.chunks(ty.block_bytes()).any(|b| b[0] > 252);
        if valid && !overflows {
            prop_assert!(out.iter().all(|x| x.is_finite()), "{ty}");
        }
        // Anything else is refused, not a panic.
        prop_assert_eq!(decode_row(ty, &bytes, &mut out).is_ok(), whole.len() == bytes.len());
        let _ = validate_rows(ty, &bytes, 1 + bytes.len() / 3);
    }
}
