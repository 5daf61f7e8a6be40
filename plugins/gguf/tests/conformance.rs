//! What every plugin must do, and what only the whole plugin shows.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use llm_quantize_gguf::imatrix::{Collected, write};
use llm_quantize_gguf::quantize::GgufQuantizer;
use llm_quantize_gguf::read::GgufConverter;
use llm_quantize_plugin_api::testing::{TestModel, build, views};
use llm_quantize_plugin_api::{
    Converter, ErrorKind, Host, InlineHost, ModelView, PlanRequest, conformance,
};

fn quantizer() -> GgufQuantizer {
    GgufQuantizer::new(Host::new(InlineHost))
}

fn converter() -> GgufConverter {
    GgufConverter::new(Host::new(InlineHost))
}

fn request(level: &str, options: &[(&str, &str)]) -> PlanRequest {
    PlanRequest {
        format: "gguf".into(),
        level: level.into(),
        options: options
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect(),
        ..PlanRequest::default()
    }
}

#[test]
fn it_conforms() {
    let findings = conformance::check(Some(&quantizer()), Some(&converter()));
    assert!(findings.is_empty(), "{findings:#?}");
}

#[test]
fn a_plain_file_holds_the_model_bit_for_bit() {
    let model = TestModel::tiny_llama();
    let (_, files) = build(&quantizer(), &model, &request("bf16", &[]), 3, 0).unwrap();
    let files = views(&files);
    let reader = converter().open(&files, ModelView::HuggingFace).unwrap();
    use llm_quantize_plugin_api::Inputs;
    for (index, tensor) in model.model().tensors.iter().enumerate() {
        let place = reader.model().tensor_index(&tensor.name).unwrap();
        let (rows, cols) = (tensor.rows().unwrap(), tensor.cols() as usize);
        let mut back = vec![0.0f32; rows as usize * cols];
        reader.decode(&files, place, 0..rows, &mut back).unwrap();
        let view = model.view(index, None, false).unwrap();
        let mut row = vec![0.0; cols];
        for (number, decoded) in back.chunks(cols).enumerate() {
            view.row_to_f32(number, &mut row).unwrap();
            assert_eq!(row, decoded, "{} row {number}", tensor.name);
        }
    }
}

#[test]
fn the_native_view_gives_the_stored_bytes() {
    let model = TestModel::tiny_llama();
    let (_, files) = build(&quantizer(), &model, &request("Q8_0", &[]), 9, 0).unwrap();
    let files = views(&files);
    let reader = converter().open(&files, ModelView::Native).unwrap();
    for (index, tensor) in reader.model().tensors.iter().enumerate() {
        let (file, range) = reader.stored(index).unwrap();
        assert_eq!(range.end - range.start, tensor.bytes);
        assert!(range.end <= files[file].bytes.len() as u64);
    }
    let query = reader.model().tensor_index("blk.0.attn_q.weight").unwrap();
    assert_eq!(reader.model().tensors[query].dtype, "Q8_0");
}

#[test]
fn shards_hold_every_tensor_once() {
    let model = TestModel::tiny_llama();
    let split = request("F16", &[("split-max-size", "500K")]);
    let (job, files) = build(&quantizer(), &model, &split, 9, 0).unwrap();
    assert!(files.len() > 2, "{}", files.len());
    assert_eq!(
        files[0].name,
        format!("tiny-llama-test-F16-00001-of-{:05}.gguf", files.len())
    );
    let reader = converter().open(&views(&files), ModelView::Native).unwrap();
    assert_eq!(reader.model().tensors.len(), job.plan().tensors.len());
}

