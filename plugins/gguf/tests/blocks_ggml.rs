//! Compares every codec with ggml itself, byte for byte and bit for bit.
//!
//! Needs the environment variable `LLM_QUANTIZE_GGML_LIB` to name a
//! `libggml-base` shared library; without it the tests say so and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod blocks_support;

use blocks_support::ggml::{Ggml, VARIABLE};
use blocks_support::rows::{IMPORTANCE_KINDS, Kind, Random, importance};
use llm_quantize_gguf::blocks::{BlockType, decode_row_on, encode_row_on, validate_rows};
use llm_quantize_plugin_api::kernels::simd::Level;

fn ggml() -> Option<Ggml> {
    let ggml = Ggml::load();
    if ggml.is_none() {
        println!("skipped: {VARIABLE} does not name ggml's shared library");
    }
    ggml
}

/// Widths in blocks: one, odd ones, and neighbours of the numbers of lanes.
const WIDTHS: [usize; 9] = [1, 2, 3, 5, 7, 8, 9, 18, 33];

fn encode(level: Level, ty: BlockType, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xaa; ty.row_bytes(row.len()).unwrap()];
    encode_row_on(level, ty, row, importance, &mut out).unwrap();
    out
}

fn compare_encoding(ggml: &Ggml, ty: BlockType, row: &[f32], weights: Option<&[f32]>, what: &str) {
    let mut expected = vec![0x55; ty.row_bytes(row.len()).unwrap()];
    ggml.quantize(ty, row, row.len(), weights, &mut expected);
    for level in Level::all() {
        let ours = encode(level, ty, row, weights);
        if ours == expected {
            continue;
        }
        let at = ours
            .iter()
            .zip(&expected)
            .position(|(a, b)| a != b)
            .unwrap();
        let block = at / ty.block_bytes();
        let range = block * ty.block_bytes()..(block + 1) * ty.block_bytes();
        panic!(
            "{ty}, {what}, {} columns, {}: byte {} of block {block} differs\n\
             ours {:02x?}\nggml {:02x?}\nweights {:?}",
            row.len(),
            level.name(),
            at - range.start,
            &ours[range.clone()],
            &expected[range],
            &row[block * ty.block_weights()..][..ty.block_weights()],
        );
    }
}

/// Whether ggml's arithmetic stays finite: beyond, the reference depends on
/// which NaN the compiler's choice of instructions produces.
fn stays_finite(ty: BlockType, kind: Kind, weighted: bool) -> bool {
    let squares = weighted
        || !matches!(
            ty,
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1
        );
    let never_squares = matches!(
        ty,
        BlockType::Q8_0 | BlockType::TQ1_0 | BlockType::TQ2_0 | BlockType::MXFP4
    );
    kind != Kind::Huge || !squares || ty.block_weights() == 1 || never_squares
}

#[test]
fn sizes_are_ggmls() {
    let Some(ggml) = ggml() else { return };
    for ty in BlockType::all() {
        let ours = (ty.block_weights(), ty.block_bytes());
        assert_eq!(ours, ggml.block_size(ty), "{ty}");
        assert_eq!(ty.row_bytes(3072), Some(ggml.row_bytes(ty, 3072)), "{ty}");
    }
}

#[test]
fn encodings_are_ggmls() {
    let Some(ggml) = ggml() else { return };
    for ty in BlockType::all() {
        let mut random = Random(u64::from(ty.id()));
        for kind in Kind::ALL {
            for width in WIDTHS {
                let cols = width * ty.block_weights().max(32);
                let row = kind.row(cols, &mut random);
                if stays_finite(ty, kind, false) {
                    compare_encoding(&ggml, ty, &row, None, &format!("{kind:?}"));
                }
                if !stays_finite(ty, kind, true) {
                    continue;
                }
                for weights_kind in 0..IMPORTANCE_KINDS {
                    let weights = importance(weights_kind, cols, &mut random);
                    let what = format!("{kind:?} with importance kind {weights_kind}");
                    compare_encoding(&ggml, ty, &row, Some(&weights), &what);
                }
            }
        }
    }
}

#[test]
fn encodings_of_random_bits_are_ggmls() {
    let Some(ggml) = ggml() else { return };
    let mut random = Random(7);
    for ty in BlockType::all() {
        for round in 0..60 {
            // Any exponent within a window, signs and fractions at random. The
            // squares of what is in the window neither overflow nor vanish.
            let (low, window) = (70 + random.below(80) as u32, 1 + random.below(20) as u32);
            let row: Vec<f32> = (0..1024)
                .map(|_| {
                    let bits = random.bits() as u32;
                    let exponent = low + (bits >> 9) % window;
                    f32::from_bits((bits & 0x807f_ffff) | exponent << 23)
                })
                .collect();
            let what = format!("random bits, round {round}");
            compare_encoding(&ggml, ty, &row, None, &what);
            let weights = importance(0, row.len(), &mut random);
            compare_encoding(&ggml, ty, &row, Some(&weights), &what);
        }
    }
}

fn compare_decoding(ggml: &Ggml, ty: BlockType, bytes: &[u8]) {
    let Some(expected) = ggml.decode(ty, bytes) else {
        return;
    };
    for level in Level::all() {
        let mut ours = vec![1.0; expected.len()];
        decode_row_on(level, ty, bytes, &mut ours).unwrap();
        for (i, (a, b)) in ours.iter().zip(&expected).enumerate() {
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            let level = level.name();
            assert!(same, "{ty}, {level}: weight {i} is {a:e}, ggml's is {b:e}");
        }
    }
}

#[test]
fn decodings_are_ggmls() {
    let Some(ggml) = ggml() else { return };
    for ty in BlockType::all() {
        let mut random = Random(1000 + u64::from(ty.id()));
        for _ in 0..40 {
            let count = 1 + random.below(40);
            let bytes: Vec<u8> = (0..count * ty.block_bytes())
                .map(|_| random.bits() as u8)
                .collect();
            compare_decoding(&ggml, ty, &bytes);
        }
        for kind in Kind::ALL {
            let row = kind.row(9 * 256, &mut random);
            let mut bytes = vec![0; ty.row_bytes(row.len()).unwrap()];
            ggml.quantize(ty, &row, row.len(), None, &mut bytes);
            compare_decoding(&ggml, ty, &bytes);
        }
    }
}

#[test]
fn every_half_is_read_as_ggml_reads_it() {
    let Some(ggml) = ggml() else { return };
    for ty in [BlockType::F16, BlockType::BF16] {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        compare_decoding(&ggml, ty, &bytes);
    }
}

#[test]
fn verdicts_are_ggmls() {
    let Some(ggml) = ggml() else { return };
    let mut random = Random(99);
    for ty in BlockType::all() {
        let mut verdicts = [0, 0];
        for _ in 0..400 {
            let count = 1 + random.below(3 * 34 / ty.block_bytes() + 2);
            let bytes: Vec<u8> = (0..count * ty.block_bytes())
                .map(|_| match random.below(4) {
                    0 => [0x7c, 0xfc, 0x7f, 0xff, 0x80][random.below(5)],
                    _ => random.bits() as u8,
                })
                .collect();
            let expected = ggml.is_valid(ty, &bytes);
            let ours = validate_rows(ty, &bytes, bytes.len());
            assert_eq!(ours.is_ok(), expected, "{ty}: {ours:?} on {bytes:02x?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts[0] > 20 && verdicts[1] > 20, "{ty}: {verdicts:?}");
    }
}
