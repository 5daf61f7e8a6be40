use super::*;
use crate::blocks::BlockType;
use crate::container::{Gguf, MetadataError, ReadError, TensorSpec, Value, layout};
use proptest::prelude::*;

/// A file in the older layout: (name, calls, values) for each entry, then the end.
fn legacy(entries: &[(&str, i32, &[f32])], end: &[u8]) -> Vec<u8> {
    let mut file = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        file.extend((name.len() as i32).to_le_bytes());
        file.extend(name.as_bytes());
        file.extend(calls.to_le_bytes());
        file.extend((values.len() as i32).to_le_bytes());
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    }
    file.extend(end);
    file
}

fn sample() -> Vec<u8> {
    let entries = [
        Collected {
            name: "blk.0.ffn_down_exps.weight",
            sums: &[2.0, 4.0, 8.0, 1.0, 9.0, 3.0],
            counts: &[2, 0, 3],
        },
        Collected {
            name: "blk.0.attn_q.weight",
            sums: &[1.0, 2.0, 3.0],
            counts: &[4],
        },
    ];
    write(&entries, &["a.txt", "b.txt"], 7, 512).unwrap()
}

fn message(file: &[u8]) -> String {
    Imatrix::parse(file)
        .expect_err("should be refused")
        .to_string()
}

#[test]
fn the_gguf_layout_divides_by_counts_per_expert() {
    let read = Imatrix::parse(&sample()).unwrap();
    assert_eq!(read.layout, Layout::Gguf);
    assert_eq!((read.len(), read.chunk_count, read.chunk_size), (2, 7, 512));
    assert_eq!(read.datasets, [Text::from("a.txt"), Text::from("b.txt")]);
    let names: Vec<_> = read.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"]);
    let plain = read.entry("blk.0.attn_q.weight").unwrap();
    assert_eq!(plain.weights, [0.25, 0.5, 0.75]);
    assert_eq!((plain.experts, plain.unseen), (1, 0));
    let experts = read.entry("blk.0.ffn_down_exps.weight").unwrap();
    assert_eq!(experts.weights, [1.0, 2.0, 1.0, 1.0, 3.0, 1.0]);
    assert_eq!((experts.experts, experts.unseen), (3, 1));
}

#[test]
fn the_written_file_has_the_tensors_of_llama_imatrix() {
    let file = sample();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(file.len() % 32, 0);
    let tensors: Vec<_> = gguf
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), &t.dims[..]))
        .collect();
    let expected: [(&str, &[u64]); 4] = [
        ("blk.0.attn_q.weight.in_sum2", &[3]),
        ("blk.0.attn_q.weight.counts", &[1]),
        ("blk.0.ffn_down_exps.weight.in_sum2", &[2, 3]),
        ("blk.0.ffn_down_exps.weight.counts", &[1, 3]),
    ];
    assert_eq!(tensors, expected);
    let keys: Vec<_> = gguf.metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys[..2], ["general.type", "imatrix.datasets"]);
    assert_eq!(keys[2..], ["imatrix.chunk_count", "imatrix.chunk_size"]);
}

#[test]
fn the_older_layout_divides_by_calls() {
    let entries: [(&str, i32, &[f32]); 2] = [("b.weight", 4, &[2.0, 6.0]), ("a.weight", 0, &[5.0])];
    let mut end = 12i32.to_le_bytes().to_vec();
    end.extend(8i32.to_le_bytes());
    end.extend(b"wiki.txt");
    let read = Imatrix::parse(&legacy(&entries, &end)).unwrap();
    assert_eq!(read.layout, Layout::Legacy);
    assert_eq!(read.entry("b.weight").unwrap().weights, [0.5, 1.5]);
    assert_eq!(
        read.entry("a.weight").unwrap().weights,
        [5.0],
        "no calls: taken as they are"
    );
    assert_eq!((read.len(), read.chunk_count), (2, 12));
    assert_eq!(read.datasets, [Text::from("wiki.txt")]);
}

#[test]
fn the_end_of_the_older_layout_is_optional() {
    let entries: [(&str, i32, &[f32]); 1] = [("a.weight", 1, &[5.0])];
    let read = |end: &[u8]| Imatrix::parse(&legacy(&entries, end));
    assert_eq!(read(&[]).unwrap().chunk_count, 0);
    assert_eq!(read(&[3, 0, 0, 0]).unwrap().chunk_count, 3);
    assert_eq!(
        read(&[255; 4]).unwrap().chunk_count,
        0,
        "-1 stands for unknown"
    );
    assert!(read(&[3, 0, 0, 0, 0, 0, 0, 0]).unwrap().datasets.is_empty());
    assert!(read(&[3, 0, 0]).is_err());
    assert!(read(&[3, 0, 0, 0, 255, 255, 255, 255]).is_err());
    assert!(read(&[3, 0, 0, 0, 9, 0, 0, 0, b'x']).is_err());
}

