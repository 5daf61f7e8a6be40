//! One test for each way a file can be wrong.

use super::super::{Gguf, Metadata, ReadError, TensorSpec, WriteError, layout};
use super::{file_of, sample_file};
use crate::blocks::BlockType;

/// Builds headers piece by piece, without the writer's checks.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl Raw {
    fn header(version: u32, tensors: u64, keys: u64) -> Self {
        let mut raw = Raw(b"GGUF".to_vec());
        raw.0.extend(version.to_le_bytes());
        raw.0.extend(tensors.to_le_bytes());
        raw.0.extend(keys.to_le_bytes());
        raw
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn text(mut self, text: &[u8]) -> Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text);
        self
    }
    fn tensor(self, name: &str, dims: &[u64], id: u32, offset: u64) -> Self {
        let raw = self.text(name.as_bytes()).u32(dims.len() as u32);
        dims.iter()
            .fold(raw, |raw, &d| raw.u64(d))
            .u32(id)
            .u64(offset)
    }
    fn padded(mut self, data: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + data, 0);
        self
    }
    fn error(&self) -> ReadError {
        Gguf::parse(&self.0).expect_err("should be refused")
    }
}

#[test]
fn other_files_and_versions_are_named() {
    assert_eq!(
        Gguf::parse(b"PK\x03\x04..").unwrap_err(),
        ReadError::NotGguf {
            found: b"PK\x03\x04".to_vec()
        }
    );
    assert!(matches!(Gguf::parse(b"GG"), Err(ReadError::NotGguf { .. })));
    assert!(matches!(Gguf::parse(b""), Err(ReadError::NotGguf { .. })));
    assert_eq!(Raw::header(1, 0, 0).error(), ReadError::Version1);
    assert_eq!(
        Raw::header(3u32.swap_bytes(), 0, 0).error(),
        ReadError::BigEndian
    );
    assert_eq!(
        Raw::header(4, 0, 0).error(),
        ReadError::UnknownVersion { version: 4 }
    );
    assert_eq!(
        Raw::header(0, 0, 0).error(),
        ReadError::UnknownVersion { version: 0 }
    );
}

#[test]
fn version_2_is_read_like_3() {
    let mut file = sample_file();
    let three = Gguf::parse(&file).unwrap();
    file[4] = 2;
    let two = Gguf::parse(&file).unwrap();
    assert_eq!(two.version, 2);
    assert_eq!(two.tensors, three.tensors);
    assert_eq!(two.metadata, three.metadata);
}

#[test]
fn a_header_without_tensors_needs_no_padding() {
    let read = Gguf::parse(&Raw::header(3, 0, 0).0).unwrap();
    assert_eq!(read.data_start, 24);
    assert!(read.tensors.is_empty());
}

#[test]
fn counts_beyond_the_file_are_refused_before_allocating() {
    for count in [1u64, 1 << 40, u64::MAX] {
        let keys = Raw::header(3, 0, count).error();
        assert!(
            matches!(keys, ReadError::ImpossibleCount { offset: 24, .. }),
            "{keys}"
        );
        let tensors = Raw::header(3, count, 0).error();
        assert!(
            matches!(tensors, ReadError::ImpossibleCount { offset: 24, .. }),
            "{tensors}"
        );
        for element in [0, 8, 12] {
            // An array in the first value; the padding makes the key itself possible.
            let array = Raw::header(3, 0, 1)
                .text(b"k")
                .u32(9)
                .u32(element)
                .u64(count | 64);
            assert!(matches!(
                array.error(),
                ReadError::ImpossibleCount { offset: 49, .. }
            ));
        }
    }
}

#[test]
fn strings_beyond_the_file_are_truncations() {
    let error = Raw::header(3, 0, 1).u64(u64::MAX).u64(0).error();
    assert_eq!(
        error,
        ReadError::Truncated {
            what: "a metadata key",
            offset: 32,
            needed: u64::MAX,
            available: 8,
        }
    );
}

