//! Uses an opened model as the program would.

use std::collections::HashSet;

use llm_quantize_plugin_api::{AffineGroups, FileView, Reader};

/// Tensors of a model that are looked at.
const LOOKED_AT: usize = 64;
/// Numbers that are decoded at once.
const MAX_NUMBERS: u64 = 1 << 16;

/// Reads files and rows of an opened model. What there is must be an error or hold what the
/// interface promises.
pub fn look_at(reader: &dyn Reader, files: &[FileView<'_>]) {
    let model = reader.model();
    let names = model.files.iter().map(String::as_str);
    for name in names.chain(["config.json"]) {
        let _ = reader.file(files, name);
    }
    let mut names = HashSet::new();
    for (index, tensor) in model.tensors.iter().enumerate().take(LOOKED_AT) {
        assert!(names.insert(&tensor.name), "{} twice", tensor.name);
        if let Some((file, range)) = reader.stored(index) {
            let file = files.get(file).expect("a file that was given");
            assert!(range.start <= range.end && range.end <= file.bytes.len() as u64);
        }
        let Some(count) = tensor.rows() else { continue };
        let ends = [0..count.min(1), count.saturating_sub(1)..count];
        for rows in ends.into_iter().filter(|_| tensor.cols() <= MAX_NUMBERS) {
            let count = rows.end - rows.start;
            let mut row = vec![0.0; (count * tensor.cols()) as usize];
            let decoded = reader.decode(files, index, rows.clone(), &mut row);
            let groups = reader.groups(files, index, rows);
            if let (Ok(Some(groups)), false) = (groups, row.is_empty()) {
                assert!(decoded.is_ok(), "{}: {decoded:?}", tensor.name);
                check_groups(&groups, &row);
            }
        }
    }
}

/// The groups of a row are well-formed, and say what the row is decoded to.
fn check_groups(groups: &AffineGroups, row: &[f32]) {
    let count = groups.scales.len();
    let size = groups.group_size as usize;
    assert_eq!((groups.codes.len(), groups.zeros.len()), (row.len(), count));
    match &groups.permutation {
        None => assert_eq!(count * size, row.len()),
        Some(places) => assert_eq!(places.len(), row.len()),
    }
    for (column, (number, code)) in row.iter().zip(&groups.codes).enumerate() {
        assert_eq!(u32::from(*code) >> groups.bits, 0);
        let places = groups.permutation.as_ref();
        let group = places.map_or(column / size, |places| places[column] as usize);
        let expected = groups.scales[group] * (f32::from(*code) - groups.zeros[group]);
        assert!(expected == *number || expected.is_nan() && number.is_nan());
    }
}