#[test]
fn wishes_change_types() {
    let model = TestModel::tiny_llama();
    let wishes = [
        ("output-tensor-type", "q8_0"),
        ("token-embedding-type", "f16"),
        ("tensor-type", r"blk\.0\.ffn_up=q5_1"),
    ];
    let (job, _) = build(&quantizer(), &model, &request("Q4_K_S", &wishes), 9, 0).unwrap();
    let ty = |name: &str| {
        let found = job.plan().tensors.iter().find(|t| t.name == name);
        found.unwrap().dtype.clone()
    };
    assert_eq!(ty("output.weight"), "Q8_0");
    assert_eq!(ty("token_embd.weight"), "F16");
    assert_eq!(ty("blk.0.ffn_up.weight"), "Q5_1");
    assert_eq!(ty("blk.1.ffn_up.weight"), "Q4_K");
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let mut model = TestModel::tiny_llama();
    model.add_attachment("imatrix", b"GGUF of something else".to_vec());
    let error = build(&quantizer(), &model, &request("Q4_K_M", &[]), 9, 0)
        .err()
        .unwrap();
    assert_eq!(error.kind, ErrorKind::ImportanceMatrix);
}

/// An importance matrix with growing weights for these tensors of 256 columns.
fn matrix(tensors: &[&str], columns: usize) -> Vec<u8> {
    let sums: Vec<f32> = (1..=columns)
        .map(|column| (column * column) as f32)
        .collect();
    let entries: Vec<Collected<'_>> = tensors
        .iter()
        .map(|name| Collected {
            name,
            sums: &sums,
            counts: &[7],
        })
        .collect();
    write(&entries, &["text.txt"], 3, 512).unwrap()
}

#[test]
fn an_importance_matrix_changes_the_tensors_that_it_covers() {
    let query = "blk.0.attn_q.weight";
    let plain = TestModel::tiny_llama();
    let mut weighted = plain.clone();
    weighted.add_attachment("imatrix", matrix(&[query], 256));
    let request = request("Q4_K_S", &[]);
    let (job, without) = build(&quantizer(), &plain, &request, 9, 0).unwrap();
    let (with_job, with) = build(&quantizer(), &weighted, &request, 9, 0).unwrap();
    assert!(job.plan().warnings.is_empty(), "{:?}", job.plan().warnings);
    let warning = with_job.plan().warnings.join("\n");
    assert!(warning.contains("blk.0.attn_k.weight"), "{warning}");
    let stored = |files: &[llm_quantize_plugin_api::FileView<'_>], name: &str| {
        let reader = converter().open(files, ModelView::Native).unwrap();
        let (_, range) = reader
            .stored(reader.model().tensor_index(name).unwrap())
            .unwrap();
        files[0].bytes[range.start as usize..range.end as usize].to_vec()
    };
    let (without, with) = (views(&without), views(&with));
    assert_ne!(stored(&without, query), stored(&with, query));
    let key = "blk.0.attn_k.weight";
    assert_eq!(stored(&without, key), stored(&with, key));
    let facts = converter().open(&with, ModelView::Native).unwrap();
    let facts = &facts.model().facts;
    assert!(
        facts.contains(&("imatrix".into(), "imatrix".into())),
        "{facts:?}"
    );
}

#[test]
fn an_importance_matrix_must_fit_the_model() {
    for (tensors, columns, because) in [
        (&["blk.9.attn_q.weight"][..], 256, "covers none"),
        (&["blk.0.attn_q.weight"][..], 128, "another model"),
    ] {
        let mut model = TestModel::tiny_llama();
        model.add_attachment("imatrix", matrix(tensors, columns));
        let error = build(&quantizer(), &model, &request("Q4_0", &[]), 9, 0)
            .err()
            .unwrap();
        assert_eq!(error.kind, ErrorKind::ImportanceMatrix);
        assert!(error.message.contains(because), "{error}");
    }
}

#[test]
fn a_level_of_very_few_bits_needs_importance_weights_for_every_tensor() {
    let refusal = |model: &TestModel| {
        let error = build(&quantizer(), model, &request("Q2_K_S", &[]), 9, 0).err();
        let error = error.unwrap();
        assert_eq!(error.kind, ErrorKind::ImportanceMatrix);
        error.message
    };
    let mut model = TestModel::tiny_llama();
    let message = refusal(&model);
    assert!(message.contains("needs an importance matrix"), "{message}");
    model.add_attachment("imatrix", matrix(&["blk.0.attn_k.weight"], 256));
    let message = refusal(&model);
    assert!(
        message.contains("needs importance weights for the tensor \"blk.0.attn_output.weight\""),
        "{message}"
    );
}