#[test]
fn bad_keys_are_refused() {
    let value = |raw: Raw| raw.u32(4).u32(7);
    let empty = value(Raw::header(3, 0, 1).text(b""));
    assert!(matches!(
        empty.error(),
        ReadError::BadKeyLength { len: 0, .. }
    ));
    let long = value(Raw::header(3, 0, 1).text(&[b'k'; 65_536]));
    assert!(matches!(
        long.error(),
        ReadError::BadKeyLength { len: 65_536, .. }
    ));
    let binary = value(Raw::header(3, 0, 1).text(b"\xff"));
    assert_eq!(
        binary.error(),
        ReadError::KeyNotText {
            index: 0,
            offset: 24
        }
    );
    let twice = value(value(Raw::header(3, 0, 2).text(b"k")).text(b"k"));
    let key = "k".to_owned();
    assert_eq!(twice.error(), ReadError::DuplicateKey { key, offset: 41 });
}

#[test]
fn bad_value_types_are_refused() {
    let key = || "k".to_owned();
    let unknown = Raw::header(3, 0, 1).text(b"k").u32(13).u32(0);
    let error = ReadError::UnknownValueType {
        key: key(),
        id: 13,
        offset: 33,
    };
    assert_eq!(unknown.error(), error);
    let nested = Raw::header(3, 0, 1).text(b"k").u32(9).u32(9).u64(1);
    assert_eq!(
        nested.error(),
        ReadError::NestedArray {
            key: key(),
            offset: 37
        }
    );
}

#[test]
fn alignment_must_be_a_power_of_two_of_type_u32() {
    let of = |id, value| {
        Raw::header(3, 0, 1)
            .text(b"general.alignment")
            .u32(id)
            .u32(value)
    };
    for alignment in [0, 3, 48] {
        assert_eq!(
            of(4, alignment).error(),
            ReadError::BadAlignment { alignment }
        );
    }
    let message = of(5, 32).error().to_string();
    assert_eq!(
        message,
        "key \"general.alignment\" has type i32, expected u32"
    );
    assert_eq!(Gguf::parse(&of(4, 1024).0).unwrap().alignment, 1024);
}

#[test]
fn bad_tensor_names_are_refused() {
    let empty = Raw::header(3, 1, 0).tensor("", &[1], 0, 0);
    assert!(matches!(
        empty.error(),
        ReadError::BadNameLength { len: 0, .. }
    ));
    let long = Raw::header(3, 1, 0).tensor(&"n".repeat(1025), &[1], 0, 0);
    assert!(matches!(
        long.error(),
        ReadError::BadNameLength { len: 1025, .. }
    ));
    let binary = Raw::header(3, 1, 0).text(b"\xff\xfe").u32(0).u32(0).u64(0);
    assert_eq!(
        binary.error(),
        ReadError::NameNotText {
            index: 0,
            offset: 24
        }
    );
    let twice = Raw::header(3, 2, 0)
        .tensor("a", &[1], 0, 0)
        .tensor("a", &[1], 0, 32);
    let name = "a".to_owned();
    assert_eq!(
        twice.error(),
        ReadError::DuplicateTensor { name, offset: 57 }
    );
}

#[test]
fn bad_shapes_are_refused() {
    let one = |dims: &[u64], id| {
        Raw::header(3, 1, 0)
            .tensor("t", dims, id, 0)
            .padded(64)
            .error()
    };
    assert!(matches!(
        one(&[1; 5], 0),
        ReadError::TooManyDims { count: 5, .. }
    ));
    assert!(matches!(
        one(&[31], 8),
        ReadError::PartialBlock {
            columns: 31,
            block_weights: 32,
            ..
        }
    ));
    assert!(matches!(
        one(&[1 << 32, 1 << 32], 0),
        ReadError::TooLarge { .. }
    ));
    // The product is zero in one order and overflows in another.
    assert!(matches!(
        one(&[1 << 32, 1 << 32, 0], 0),
        ReadError::TooLarge { .. }
    ));
    // 2^61 weights are countable, their bytes are not.
    assert!(matches!(one(&[1 << 62], 0), ReadError::TooLarge { .. }));
    assert!(matches!(one(&[1 << 60], 0), ReadError::OutOfFile { .. }));
    assert!(matches!(
        one(&[1], 1000),
        ReadError::UnknownTensorType { id: 1000, .. }
    ));
}

