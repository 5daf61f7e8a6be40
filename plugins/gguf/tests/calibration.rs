//! Statistics of a calibration run: as an importance matrix's file, and used in one go.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use llm_quantize_gguf::imatrix::{Collected, Imatrix, write};
use llm_quantize_gguf::quantize::GgufQuantizer;
use llm_quantize_gguf::read::GgufConverter;
use llm_quantize_plugin_api::testing::{BuiltFile, TestModel, build, views};
use llm_quantize_plugin_api::{
    CalibrationText, Converter, EncodeCall, Error, ErrorKind, Flow, Grain, Host, InlineHost,
    Inputs, Job, ModelView, Plan, PlanRequest, Quantizer, Reader, Statistic, StatisticView,
    TensorView,
};

const COUNT: u64 = 3 * 128;

fn quantizer() -> GgufQuantizer {
    GgufQuantizer::new(Host::new(InlineHost))
}

fn text() -> CalibrationText {
    CalibrationText {
        dataset: "text.txt".into(),
        samples: 3,
        length: 128,
        fingerprint: "f".into(),
    }
}

fn request(format: &str, level: &str, options: &[(&str, &str)]) -> PlanRequest {
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    PlanRequest {
        format: format.into(),
        level: level.into(),
        options: options.iter().map(owned).collect(),
        calibration: Some(text()),
        ..PlanRequest::default()
    }
}

