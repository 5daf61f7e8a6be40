use super::*;
use crate::blocks::BlockType;
use crate::container::layout;
use proptest::prelude::*;

fn spec<'a>(name: &'a str, dims: &'a [u64]) -> TensorSpec<'a> {
    TensorSpec::new(name, dims, BlockType::F32)
}

fn parsed(metadata: &Metadata, tensors: &[TensorSpec<'_>]) -> Gguf {
    let placed = layout(metadata, tensors).unwrap();
    let mut file = placed.header;
    file.resize(usize::try_from(placed.file_size).unwrap(), 0);
    Gguf::parse(&file).unwrap()
}

/// A model of three tensors in three files.
fn three() -> Vec<Gguf> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    shard_metadata(&metadata, 3, 3)
        .unwrap()
        .iter()
        .zip(["a", "b", "c"])
        .map(|(metadata, name)| parsed(metadata, &[spec(name, &[4])]))
        .collect()
}

fn merged(files: &[(&str, &Gguf)]) -> String {
    match merge(files) {
        Ok(_) => "merged".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn sizes_are_in_powers_of_1000() {
    assert_eq!(parse_size("2G"), Ok(2_000_000_000));
    assert_eq!(parse_size("500M"), Ok(500_000_000));
    assert_eq!(parse_size(" 64k "), Ok(64_000));
    assert_eq!(parse_size("123"), Ok(123));
    for bad in [
        "",
        "G",
        "0",
        "0M",
        "-1G",
        "+1G",
        "2 G",
        "2T",
        "1.5G",
        "99999999999999G",
    ] {
        assert!(parse_size(bad).is_err(), "{bad}");
    }
    assert!(
        parse_size("2GB")
            .unwrap_err()
            .to_string()
            .starts_with("\"2GB\" is no size")
    );
}

#[test]
fn tensors_fill_files_up_to_the_limit() {
    // 16 bytes each, padded to 32.
    let tensors = ["a", "b", "c", "d", "e"].map(|name| spec(name, &[4]));
    assert_eq!(divide(&tensors, 64), Ok(vec![0..2, 2..4, 4..5]));
    assert_eq!(divide(&tensors, 63), Ok(vec![0..1, 1..2, 2..3, 3..4, 4..5]));
    let one_file = |range: Range<usize>| Ok(vec![range]);
    assert_eq!(divide(&tensors, 160), one_file(0..5));
    assert_eq!(divide(&[], 160), one_file(0..0));
}

#[test]
fn a_tensor_above_the_limit_is_alone_in_its_file() {
    let tensors = [
        spec("big", &[400]),
        spec("a", &[4]),
        spec("huge", &[400]),
        spec("b", &[4]),
    ];
    assert_eq!(divide(&tensors, 100), Ok(vec![0..1, 1..2, 2..3, 3..4]));
}

#[test]
fn more_files_than_a_u16_counts_are_refused() {
    let tensors = vec![spec("a", &[8]); 65_536];
    assert_eq!(divide(&tensors[1..], 1).unwrap().len(), 65_535);
    let error = ShardError::TooManyShards { count: 65_536 };
    assert_eq!(divide(&tensors, 1), Err(error.clone()));
    assert_eq!(shard_metadata(&Metadata::new(), 65_536, 1), Err(error));
}

#[test]
fn keys_have_the_types_and_order_of_gguf_split() {
    let mut metadata = Metadata::new();
    metadata.set(SPLIT_COUNT, 7u16); // left from an earlier split
    metadata.set("general.architecture", "llama");
    let parts = shard_metadata(&metadata, 2, 9).unwrap();
    let keys = |part: &Metadata| part.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>();
    let split = [SPLIT_NO, SPLIT_TENSORS, SPLIT_COUNT];
    assert_eq!(keys(&parts[0])[0], "general.architecture");
    assert_eq!(keys(&parts[0])[1..], split);
    assert_eq!(keys(&parts[1]), split);
    assert_eq!(parts[1].require::<u16>(SPLIT_NO), Ok(1));
    assert_eq!(parts[1].require::<u16>(SPLIT_COUNT), Ok(2));
    assert_eq!(parts[1].require::<i32>(SPLIT_TENSORS), Ok(9));
}

#[test]
fn names_are_made_and_recognised() {
    assert_eq!(
        shard_name("dir/model", 0, 3),
        "dir/model-00001-of-00003.gguf"
    );
    let name = ShardName::parse("my-of-model-00002-of-00003.gguf").unwrap();
    assert_eq!((name.prefix, name.no, name.count), ("my-of-model", 1, 3));
    assert_eq!(name.siblings()[2], "my-of-model-00003-of-00003.gguf");
    for other in [
        "model.gguf",
        "m-00000-of-00003.gguf",
        "m-00004-of-00003.gguf",
        "m-1-of-3.gguf",
        "m-+0001-of-00003.gguf",
        "-00001-of-00003.gguf",
        "m-00001-of-00003.safetensors",
        "m-00001-of-99999.gguf",
    ] {
        assert_eq!(ShardName::parse(other), None, "{other}");
    }
}

#[test]
fn files_in_any_order_make_one_model() {
    let files = three();
    let merged = merge(&[("3", &files[2]), ("1", &files[0]), ("2", &files[1])]).unwrap();
    assert_eq!(merged.parts, [1, 2, 0]);
    let found: Vec<_> = merged
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.file))
        .collect();
    assert_eq!(found, [("a", 1), ("b", 2), ("c", 0)]);
    assert_eq!(merged.tensors[0].range, files[0].tensors[0].range);
    let keys: Vec<_> = merged.metadata.iter().map(|(k, _)| k).collect();
    assert_eq!(keys, ["general.architecture"]);
}

