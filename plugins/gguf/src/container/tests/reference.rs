//! Bytes written out by hand from the format's definition, and what the getters say.

use super::super::{Gguf, Metadata, MetadataError, StringArray, TensorSpec, Text, layout};
use super::{sample_file, sample_metadata};
use crate::blocks::BlockType;

#[test]
fn the_header_has_the_bytes_of_the_definition() {
    let mut metadata = Metadata::new();
    metadata.set("a", "xy");
    metadata.set("b", vec![true, false]);
    let tensors = [
        TensorSpec::new("t", &[2, 3], BlockType::F16),
        TensorSpec::new("u", &[32, 1], BlockType::Q8_0),
    ];
    let placed = layout(&metadata, &tensors).unwrap();
    let mut expected = Vec::new();
    expected.extend(b"GGUF\x03\0\0\0");
    expected.extend(b"\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0a\x08\0\0\0\x02\0\0\0\0\0\0\0xy");
    expected.extend(b"\x01\0\0\0\0\0\0\0b\x09\0\0\0\x07\0\0\0\x02\0\0\0\0\0\0\0\x01\x00");
    expected.extend(b"\x01\0\0\0\0\0\0\0t\x02\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0\0\0\0\0");
    expected.extend(b"\x01\0\0\0\0\0\0\0u\x01\0\0\0\x20\0\0\0\0\0\0\0");
    expected.extend(b"\x08\0\0\0\x20\0\0\0\0\0\0\0");
    assert_eq!(expected.len(), 148);
    expected.resize(160, 0);
    assert_eq!(placed.header, expected);
    assert_eq!(placed.tensors, [160..172, 192..226]);
    assert_eq!(placed.file_size, 256, "the last tensor is padded, too");
}

#[test]
fn another_alignment_moves_the_data() {
    let mut metadata = Metadata::new();
    metadata.set("general.alignment", 128u32);
    let tensor = |name| TensorSpec::new(name, &[4], BlockType::F32);
    let placed = layout(&metadata, &[tensor("a"), tensor("b")]).unwrap();
    assert_eq!(placed.tensors, [128..144, 256..272]);
    assert_eq!((placed.header.len(), placed.file_size), (128, 384));
}

#[test]
fn all_value_types_survive() {
    let read = Gguf::parse(&sample_file()).unwrap();
    assert_eq!(read.metadata, sample_metadata());
    let order = |m: &Metadata| m.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>();
    assert_eq!(order(&read.metadata), order(&sample_metadata()));
}

#[test]
fn getters_give_the_value_or_say_what_is_wrong() {
    let m = sample_metadata();
    assert_eq!(m.require::<u32>("u32"), Ok(3));
    assert_eq!(m.get::<&str>("general.architecture"), Ok(Some("llama")));
    assert_eq!(m.require::<&[f32]>("a.f32"), Ok(&[1.0, 2.0][..]));
    assert_eq!(m.get::<u32>("nothing"), Ok(None));
    assert_eq!(m.require_unsigned("u16"), Ok(2));
    assert_eq!(m.unsigned("nothing"), Ok(None));
    let message = |e: MetadataError| e.to_string();
    assert_eq!(
        message(m.require::<u32>("general.architecture").unwrap_err()),
        "key \"general.architecture\" has type string, expected u32"
    );
    assert!(message(m.require::<f32>("x.y").unwrap_err()).starts_with("key \"x.y\" is missing"));
    assert_eq!(
        message(m.require::<&str>("a.u32").unwrap_err()),
        "key \"a.u32\" has type array of u32, expected string"
    );
    assert_eq!(
        message(m.require_unsigned("i32").unwrap_err()),
        "key \"i32\" has type i32 and is negative, expected an unsigned integer"
    );
}

#[test]
fn strings_keep_bytes_that_are_not_utf8() {
    let mut m = sample_metadata();
    let tokens = m.require::<&StringArray>("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 3);
    assert_eq!(
        tokens.iter().collect::<Vec<_>>(),
        [&b"<s>"[..], b"", b"\xe2\x96"]
    );
    assert_eq!(tokens.get(3), None);
    m.set("broken", Text::from(&b"\xff"[..]));
    assert_eq!(m.require::<&Text>("broken").unwrap().as_bytes(), b"\xff");
    let message = m.require::<&str>("broken").unwrap_err().to_string();
    assert_eq!(
        message,
        "key \"broken\" has type string that is not UTF-8, expected string"
    );
}

#[test]
fn setting_moves_to_the_end_unless_asked_not_to() {
    let mut m: Metadata = [("a", 1u32), ("b", 2), ("c", 3)].into_iter().collect();
    let keys = |m: &Metadata| m.iter().map(|(k, _)| k).collect::<String>();
    m.set("a", 9u32);
    assert_eq!(keys(&m), "bca");
    m.set_in_place("b", 8u32);
    assert_eq!(keys(&m), "bca");
    assert!(m.remove("c").is_some());
    assert_eq!((keys(&m).as_str(), m.len()), ("ba", 2));
}
