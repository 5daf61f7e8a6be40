//! Tests of reading and writing together.

mod hostile;
mod property;
mod reference;

use super::{Metadata, TensorSpec, layout};
use crate::blocks::BlockType;

/// A small file with every kind of value, and four tensors filled with zeros.
pub(super) fn sample_file() -> Vec<u8> {
    let tensors = [
        TensorSpec::new("token_embd.weight", &[256, 3], BlockType::BF16),
        TensorSpec::new("blk.0.attn_norm.weight", &[5], BlockType::F32),
        TensorSpec::new("blk.0.ffn_down_exps.weight", &[32, 2, 3], BlockType::Q8_0),
        TensorSpec::new("output.weight", &[8, 2], BlockType::F16),
    ];
    file_of(&sample_metadata(), &tensors)
}

/// Every value type, as a scalar and as an array.
pub(super) fn sample_metadata() -> Metadata {
    let mut m = Metadata::new();
    m.set("general.architecture", "llama");
    m.set("u8", 1u8);
    m.set("i8", -1i8);
    m.set("u16", 2u16);
    m.set("i16", -2i16);
    m.set("u32", 3u32);
    m.set("i32", -3i32);
    m.set("f32", 0.5f32);
    m.set("bool", true);
    m.set("u64", 4u64);
    m.set("i64", -4i64);
    m.set("f64", 0.25f64);
    m.set("a.u8", vec![1u8, 2, 3]);
    m.set("a.i8", vec![-1i8]);
    m.set("a.u16", vec![1u16]);
    m.set("a.i16", vec![-1i16]);
    m.set("a.u32", vec![1u32, 2]);
    m.set("a.i32", vec![-1i32, -2]);
    m.set("a.f32", vec![1.0f32, 2.0]);
    m.set("a.bool", vec![true, false]);
    m.set("a.u64", vec![1u64]);
    m.set("a.i64", Vec::<i64>::new());
    m.set("a.f64", vec![1.5f64]);
    m.set(
        "tokenizer.ggml.tokens",
        [&b"<s>"[..], b"", b"\xe2\x96"]
            .into_iter()
            .collect::<super::StringArray>(),
    );
    m
}

/// The bytes of a file whose tensor data is all zeros.
pub(super) fn file_of(metadata: &Metadata, tensors: &[TensorSpec<'_>]) -> Vec<u8> {
    let placed = layout(metadata, tensors).unwrap();
    let mut file = placed.header;
    file.resize(usize::try_from(placed.file_size).unwrap(), 0);
    file
}
