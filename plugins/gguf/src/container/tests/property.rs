//! What holds for all metadata and all tensor lists.

use super::super::{Array, Gguf, Metadata, StringArray, TensorSpec, Text, Value, layout};
use super::sample_file;
use crate::blocks::BlockType;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

fn array() -> impl Strategy<Value = Array> {
    prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Array::U8),
        vec(any::<i8>(), 0..9).prop_map(Array::I8),
        vec(any::<u16>(), 0..9).prop_map(Array::U16),
        vec(any::<i16>(), 0..9).prop_map(Array::I16),
        vec(any::<u32>(), 0..9).prop_map(Array::U32),
        vec(any::<i32>(), 0..9).prop_map(Array::I32),
        vec(any::<f32>(), 0..9).prop_map(Array::F32),
        vec(any::<bool>(), 0..9).prop_map(Array::Bool),
        vec(bytes(), 0..9).prop_map(|s| Array::String(s.iter().collect::<StringArray>())),
        vec(any::<u64>(), 0..9).prop_map(Array::U64),
        vec(any::<i64>(), 0..9).prop_map(Array::I64),
        vec(any::<f64>(), 0..9).prop_map(Array::F64),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        bytes().prop_map(|b| Value::String(Text::from(b))),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        array().prop_map(Value::Array),
    ]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let alignment = proptest::option::of((0u32..9).prop_map(|shift| 1u32 << shift));
    (btree_map("[a-z.]{1,12}", value(), 0..12), alignment).prop_map(|(pairs, alignment)| {
        let mut metadata: Metadata = pairs.into_iter().collect();
        if let Some(alignment) = alignment {
            metadata.set("general.alignment", alignment);
        }
        metadata
    })
}

const TYPES: [BlockType; 4] = [
    BlockType::F32,
    BlockType::F16,
    BlockType::Q8_0,
    BlockType::BF16,
];

/// Names, types and dimensions; the last dimension is never 1, since the file would not keep it.
fn tensors() -> impl Strategy<Value = Vec<(String, BlockType, Vec<u64>)>> {
    let shape = (0..TYPES.len(), 1u64..3, vec(1u64..4, 0..3));
    btree_map("[a-z0-9._]{1,63}", shape, 0..8).prop_map(|map| {
        let one = |(name, (ty, blocks, mut rest)): (String, (usize, u64, Vec<u64>))| {
            let block_type = TYPES[ty];
            if let Some(last) = rest.last_mut() {
                *last += 1;
            }
            let mut dims = vec![blocks * block_type.block_weights() as u64];
            dims.extend(rest);
            (name, block_type, dims)
        };
        map.into_iter().map(one).collect()
    })
}

proptest! {
    #[test]
    fn what_was_written_is_read(metadata in metadata(), tensors in tensors()) {
        let specs: Vec<TensorSpec<'_>> = tensors
            .iter()
            .map(|(name, block_type, dims)| TensorSpec::new(name, dims, *block_type))
            .collect();
        let placed = layout(&metadata, &specs).unwrap();
        let mut file = placed.header.clone();
        file.resize(usize::try_from(placed.file_size).unwrap(), 0);
        let read = Gguf::parse(&file).unwrap();

        // NaN differs from itself, so metadata is compared by its bytes.
        prop_assert_eq!(&layout(&read.metadata, &specs).unwrap(), &placed);
        prop_assert_eq!(read.tensors.len(), specs.len());
        for ((tensor, spec), range) in read.tensors.iter().zip(&specs).zip(&placed.tensors) {
            prop_assert_eq!(&tensor.name, spec.name);
            prop_assert_eq!(&tensor.dims[..], spec.dims);
            prop_assert_eq!(tensor.ty, spec.ty);
            prop_assert_eq!(&tensor.range, range);
            prop_assert_eq!(tensor.range.start % read.alignment, 0);
        }
        if let Some(last) = placed.tensors.last() {
            prop_assert!(placed.file_size - last.end < read.alignment);
        }
    }

    #[test]
    fn mutations_are_errors_or_files_but_never_panics(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = sample_file();
        for (at, value) in flips {
            let at = at.index(file.len());
            file[at] = value;
        }
        let _ = Gguf::parse(&file);
        file.truncate(cut.index(file.len()));
        if let Ok(read) = Gguf::parse(&file) {
            for tensor in &read.tensors {
                prop_assert!(tensor.data(&file).is_some(), "{} lies outside", tensor.name);
            }
        }
    }

    #[test]
    fn noise_behind_a_valid_start_never_panics(noise in vec(any::<u8>(), 0..200)) {
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(noise);
        let _ = Gguf::parse(&file);
    }
}

#[test]
fn every_single_byte_can_take_extreme_values() {
    let original = sample_file();
    for at in 0..original.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut file = original.clone();
            file[at] = value;
            let _ = Gguf::parse(&file);
        }
    }
}

#[test]
fn every_truncation_of_the_header_is_an_error() {
    let file = sample_file();
    let data_start = usize::try_from(Gguf::parse(&file).unwrap().data_start).unwrap();
    for len in 0..data_start {
        assert!(Gguf::parse(&file[..len]).is_err(), "cut at {len}");
    }
}
