//! Identity with ggml without ggml: hashes of its encodings and decodings of
//! pseudo-random input, in `blocks_golden.txt`.
//!
//! Where `LLM_QUANTIZE_GGML_LIB` names ggml's shared library, the hashes
//! themselves are checked against it; the failure message is the new file.

#![allow(clippy::unwrap_used)]

mod blocks_support;

use std::fmt::Write;

use blocks_support::ggml::Ggml;
use blocks_support::rows::{Kind, Random, importance};
use llm_quantize_gguf::blocks::{BlockType, decode_row, encode_row};

const GOLDEN: &str = include_str!("blocks_golden.txt");

/// FNV-1a, 64 bits.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

type Encode<'a> = &'a dyn Fn(BlockType, &[f32], Option<&[f32]>, &mut [u8]);
type Decode<'a> = &'a dyn Fn(BlockType, &[u8], &mut [f32]);

/// Hash of the encodings of rows of every kind but those that overflow.
fn encodings(ty: BlockType, weighted: bool, encode: Encode<'_>) -> u64 {
    let mut hash = Hash::new();
    let mut random = Random(42);
    for kind in Kind::ALL.into_iter().filter(|&kind| kind != Kind::Huge) {
        let row = kind.row(5 * 256, &mut random);
        let weights = importance(0, row.len(), &mut random);
        let mut out = vec![0; ty.row_bytes(row.len()).unwrap()];
        encode(ty, &row, weighted.then_some(&weights[..]), &mut out);
        hash.update(&out);
    }
    hash.0
}

/// Hash of the values of random blocks with finite scales.
fn decodings(ty: BlockType, decode: Decode<'_>) -> u64 {
    let mut random = Random(43);
    let mut out = vec![0.0; 40 * 256];
    let length = ty.row_bytes(out.len()).unwrap();
    let mut bytes: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_mut(ty.block_bytes()) {
        // Wherever the scales are, at the ends of a block, clear the exponent's
        // top bit.
        let last = block.len() - 1;
        for at in [1, 3, last, last.saturating_sub(2)] {
            block[at.min(last)] &= 0xbf;
        }
        if ty == BlockType::MXFP4 {
            block[0] &= 0xbf;
        }
    }
    decode(ty, &bytes, &mut out);
    assert!(out.iter().all(|value| value.is_finite()), "{ty}");
    let mut hash = Hash::new();
    for value in out {
        hash.update(&value.to_le_bytes());
    }
    hash.0
}

fn golden(encode: Encode<'_>, decode: Decode<'_>) -> String {
    let mut text = String::new();
    for ty in BlockType::all() {
        let plain = encodings(ty, false, encode);
        let weighted = encodings(ty, true, encode);
        writeln!(text, "{ty} encoded {plain:016x}").unwrap();
        writeln!(text, "{ty} encoded with importance {weighted:016x}").unwrap();
        writeln!(text, "{ty} decoded {:016x}", decodings(ty, decode)).unwrap();
    }
    text
}

#[test]
fn hashes_are_ours() {
    let ours = golden(
        &|ty, row, weights, out| encode_row(ty, row, weights, out).unwrap(),
        &|ty, bytes, out| decode_row(ty, bytes, out).unwrap(),
    );
    for (ours, golden) in ours.lines().zip(GOLDEN.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(ours.lines().count(), GOLDEN.lines().count());
}

#[test]
fn hashes_are_ggmls() {
    let Some(ggml) = Ggml::load() else { return };
    let theirs = golden(
        &|ty, row, weights, out| ggml.quantize(ty, row, row.len(), weights, out),
        &|ty, bytes, out| match ggml.decode(ty, bytes) {
            Some(values) => out.copy_from_slice(&values),
            // ggml has no decoder for what needs none.
            None => decode_row(ty, bytes, out).unwrap(),
        },
    );
    assert!(theirs == GOLDEN, "ggml's hashes are\n{theirs}");
}
