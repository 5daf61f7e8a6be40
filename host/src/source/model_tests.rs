use super::*;
use crate::job::TensorSource;
use crate::source::fixtures::{Tensor, write_llama, write_safetensors};
use crate::source::test_plugin::converters;

fn folder() -> (tempfile::TempDir, SourceModel) {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path());
    let model = open(folder.path());
    (folder, model)
}

fn open(path: &Path) -> SourceModel {
    SourceModel::open(
        path.to_str().unwrap(),
        &converters(),
        ModelView::HuggingFace,
    )
    .unwrap()
}

fn text(view: ModelView) -> (tempfile::TempDir, SourceModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.text");
    std::fs::write(&path, "TEXT 1234").unwrap();
    let model = SourceModel::open(path.to_str().unwrap(), &converters(), view).unwrap();
    (folder, model)
}

#[test]
fn a_folder_is_described() {
    let (_keep, model) = folder();
    assert_eq!(model.model().format, "hf");
    assert_eq!(model.model().tensors.len(), 5);
    assert_eq!(model.model().files, ["config.json", "tokenizer.json"]);
    assert_eq!(model.num_layers(), 2);
    assert_eq!(model.original_dtype(), "bfloat16");
    assert_eq!(model.total_bytes(), 2 * (32 + 2 * 16) + 4 * 8);
    assert!(model.file_bytes() > model.total_bytes());
    assert!(model.file("tokenizer.json").unwrap().is_some());
    assert!(model.file("nothing.json").unwrap().is_none());
    // The config is kept as it is, whatever its spelling.
    assert_eq!(
        model.model().config["rope_parameters"]["rope_type"],
        "default"
    );
}

#[test]
fn rows_are_views_of_the_file() {
    let (_keep, model) = folder();
    let norm = model
        .model()
        .tensor_index("model.layers.1.input_layernorm.weight")
        .unwrap();
    let view = model.rows(norm, 0..1).unwrap().unwrap();
    assert_eq!((view.rows(), view.cols()), (1, 4));
    let mut numbers = [0.0; 4];
    model.decode_rows(norm, 0..1, &mut numbers).unwrap();
    assert_eq!(numbers, [1.0; 4]);
    assert_eq!(model.stored(0, 2..4).unwrap().len(), 2 * 4 * 2);
    model.prefetch(0, 0..8);
    model.release();
    assert_eq!(model.rows(0, 0..8).unwrap().unwrap().bytes(), [0; 64]);
}

#[test]
fn rows_start_where_they_should() {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path());
    let numbers: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let tensors = [
        Tensor::bf16_zeros("pad", &[3]),
        Tensor::f32("x", &[3, 2], &numbers),
    ];
    write_safetensors(&folder.path().join("model.safetensors"), &tensors);
    let model = open(folder.path());
    let mut out = [0.0; 4];
    model.decode_rows(1, 1..3, &mut out).unwrap();
    assert_eq!(out, [2.0, 3.0, 4.0, 5.0]);
    assert_eq!(
        model.stored(1, 1..2).unwrap(),
        [2.0f32.to_le_bytes(), 3.0f32.to_le_bytes()].concat()
    );
}

#[test]
fn what_is_not_there_cannot_be_read() {
    let (_keep, model) = folder();
    assert!(model.rows(0, 0..9).is_err());
    #[expect(clippy::reversed_empty_ranges)]
    let backwards = 3..2;
    assert!(model.rows(0, backwards).is_err());
    assert!(model.rows(99, 0..1).is_err());
    assert!(model.decode_rows(0, 0..2, &mut [0.0; 7]).is_err());
    model.prefetch(99, 0..1);
}

#[test]
fn types_that_are_no_small_floats_are_refused_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    write_llama(folder.path());
    let tensor = Tensor::raw("ids", "I64", &[2], vec![0; 16]);
    write_safetensors(&folder.path().join("model.safetensors"), &[tensor]);
    let model = open(folder.path());
    let error = model.rows(0, 0..1).unwrap_err();
    assert_eq!(error.class, ExitCode::UnsupportedConversion);
    assert!(error.message.contains("\"ids\" is stored as I64"));
    assert!(model.check_readable(0).is_err());
}