#[test]
fn use_is_recorded_with_the_keys_and_types_of_llama_quantize() {
    let read = Imatrix::parse(&sample()).unwrap();
    let mut metadata = Metadata::new();
    read.record(&mut metadata, "dir/imatrix.gguf");
    let recorded: Vec<_> = metadata.iter().map(|(k, v)| (k, v.clone())).collect();
    let expected = [
        (KEY_FILE, Value::from("dir/imatrix.gguf")),
        (KEY_DATASET, Value::from("a.txt")),
        (KEY_ENTRIES, Value::U32(2)),
        (KEY_CHUNKS, Value::U32(7)),
    ];
    assert_eq!(recorded, expected);

    let long = "d".repeat(200);
    let entries: [(&str, i32, &[f32]); 1] = [("a.weight", 1, &[5.0])];
    let read = Imatrix::parse(&legacy(&entries, &[])).unwrap();
    let mut metadata = Metadata::new();
    read.record(&mut metadata, &long);
    let keys: Vec<_> = metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [KEY_FILE, KEY_ENTRIES], "what is unknown is left out");
    assert_eq!(metadata.require::<&str>(KEY_FILE), Ok(&long[..127]));

    let wide = "ü".repeat(100);
    read.record(&mut metadata, &wide);
    assert_eq!(metadata.require::<&str>(KEY_FILE), Ok(&wide[..126]));
}

#[test]
fn a_measurement_without_a_file_is_recorded_alike() {
    let mut metadata = Metadata::new();
    let dataset = format!("{}\0rest", "é".repeat(64));
    record_measurement(&mut metadata, Some(dataset.as_bytes()), 3, 9);
    let recorded: Vec<_> = metadata.iter().map(|(k, v)| (k, v.clone())).collect();
    let expected = [
        (KEY_DATASET, Value::from(&dataset[..126])),
        (KEY_ENTRIES, Value::U32(3)),
        (KEY_CHUNKS, Value::U32(9)),
    ];
    assert_eq!(recorded, expected);
}

#[test]
fn weights_must_fit_the_tensor() {
    let read = Imatrix::parse(&sample()).unwrap();
    let experts = "blk.0.ffn_down_exps.weight";
    assert_eq!(
        read.weights_for(experts, &[2, 9, 3])
            .unwrap()
            .unwrap()
            .len(),
        6
    );
    assert_eq!(read.weights_for("blk.1.attn_q.weight", &[3, 3]), Ok(None));
    let message = read
        .weights_for(experts, &[2, 9, 4])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("6 weights for tensor \"blk.0.ffn_down_exps.weight\""),
        "{message}"
    );
    assert!(message.contains("2 x 4"), "{message}");
    assert!(read.weights_for("blk.0.attn_q.weight", &[4, 4]).is_err());

    let entries: [(&str, i32, &[f32]); 1] = [("token_embd.weight", 1, &[5.0])];
    let read = Imatrix::parse(&legacy(&entries, &[])).unwrap();
    assert_eq!(
        read.weights_for("token_embd.weight", &[1, 8]),
        Ok(Some(&[5.0][..]))
    );
    assert_eq!(read.weights_for("token_embd.weight", &[2, 8]), Ok(None));
}

/// A GGUF file with these F32 (or other) tensors of zeros, and the metadata of an imatrix.
fn gguf_with(metadata: Option<Metadata>, tensors: &[TensorSpec<'_>]) -> Vec<u8> {
    let file = sample();
    let metadata = metadata.unwrap_or_else(|| Gguf::parse(&file).unwrap().metadata);
    let placed = layout(&metadata, tensors).unwrap();
    let mut file = placed.header;
    file.resize(usize::try_from(placed.file_size).unwrap(), 0);
    file
}

#[test]
fn other_gguf_files_are_told_apart() {
    let mut metadata = Metadata::new();
    metadata.set("general.type", "model");
    let model = gguf_with(Some(metadata), &[]);
    assert!(message(&model).contains("of type \"model\", not an importance matrix"));
    let untyped = gguf_with(Some(Metadata::new()), &[]);
    assert!(matches!(
        Imatrix::parse(&untyped),
        Err(ImatrixError::Metadata(MetadataError::Missing { .. }))
    ));
    assert_eq!(
        Imatrix::parse(&gguf_with(None, &[])),
        Err(ImatrixError::Empty)
    );
    let cut = &sample()[..100];
    assert!(matches!(
        Imatrix::parse(cut),
        Err(ImatrixError::Read(ReadError::Truncated { .. }))
    ));
}

#[test]
fn damaged_entries_are_named() {
    let f32 = |name, dims| TensorSpec::new(name, dims, BlockType::F32);
    let lonely = gguf_with(None, &[f32("a.weight.in_sum2", &[2])]);
    assert!(message(&lonely).contains("no \".counts\" for tensor \"a.weight\""));
    let lonely = gguf_with(None, &[f32("a.weight.counts", &[2])]);
    assert!(message(&lonely).contains("no \".in_sum2\" for tensor \"a.weight\""));
    let uneven = gguf_with(None, &[f32("a.in_sum2", &[3]), f32("a.counts", &[1, 2])]);
    assert!(message(&uneven).contains("3 values and 2 counts for tensor \"a\""));
    let half = TensorSpec::new("a.in_sum2", &[2], BlockType::F16);
    let half = gguf_with(None, &[half, f32("a.counts", &[1])]);
    assert!(message(&half).contains("\"a.in_sum2\" as F16 instead of F32"));
}

#[test]
fn weights_and_counts_must_be_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let entries: [(&str, i32, &[f32]); 1] = [("a.weight", 1, &[5.0, value])];
        let message = message(&legacy(&entries, &[]));
        assert!(
            message.contains("at place 1 for tensor \"a.weight\""),
            "{message}"
        );
    }
    let mut file = sample();
    let gguf = Gguf::parse(&file).unwrap();
    let counts = gguf
        .tensor("blk.0.attn_q.weight.counts")
        .unwrap()
        .range
        .start as usize;
    file[counts..counts + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(message(&file).contains("\"blk.0.attn_q.weight.counts\""));
}