#[test]
fn tensors_must_lie_in_the_file_aligned_and_apart() {
    let two = |a: u64, b: u64| {
        let raw = Raw::header(3, 2, 0)
            .tensor("a", &[8], 0, a)
            .tensor("b", &[8], 0, b);
        Gguf::parse(&raw.padded(96).0)
    };
    assert!(two(0, 32).is_ok());
    // ggml wants them back to back; a gap or another order does no harm, so both are read.
    assert!(two(0, 64).is_ok());
    assert!(two(64, 0).is_ok());
    assert!(matches!(two(0, 0), Err(ReadError::Overlap { .. })));
    assert!(matches!(
        two(0, 31),
        Err(ReadError::Misaligned { start: 31, .. })
    ));
    assert!(matches!(two(0, 96), Err(ReadError::OutOfFile { .. })));
    assert!(matches!(
        two(0, u64::MAX - 31),
        Err(ReadError::OutOfFile { .. })
    ));
}

#[test]
fn a_cut_file_is_called_cut() {
    let file = sample_file();
    let end = Gguf::parse(&file)
        .unwrap()
        .tensors
        .last()
        .unwrap()
        .range
        .end as usize;
    assert!(
        Gguf::parse(&file[..end]).is_ok(),
        "the final padding is not needed"
    );
    let message = Gguf::parse(&file[..end - 1]).unwrap_err().to_string();
    assert!(
        message.contains("output.weight") && message.contains("the file ends at"),
        "{message}"
    );
}

#[test]
fn the_writer_refuses_what_readers_would() {
    let write = |tensors: &[TensorSpec<'_>]| layout(&Metadata::new(), tensors);
    let spec = |name, dims| TensorSpec::new(name, dims, BlockType::Q8_0);
    let long = "n".repeat(64);
    for name in ["", "a\0b", long.as_str()] {
        assert!(matches!(
            write(&[spec(name, &[32])]),
            Err(WriteError::BadName { .. })
        ));
    }
    for dims in [&[][..], &[32, 1, 1, 1, 1]] {
        assert!(matches!(
            write(&[spec("t", dims)]),
            Err(WriteError::BadDims { .. })
        ));
    }
    for dims in [
        &[33][..],
        &[0],
        &[32, 0],
        &[32, 1 << 60],
        &[1 << 62, 1 << 62],
    ] {
        assert!(
            matches!(write(&[spec("t", dims)]), Err(WriteError::BadShape { .. })),
            "{dims:?}"
        );
    }
    let twice = [spec("t", &[32]), spec("t", &[64])];
    assert!(matches!(
        write(&twice),
        Err(WriteError::DuplicateTensor { .. })
    ));
    let mut metadata = Metadata::new();
    metadata.set("general.alignment", 24u32);
    assert_eq!(
        layout(&metadata, &[]),
        Err(WriteError::BadAlignment { alignment: 24 })
    );
    metadata.set("general.alignment", 32u64);
    assert!(matches!(
        layout(&metadata, &[]),
        Err(WriteError::Metadata(_))
    ));
    let keyless: Metadata = [("", 1u8)].into_iter().collect();
    assert!(matches!(
        layout(&keyless, &[]),
        Err(WriteError::BadKey { .. })
    ));
}

#[test]
fn trailing_dimensions_of_one_are_left_out() {
    let spec = TensorSpec::new("t", &[4, 3, 1, 1], BlockType::F32);
    let read = Gguf::parse(&file_of(&Metadata::new(), &[spec])).unwrap();
    assert_eq!(read.tensors[0].dims, [4, 3]);
}

#[test]
fn types_without_a_codec_can_be_listed_but_not_decoded() {
    let i32_tensor = Raw::header(3, 1, 0).tensor("t", &[8, 2], 26, 0).padded(64);
    let read = Gguf::parse(&i32_tensor.0).unwrap();
    assert_eq!(read.tensors[0].ty.name, "I32");
    assert_eq!(read.tensors[0].range.end - read.tensors[0].range.start, 64);
    let message = read.tensors[0].block_type().unwrap_err().to_string();
    assert!(message.contains("I32 is not supported"), "{message}");
}