#[test]
fn a_plugins_model_is_decoded_by_it() {
    let (_keep, model) = text(ModelView::HuggingFace);
    assert_eq!(
        (model.plugin(), model.model().name.as_str()),
        (Some("text"), "m")
    );
    assert!(model.rows(0, 0..2).unwrap().is_none());
    let mut out = [0.0; 2];
    model.decode_rows(0, 1..2, &mut out).unwrap();
    assert_eq!(out, [3.0, 4.0]);
    let first = model.file("vocab.txt").unwrap().unwrap();
    let second = model.file("vocab.txt").unwrap().unwrap();
    assert!(std::ptr::eq(first, second), "it is rebuilt once");
    assert!(model.file("m.text").unwrap().is_none());
    let mut buffer = Vec::new();
    let view = TensorSource::rows(&model, 0, 0..2, &mut buffer).unwrap();
    assert_eq!(
        (view.rows(), view.cols(), view.element()),
        (2, 2, ElementType::F32)
    );
    let mut row = [0.0; 2];
    view.row_to_f32(1, &mut row).unwrap();
    assert_eq!(row, [3.0, 4.0]);
    let error = model.stored(0, 0..1).unwrap_err();
    assert_eq!(error.class, ExitCode::UnsupportedConversion);
    model.prefetch(0, 0..1);
    model.release();
}

#[test]
fn a_native_view_has_the_file_itself_and_its_bytes() {
    let (_keep, model) = text(ModelView::Native);
    assert_eq!(model.file("m.text").unwrap(), Some(&b"TEXT 1234"[..]));
    assert_eq!(model.stored(0, 1..2).unwrap(), b"34");
    assert_eq!(model.original_dtype(), "digit");
    assert_eq!(model.num_layers(), 1);
}

#[test]
fn attachments_are_found_by_kind() {
    let (keep, mut model) = folder();
    let path = keep.path().join("m.dat");
    let error = model.attach("imatrix", &path).unwrap_err();
    assert_eq!(error.class, ExitCode::ImportanceMatrix);
    std::fs::write(&path, "abc").unwrap();
    model.attach("imatrix", &path).unwrap();
    assert_eq!(model.attachment("imatrix").unwrap().bytes, b"abc");
    assert!(model.attachment("other").is_none());
}

#[test]
fn a_plugins_error_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.text");
    std::fs::write(&path, "TEXT 123").unwrap();
    let opened = SourceModel::open(path.to_str().unwrap(), &converters(), ModelView::Native);
    let error = opened.unwrap_err();
    assert_eq!(error.class, ExitCode::Validation);
    let message = error.message;
    assert!(
        message.contains("odd.text") && message.contains("plugin \"text\""),
        "{message}"
    );
}

#[test]
fn a_source_that_somebody_writes_to_is_refused() {
    for name in ["model.safetensors", "tokenizer.json"] {
        let (keep, model) = folder();
        model.check_unchanged().unwrap();
        let path = keep.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.push(b' ');
        std::fs::write(&path, bytes).unwrap();
        let error = model.check_unchanged().unwrap_err();
        assert_eq!(error.class, ExitCode::Validation);
        assert!(error.message.contains(name), "{error}");
    }
    let (keep, model) = text(ModelView::Native);
    std::fs::write(keep.path().join("m.text"), "TEXT 12345").unwrap();
    assert!(model.check_unchanged().is_err());
}

#[test]
fn a_model_that_can_be_run_has_sites() {
    // Without most of its tensors it cannot.
    assert!(folder().1.model().sites.is_empty());
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-llama");
    let model = SourceModel::open(tiny, &[], ModelView::HuggingFace).unwrap();
    let sites = &model.model().sites;
    assert_eq!(sites.len() as u64, 4 * model.num_layers() + 1);
    assert!(sites.iter().all(|site| !site.layers.is_empty()));
}