#[test]
fn a_file_that_was_never_split_is_a_model() {
    let plain = parsed(&Metadata::new(), &[spec("a", &[4]), spec("b", &[4])]);
    assert_eq!(merge(&[("m.gguf", &plain)]).unwrap().tensors.len(), 2);
    // gguf-split --merge leaves the keys of the first part, with a count of 0.
    let mut metadata = shard_metadata(&Metadata::new(), 2, 2).unwrap().remove(0);
    metadata.set(SPLIT_COUNT, 0u16);
    let joined = parsed(&metadata, &[spec("a", &[4]), spec("b", &[4])]);
    assert_eq!(merge(&[("m.gguf", &joined)]).unwrap().tensors.len(), 2);
}

#[test]
fn incomplete_or_mixed_sets_are_refused() {
    let [one, two, three]: [Gguf; 3] = three().try_into().unwrap();
    assert_eq!(merge(&[]), Err(ShardError::NoFiles));
    let incomplete = merged(&[("1", &one), ("2", &two)]);
    assert!(
        incomplete.contains("a model of 3 files, but 2 were given"),
        "{incomplete}"
    );
    let twice = merged(&[("1", &one), ("2", &two), ("2b", &two)]);
    assert!(
        twice.contains("\"2\" and \"2b\" are both part 2"),
        "{twice}"
    );

    let with = |key: &str, value: u16, name: &str| {
        let mut metadata = three.metadata.clone();
        metadata.set(key, value);
        parsed(&metadata, &[spec(name, &[4])])
    };
    let set = |last: &Gguf| merged(&[("1", &one), ("2", &two), ("3", last)]);
    assert_eq!(set(&three), "merged");
    assert!(set(&with(SPLIT_NO, 3, "c")).contains("\"3\" says it is part 4 of 3"));
    assert!(set(&with(SPLIT_TENSORS, 4, "c")).contains("from different models"));
    assert!(set(&with(SPLIT_NO, 2, "a")).contains("\"a\" is in both \"1\" and \"3\""));
    let empty = parsed(&three.metadata, &[]);
    assert!(set(&empty).contains("hold 2 tensors, but the first says 3"));
    let mut unnumbered = three.metadata.clone();
    unnumbered.remove(SPLIT_NO);
    let unnumbered = parsed(&unnumbered, &[spec("c", &[4])]);
    assert!(set(&unnumbered).contains("key \"split.no\" is missing"));
    let mut text = three.metadata.clone();
    text.set(SPLIT_COUNT, "three");
    let text = parsed(&text, &[spec("c", &[4])]);
    assert!(set(&text).contains("file \"3\": key \"split.count\" has type string"));
}

proptest! {
    #[test]
    fn every_tensor_is_in_one_file_and_the_limit_holds(
        lengths in proptest::collection::vec(1u64..100, 0..40),
        max in 1u64..2000,
    ) {
        let dims: Vec<[u64; 1]> = lengths.iter().map(|&len| [len]).collect();
        let tensors: Vec<_> = dims.iter().map(|dims| spec("t", dims)).collect();
        let shards = divide(&tensors, max).unwrap();
        let mut next = 0;
        for shard in &shards {
            prop_assert_eq!(shard.start, next);
            next = shard.end;
            let size: u64 = lengths[shard.clone()].iter().map(|n| (n * 4).next_multiple_of(32)).sum();
            prop_assert!(size <= max || shard.len() == 1);
            prop_assert!(!shard.is_empty() || tensors.is_empty());
        }
        prop_assert_eq!(next, tensors.len());
    }
}
