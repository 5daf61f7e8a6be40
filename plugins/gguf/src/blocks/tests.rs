//! Tests of the table and of the checks around the codecs.

use super::*;

#[test]
fn the_table_is_indexed_by_type_and_free_of_duplicates() {
    for (index, codec) in CODECS.iter().enumerate() {
        assert_eq!(codec.ty as usize, index);
        assert_eq!(BlockType::from_id(codec.layout.id), Ok(codec.ty));
    }
    let layouts = CODECS.iter().map(|c| &c.layout).chain(OTHER_TYPES);
    let mut ids: Vec<_> = layouts.clone().map(|l| l.id).collect();
    let mut names: Vec<_> = layouts.map(|l| l.name).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    names.sort_unstable();
    names.dedup();
    assert_eq!((ids.len(), names.len()), (count, count));
}

#[test]
fn names_are_found_in_any_case_and_refusals_name_the_type() {
    assert_eq!(BlockType::from_name("q8_0"), Ok(BlockType::Q8_0));
    assert_eq!(BlockType::from_name("BF16"), Ok(BlockType::BF16));
    let refused = BlockType::from_name("iq2_xs");
    assert_eq!(refused, Err(BlockError::Unsupported { name: "IQ2_XS" }));
    let message = refused.map_err(|e| e.to_string());
    assert!(message.is_err_and(|m| m.contains("IQ2_XS is not supported")));
    assert!(matches!(
        BlockType::from_name("Q9_K"),
        Err(BlockError::UnknownName { .. })
    ));
    assert_eq!(
        BlockType::from_id(17),
        Err(BlockError::Unsupported { name: "IQ2_XS" })
    );
    assert_eq!(BlockType::from_id(4), Err(BlockError::UnknownId { id: 4 }));
}

#[test]
fn row_bytes_are_whole_blocks_and_checked() {
    assert_eq!(BlockType::Q8_0.row_bytes(64), Some(68));
    assert_eq!(BlockType::Q8_0.row_bytes(0), Some(0));
    assert_eq!(BlockType::Q8_0.row_bytes(33), None);
    assert_eq!(BlockType::Q8_0.row_bytes(usize::MAX - 31), None);
    assert_eq!(BlockType::F32.row_bytes(usize::MAX), None);
    assert_eq!(TypeLayout::from_id(26).map(|l| l.name), Some("I32"));
    assert_eq!(BlockType::Q8_0.bits_per_weight(), 8.5);
}

#[test]
fn importance_changes_the_types_that_take_it() {
    let row: Vec<f32> = (0..256).map(|i| (i as f32 * 0.37).sin() * 1.3).collect();
    let importance: Vec<f32> = (0..256).map(|i| (i * i % 97) as f32).collect();
    for ty in BlockType::all() {
        let encoded = |importance: Option<&[f32]>| {
            let mut out = vec![0; ty.row_bytes(row.len()).unwrap()];
            encode_row(ty, &row, importance, &mut out).unwrap();
            out
        };
        let differs = encoded(None) != encoded(Some(&importance));
        assert_eq!(differs, ty.takes_importance(), "{ty}");
    }
}

#[test]
fn lengths_must_fit() {
    let ty = BlockType::Q8_0;
    let mut out = [0; 34];
    assert!(matches!(
        encode_row(ty, &[0.0; 33], None, &mut out),
        Err(BlockError::RowLength { len: 33, .. })
    ));
    assert!(matches!(
        encode_row(ty, &[0.0; 32], None, &mut out[..33]),
        Err(BlockError::ByteLength {
            expected: 34,
            actual: 33,
            ..
        })
    ));
    assert!(matches!(
        encode_row(ty, &[0.0; 32], Some(&[1.0; 31]), &mut out),
        Err(BlockError::ImportanceLength { .. })
    ));
    assert!(matches!(
        decode_row(ty, &out, &mut [0.0; 64]),
        Err(BlockError::ByteLength { expected: 68, .. })
    ));
    assert_eq!(encode_row(ty, &[], None, &mut []), Ok(()));
}

#[test]
fn weights_that_are_not_finite_are_refused_by_index() {
    for ty in BlockType::all() {
        let cols = 2 * ty.block_weights();
        let mut out = vec![0xaa; ty.row_bytes(cols).unwrap()];
        let untouched = out.clone();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = vec![1.0; cols];
            row[cols - 1] = bad;
            let refused = encode_row(ty, &row, None, &mut out);
            assert!(
                matches!(refused, Err(BlockError::NotFinite { index, .. }) if index == cols - 1),
                "{ty}: {refused:?}"
            );
            let refused = encode_row(ty, &vec![1.0; cols], Some(&row), &mut out);
            assert!(
                matches!(refused, Err(BlockError::ImportanceNotFinite { index, .. }) if index == cols - 1),
                "{ty}: {refused:?}"
            );
        }
        assert_eq!(out, untouched);
    }
}