#[test]
fn damage_in_the_older_layout_is_named() {
    assert!(message(b"").contains("cut off at byte 0: the number of entries"));
    assert!(message(&[0; 8]).contains("the number of entries at byte 0 is 0"));
    assert!(message(b"<!DOCTYPE html>").contains("no importance matrix"));
    let entries: [(&str, i32, &[f32]); 2] = [("a.weight", 1, &[5.0]), ("a.weight", 1, &[5.0])];
    assert!(message(&legacy(&entries, &[])).contains("\"a.weight\" twice"));
    let mut binary = legacy(&entries[..1], &[]);
    binary[8] = 0xff;
    assert!(message(&binary).contains("name at byte 8 is not UTF-8"));
    let mut negative = legacy(&entries[..1], &[]);
    negative[20..24].copy_from_slice(&(-1i32).to_le_bytes());
    assert!(message(&negative).contains("a number of values at byte 20 is -1"));
    negative[20..24].copy_from_slice(&i32::MAX.to_le_bytes());
    assert!(message(&negative).contains("the values of a tensor needs 8589934588 bytes"));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let entry = |name, sums, counts| [Collected { name, sums, counts }];
    let long = "n".repeat(56);
    let error = write(&entry(&long, &[1.0], &[1]), &[], 0, 0).unwrap_err();
    assert!(matches!(error, ImatrixError::Write(_)), "{error}");
    assert!(write(&entry(&long[1..], &[1.0], &[1]), &[], 0, 0).is_ok());
    let error = write(&entry("a", &[1.0, 2.0], &[1, 2, 3]), &[], 0, 0).unwrap_err();
    assert!(matches!(error, ImatrixError::Indivisible { .. }), "{error}");
    let empty = write(&entry("a", &[], &[1]), &[], 0, 0).unwrap();
    assert!(Gguf::parse(&empty).unwrap().tensors.is_empty());
}

proptest! {
    #[test]
    fn mutations_of_either_layout_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        old in any::<bool>(),
    ) {
        let entries: [(&str, i32, &[f32]); 2] = [("a.weight", 2, &[5.0; 9]), ("b", 1, &[1.0])];
        let mut file = if old { legacy(&entries, &[1, 0, 0, 0, 1, 0, 0, 0, b'x']) } else { sample() };
        for (at, value) in flips {
            let at = at.index(file.len());
            file[at] = value;
        }
        let _ = Imatrix::parse(&file);
        file.truncate(cut.index(file.len()));
        if let Ok(read) = Imatrix::parse(&file) {
            for (_, entry) in read.iter() {
                prop_assert!(entry.weights.iter().all(|w| w.is_finite()));
                prop_assert!(entry.weights.len() * 4 <= file.len());
            }
        }
    }

    #[test]
    fn what_was_written_is_read(
        rows in proptest::collection::vec(
            (proptest::collection::vec(0f32..1e6, 4), 0u64..100_000), 1..6),
    ) {
        let sums: Vec<f32> = rows.iter().flat_map(|(row, _)| row.clone()).collect();
        let counts: Vec<u64> = rows.iter().map(|&(_, count)| count).collect();
        let collected = [Collected { name: "t", sums: &sums, counts: &counts }];
        let read = Imatrix::parse(&write(&collected, &["x"], 1, 2).unwrap()).unwrap();
        let weights = read.weights_for("t", &[4, 7, rows.len() as u64]).unwrap().unwrap();
        for ((row, count), ours) in rows.iter().zip(weights.chunks(4)) {
            for (sum, our) in row.iter().zip(ours) {
                let expected = if *count > 0 { sum / *count as f32 } else { 1.0 };
                prop_assert_eq!(*our, expected);
            }
        }
    }
}