/// GGUF and Hugging Face names of the test model's linear layers, in the order of the former.
fn layers() -> Vec<(String, String)> {
    const PARTS: [(&str, &str); 7] = [
        ("attn_k", "self_attn.k_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
    ];
    let name = |layer: usize| {
        PARTS.map(|(gguf, hf)| {
            let hf = format!("model.layers.{layer}.{hf}.weight");
            (format!("blk.{layer}.{gguf}.weight"), hf)
        })
    };
    (0..2).flat_map(name).collect()
}

/// Sums of squares with a heavy tail, other ones for each layer.
fn sums(seed: usize, columns: usize) -> Vec<f32> {
    let sum = |column: usize| ((column * 37 + seed * 11) % 101) as f32;
    (0..columns)
        .map(|column| sum(column).powi(3) * 0.01)
        .collect()
}

/// The test model, with those sums; and what a file of them has.
fn measured() -> (TestModel, Vec<u8>) {
    let mut model = TestModel::tiny_llama();
    let file = file(&mut model, &layers());
    (model, file)
}

/// Sets the statistics of these layers, and writes them to an importance matrix.
fn file(model: &mut TestModel, layers: &[(String, String)]) -> Vec<u8> {
    let columns = |name: &str| if name.contains("ffn_down") { 512 } else { 256 };
    let all: Vec<Vec<f32>> = layers
        .iter()
        .enumerate()
        .map(|(seed, (name, _))| sums(seed, columns(name)))
        .collect();
    for ((_, site), sums) in layers.iter().zip(&all) {
        model.set_statistic(site, Statistic::SquareSum, 1, sums.clone());
        model.set_statistic(site, Statistic::TokenCount, 1, vec![COUNT as f32]);
    }
    let entries: Vec<Collected<'_>> = layers
        .iter()
        .zip(&all)
        .map(|((name, _), sums)| Collected {
            name,
            sums,
            counts: &[COUNT],
        })
        .collect();
    write(&entries, &["text.txt"], 3, 128).unwrap()
}

fn built(model: &TestModel, request: &PlanRequest) -> (Box<dyn Job>, Vec<BuiltFile>) {
    build(&quantizer(), model, request, 5, 0xAA).unwrap()
}

fn refused(model: &TestModel, request: &PlanRequest) -> Error {
    quantizer().plan(model, request).err().unwrap()
}

fn open(files: &[BuiltFile]) -> Box<dyn Reader> {
    let converter = GgufConverter::new(Host::new(InlineHost));
    converter.open(&views(files), ModelView::Native).unwrap()
}

/// Names, types and bytes of all tensors.
fn tensors(files: &[BuiltFile]) -> Vec<(String, String, Vec<u8>)> {
    let reader = open(files);
    let model = reader.model();
    let stored = |index: usize| {
        let (file, range) = reader.stored(index).unwrap();
        files[file].bytes[range.start as usize..range.end as usize].to_vec()
    };
    let described = model.tensors.iter().enumerate();
    described
        .map(|(index, tensor)| (tensor.name.clone(), tensor.dtype.clone(), stored(index)))
        .collect()
}

/// Labels of the units that ask for statistics.
fn asking(plan: &Plan) -> Vec<&str> {
    let units = plan.units.iter().filter(|unit| !unit.statistics.is_empty());
    units.map(|unit| unit.label.as_str()).collect()
}

fn with_matrix(mut model: TestModel, matrix: &[u8]) -> TestModel {
    model.add_attachment("imatrix", matrix.to_vec());
    model
}

fn uncalibrated(request: &PlanRequest) -> PlanRequest {
    PlanRequest {
        calibration: None,
        ..request.clone()
    }
}

#[test]
fn the_file_is_the_one_that_the_writer_makes() {
    let (model, file) = measured();
    let (job, files) = built(&model, &request("imatrix", "imatrix", &[]));
    assert_eq!(files[0].name, "tiny-llama-test-imatrix.gguf");
    assert!(files[0].bytes == file);
    job.verify(&views(&files)).unwrap();
    let plan = job.plan();
    assert!(
        plan.units
            .iter()
            .all(|u| u.inputs.is_empty() && u.layer.is_some())
    );
    let calibration = plan.calibration.as_ref().unwrap();
    assert_eq!(
        (calibration.grain, calibration.flow),
        (Grain::Block, Flow::Original)
    );
    let first = &plan.units[0];
    assert_eq!(first.label, "blk.0.attn_k.weight");
    assert!(
        first
            .statistics
            .iter()
            .all(|s| s.site == "model.layers.0.self_attn.k_proj.weight")
    );
}

#[test]
fn one_go_gives_the_tensors_that_the_file_gives() {
    let (model, file) = measured();
    let plain = TestModel::tiny_llama();
    for level in ["Q4_K_M", "Q4_0", "IQ4_NL", "Q2_K_S"] {
        let request = request("gguf", level, &[]);
        let (job, once) = built(&model, &request);
        let by_file = with_matrix(plain.clone(), &file);
        let (_, by_file) = built(&by_file, &uncalibrated(&request));
        assert!(tensors(&once) == tensors(&by_file), "{level}");
        let linear: Vec<String> = layers().into_iter().map(|(name, _)| name).collect();
        assert_eq!(asking(job.plan()), linear, "{level}");
        job.verify(&views(&once)).unwrap();
    }
    let request = request("gguf", "Q4_K_M", &[]);
    let (_, once) = built(&model, &request);
    let (_, without) = built(&plain, &uncalibrated(&request));
    assert!(tensors(&once) != tensors(&without));
}

#[test]
fn a_column_that_no_token_reached_has_the_weight_of_the_file() {
    let layers = &layers()[..1];
    let mut model = TestModel::tiny_llama();
    file(&mut model, layers);
    let (name, site) = &layers[0];
    model.set_statistic(site, Statistic::TokenCount, 1, vec![0.0]);
    let unseen = Collected {
        name,
        sums: &sums(0, 256),
        counts: &[0],
    };
    let matrix = write(&[unseen], &["text.txt"], 3, 128).unwrap();
    let request = request("gguf", "Q4_K_S", &[]);
    let (_, once) = built(&model, &request);
    let by_file = with_matrix(TestModel::tiny_llama(), &matrix);
    let (_, by_file) = built(&by_file, &uncalibrated(&request));
    let tensor = |files: &[BuiltFile]| tensors(files).into_iter().find(|t| t.0 == *name).unwrap();
    assert!(tensor(&once) == tensor(&by_file));
}

#[test]
fn the_measurement_is_recorded_but_no_file() {
    let (model, file) = measured();
    let recorded = |files: &[BuiltFile]| {
        let gguf = llm_quantize_gguf::container::Gguf::parse(&files[0].bytes).unwrap();
        let entries = gguf.metadata.iter();
        let ours = entries.filter(|(key, _)| key.starts_with("quantize."));
        ours.map(|(key, value)| (key.to_owned(), value.clone()))
            .collect::<Vec<_>>()
    };
    let request = request("gguf", "Q4_K_M", &[]);
    let once = recorded(&built(&model, &request).1);
    let by_file = with_matrix(TestModel::tiny_llama(), &file);
    let by_file = recorded(&built(&by_file, &uncalibrated(&request)).1);
    assert_eq!(by_file[0].0, "quantize.imatrix.file");
    assert_eq!(once, by_file[1..]);
    assert_eq!(once.len(), 3);
}

#[test]
fn types_without_use_for_importance_ask_for_nothing() {
    let (model, _) = measured();
    for level in ["F16", "Q8_0", "MXFP4_MOE"] {
        let job = quantizer()
            .plan(&model, &request("gguf", level, &[]))
            .unwrap();
        assert!(job.plan().calibration.is_none(), "{level}");
        assert!(asking(job.plan()).is_empty(), "{level}");
    }
    let wishes = [("tensor-type", "attn_k=q4_0"), ("tensor-type", "ffn=bf16")];
    let job = quantizer()
        .plan(&model, &request("gguf", "Q8_0", &wishes))
        .unwrap();
    assert_eq!(
        asking(job.plan()),
        ["blk.0.attn_k.weight", "blk.1.attn_k.weight"]
    );
    assert!(job.plan().calibration.is_some());
}

#[test]
fn a_matrix_and_a_text_are_too_much() {
    let (model, file) = measured();
    let error = refused(&with_matrix(model, &file), &request("gguf", "Q4_0", &[]));
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
    assert!(error.suggestion.unwrap().contains("leave out one"));
}

#[test]
fn what_a_calibration_does_not_measure_is_told_apart() {
    // Without layers' statistics, the level's error names both ways to get them.
    let plain = TestModel::tiny_llama();
    let error = refused(&plain, &uncalibrated(&request("gguf", "Q2_K_S", &[])));
    let suggestion = error.suggestion.unwrap();
    assert!(suggestion.contains("llm-quantize analyze"), "{suggestion}");
    assert!(suggestion.contains("--calibration-data"), "{suggestion}");
}

/// The test model as a GGUF file of a level, seen as itself.
fn native(level: &str) -> TestModel {
    let plain = uncalibrated(&request("gguf", level, &[]));
    let (_, files) = built(&TestModel::tiny_llama(), &plain);
    TestModel::of_reader(&*open(&files), &views(&files)).unwrap()
}

#[test]
fn gguf_sources_are_measured_under_their_hugging_face_names() {
    let mut model = native("BF16");
    let file = file(&mut model, &layers());
    let (_, analysis) = built(&model, &request("imatrix", "imatrix", &[]));
    assert!(analysis[0].bytes == file);
    let request = request("gguf", "Q4_K_M", &[]);
    let (_, once) = built(&model, &request);
    let by_file = with_matrix(native("BF16"), &file);
    let (_, by_file) = built(&by_file, &uncalibrated(&request));
    assert!(tensors(&once) == tensors(&by_file));
}

#[test]
fn weights_that_are_copied_ask_for_nothing() {
    let model = native("Q4_0");
    let wishes = [("pure", "true"), ("allow-requantize", "true")];
    let job = quantizer()
        .plan(&model, &request("gguf", "Q4_0", &wishes))
        .unwrap();
    assert!(job.plan().calibration.is_none());
}

#[test]
fn a_gguf_file_seen_as_a_hugging_face_model_is_measured_too() {
    let plain = uncalibrated(&request("gguf", "Q8_0", &[]));
    let (_, files) = built(&TestModel::tiny_llama(), &plain);
    let converter = GgufConverter::new(Host::new(InlineHost));
    let reader = converter
        .open(&views(&files), ModelView::HuggingFace)
        .unwrap();
    let mut model = TestModel::of_reader(&*reader, &views(&files)).unwrap();
    let file = file(&mut model, &layers());
    let (_, analysis) = built(&model, &request("imatrix", "imatrix", &[]));
    assert!(analysis[0].bytes == file);
}

#[test]
fn the_output_is_measured_if_asked_for() {
    let mut layers = layers();
    layers.push(("output.weight".into(), "lm_head.weight".into()));
    let mut model = TestModel::tiny_llama();
    let file = file(&mut model, &layers);
    let mut request = request("imatrix", "IMATRIX", &[("process-output", "true")]);
    request.output_name = Some("mine.dat".into());
    let (job, files) = built(&model, &request);
    assert!(files[0].bytes == file);
    assert_eq!(files[0].name, "mine.dat");
    assert!(job.plan().warnings.is_empty());

    let mut tied = TestModel::default();
    let untied = TestModel::tiny_llama();
    for (index, tensor) in untied.model().tensors.iter().enumerate() {
        if tensor.name != "lm_head.weight" {
            let bytes = untied.tensor_bytes(index).to_vec();
            tied.add_tensor(&tensor.name, &tensor.dtype, &tensor.shape, bytes);
        }
    }
    let mut config = untied.model().config.clone();
    config["tie_word_embeddings"] = true.into();
    tied.set_config(config);
    let job = quantizer().plan(&tied, &request).unwrap();
    assert_eq!(job.plan().units.len(), layers.len() - 1);
    assert!(job.plan().warnings[0].contains("no output.weight of its own"));
}

#[test]
fn without_a_text_there_is_no_analysis() {
    let (model, _) = measured();
    let error = refused(&model, &uncalibrated(&request("imatrix", "imatrix", &[])));
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
    let error = refused(&model, &request("imatrices", "imatrix", &[]));
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
}

/// What a unit says to statistics of these numbers; `None` leaves one out.
fn encoded(request: &PlanRequest, label: &str, sums: &[f32], count: Option<f32>) -> Error {
    let model = TestModel::tiny_llama();
    let job = quantizer().plan(&model, request).unwrap();
    let place = job.plan().units.iter().position(|unit| unit.label == label);
    let unit = &job.plan().units[place.unwrap()];
    let inputs: Vec<TensorView<'_>> = unit
        .inputs
        .iter()
        .map(|input| model.view(input.tensor, None, input.raw).unwrap())
        .collect();
    let mut buffers: Vec<Vec<u8>> = unit
        .outputs
        .iter()
        .map(|s| vec![0; s.len as usize])
        .collect();
    let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let view = |data| StatisticView {
        rows: 1,
        cols: <[f32]>::len(data),
        data,
    };
    let count: Vec<f32> = count.into_iter().collect();
    let both = [view(sums), view(&count)];
    let call = EncodeCall {
        unit: place.unwrap(),
        rows: 0..unit.split.map_or(1, |split| split.rows),
        inputs: &inputs,
        statistics: if count.is_empty() { &both[..1] } else { &both },
        outputs: &mut outputs,
    };
    job.encode(call).err().unwrap()
}

#[test]
fn statistics_that_do_not_fit_are_errors() {
    for request in [
        request("gguf", "Q4_K_M", &[]),
        request("imatrix", "imatrix", &[]),
    ] {
        let fail = |sums: &[f32], count| encoded(&request, "blk.0.ffn_down.weight", sums, count);
        let error = fail(&[1.0; 512], None);
        assert!(
            error.message.contains("1 calibration statistics"),
            "{error}"
        );
        let error = fail(&[1.0; 256], Some(1.0));
        assert!(
            error.message.contains("256 numbers instead of 512"),
            "{error}"
        );
        let mut sums = [1.0; 512];
        sums[9] = f32::NAN;
        let error = fail(&sums, Some(1.0));
        assert_eq!(error.kind, ErrorKind::CorruptInput);
        assert!(error.message.contains("column 9"), "{error}");
    }
}

#[test]
fn an_analysis_that_is_damaged_does_not_verify() {
    let (model, _) = measured();
    let (job, files) = built(&model, &request("imatrix", "imatrix", &[]));
    let file = Imatrix::parse(&files[0].bytes).unwrap();
    assert_eq!(file.len(), 14);
    let span = job.plan().units[3].outputs[0];
    let mut damaged = files.clone();
    damaged[0].bytes[span.offset as usize..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = job.verify(&views(&damaged)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::VerificationFailed);
    assert!(error.message.contains("blk.0.attn_v.weight"), "{error}");
}
