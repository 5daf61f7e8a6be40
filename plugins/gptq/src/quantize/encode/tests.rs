use std::sync::{Arc, Mutex};

use llm_quantize_plugin_api::testing::{TestModel, build, decode, views};
use llm_quantize_plugin_api::{
    Converter, CpuLevel, DecodeCall, HostServices, Inputs, ModelView, Quantizer, Statistic,
};

use super::*;
use crate::quantize::GptqQuantizer;
use crate::quantize::plan::tests::request;
use crate::read::GptqConverter;

/// A host that remembers what was said.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<(LogLevel, String)>>>);

impl HostServices for Listener {
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
    fn log(&self, level: LogLevel, message: &str) {
        self.0.lock().unwrap().push((level, message.to_owned()));
    }
    fn progress(&self, _: u64, _: u64) {}
    fn is_cancelled(&self) -> bool {
        false
    }
    fn cpu_level(&self) -> CpuLevel {
        CpuLevel::detect()
    }
}

impl Listener {
    fn warnings(&self) -> Vec<String> {
        let said = self.0.lock().unwrap();
        let warnings = said.iter().filter(|(level, _)| *level == LogLevel::Warning);
        warnings.map(|(_, line)| line.clone()).collect()
    }
}

const SITE: &str = "model.layers.0.self_attn.q_proj.weight";

fn enough(model: &mut TestModel, tokens: f32) {
    for site in model.model().sites.clone() {
        let name = model.model().tensors[site.layers[0]].name.clone();
        model.set_statistic(&name, Statistic::TokenCount, 1, vec![tokens]);
    }
}

#[test]
fn what_a_job_decodes_is_what_the_finished_folder_holds() {
    let mut model = TestModel::tiny_llama();
    enough(&mut model, 200.0);
    for options in [
        &[("sym", "false")][..],
        &[("format", "gptq_v2"), ("sym", "false")],
        &[("method", "rtn")],
    ] {
        let listener = Listener::default();
        let quantizer = GptqQuantizer::new(Host::new(listener.clone()));
        let (job, files) = build(&quantizer, &model, &request("3bit", options), 100, 0).unwrap();
        job.verify(&views(&files)).unwrap();
        assert_eq!(listener.warnings(), Vec::<String>::new());
        let files = views(&files);
        let converter = GptqConverter::new(Host::new(Listener::default()));
        let reader = converter.open(&files, ModelView::HuggingFace).unwrap();
        let plan = job.plan();
        let unit = plan
            .units
            .iter()
            .position(|unit| unit.split.is_none())
            .unwrap();
        let outputs: Vec<&[u8]> = plan.units[unit]
            .outputs
            .iter()
            .map(|span| &files[span.file].bytes[span.offset as usize..][..span.len as usize])
            .collect();
        for (input, tensor) in plan.units[unit].inputs.iter().enumerate() {
            let name = &model.model().tensors[tensor.tensor].name;
            let place = reader.model().tensor_index(name).unwrap();
            let (mut decoded, mut read) = (vec![0.0; 3 * 256], vec![0.0; 3 * 256]);
            reader.decode(&files, place, 5..8, &mut read).unwrap();
            job.decode(DecodeCall {
                unit,
                input,
                rows: 5..8,
                vectors: &[],
                outputs: &outputs,
                out: &mut decoded,
            })
            .unwrap();
            assert_eq!(decoded, read, "{name}");
            assert!(decoded.iter().any(|number| *number != 0.0));
        }
    }
}

/// Inputs of the first site that say enough.
fn measured() -> (Vec<f32>, f32) {
    let diagonal = |place| if place % 257 == 0 { 150.0 } else { 1.0 };
    ((0..256 * 256).map(diagonal).collect(), 150.0)
}

/// Encodes the first site alone, with a Gram matrix of some tokens; returns the report.
fn encode_first(
    model: &TestModel,
    host: Host,
    options: &[(&str, &str)],
    (gram, tokens): (Vec<f32>, f32),
) -> Result<EncodeReport> {
    let job = GptqQuantizer::new(host).plan(model, &request("4bit", options))?;
    let plan = job.plan();
    let unit = plan
        .units
        .iter()
        .position(|unit| unit.split.is_none())
        .unwrap();
    let views: Vec<TensorView<'_>> = plan.units[unit]
        .inputs
        .iter()
        .map(|input| model.view(input.tensor, None, false).unwrap())
        .collect();
    let mut buffers: Vec<Vec<u8>> = plan.units[unit]
        .outputs
        .iter()
        .map(|span| vec![0; span.len as usize])
        .collect();
    let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let tokens = [tokens];
    let statistics = [
        StatisticView {
            rows: 256,
            cols: 256,
            data: &gram,
        },
        StatisticView {
            rows: 1,
            cols: 1,
            data: &tokens,
        },
    ];
    job.encode(EncodeCall {
        unit,
        rows: 0..1,
        inputs: &views,
        statistics: &statistics,
        outputs: &mut outputs,
    })
}

fn figure(report: &EncodeReport, name: &str) -> Option<f64> {
    let subject = SITE.strip_suffix(".weight").unwrap();
    let mut measures = report.measures.iter();
    let found = measures.find(|m| m.subject == subject && m.name == name);
    found.map(|measure| measure.value)
}

#[test]
fn every_layer_is_reported() {
    let listener = Listener::default();
    let model = TestModel::tiny_llama();
    let host = Host::new(listener.clone());
    let report = encode_first(&model, host, &[("damping", "0.25")], measured()).unwrap();
    assert_eq!(figure(&report, "tokens"), Some(150.0));
    assert_eq!(figure(&report, "damping"), Some(0.25));
    let error = figure(&report, "relative_error").unwrap();
    assert!(error > 0.0 && error < 0.1, "{error}");
    assert!(figure(&report, "seconds").is_some() && figure(&report, "weight_error").is_none());
    let said = listener.0.lock().unwrap();
    assert_eq!(said.len(), 3);
    assert!(
        said[2]
            .1
            .starts_with("model.layers.0.self_attn.v_proj: tokens"),
        "{said:?}"
    );
}

#[test]
fn where_little_is_known_weights_are_rounded_to_the_nearest() {
    let (gram, tokens) = measured();
    for (known, what) in [
        ((gram, 0.9), "only 0 of 200 tokens"),
        ((vec![f32::NAN; 256 * 256], tokens), "not finite"),
    ] {
        let listener = Listener::default();
        let model = TestModel::tiny_llama();
        let host = Host::new(listener.clone());
        let report = encode_first(&model, host, &[], known).unwrap();
        let warnings = listener.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains(what), "{warnings:?}");
        assert!(figure(&report, "relative_error").is_none());
        assert!(figure(&report, "weight_error").unwrap() > 0.0);
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let full = TestModel::tiny_llama();
    for options in [&[][..], &[("method", "rtn")]] {
        let mut model = TestModel::default();
        model.set_config(full.model().config.clone());
        for (index, tensor) in full.model().tensors.iter().enumerate() {
            let mut bytes = full.tensor_bytes(index).to_vec();
            if tensor.name == SITE {
                // Row 1, column 2: infinity.
                bytes[2 * (256 + 2)..][..2].copy_from_slice(&[0x80, 0x7F]);
            }
            model.add_tensor(&tensor.name, "BF16", &tensor.shape, bytes);
        }
        model.set_sites(full.model().sites.clone());
        let host = Host::new(Listener::default());
        let error = encode_first(&model, host, options, measured()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::CorruptInput);
        assert!(
            error.message.contains("q_proj") && error.message.contains("row 1, column 2"),
            "{error}"
        );
    }
}

#[test]
fn damage_does_not_verify() {
    let mut model = TestModel::tiny_llama();
    enough(&mut model, 200.0);
    let quantizer = GptqQuantizer::new(Host::new(Listener::default()));
    let (job, files) = build(&quantizer, &model, &request("4bit", &[]), 100, 0).unwrap();
    let unit = job
        .plan()
        .units
        .iter()
        .find(|unit| unit.split.is_none())
        .unwrap();
    // Zeros of another value; a scale of zero; one that is no number.
    for (part, bytes, what) in [
        (1, [0x76, 0x77], "the zero of row 0, group 0 is 7"),
        (2, [0x00, 0x00], "the scale of row 0, group 0 is 0"),
        (2, [0x00, 0x7E], "is NaN"),
    ] {
        let mut damaged = files.clone();
        let span = unit.outputs[part];
        damaged[span.file].bytes[span.offset as usize..][..2].copy_from_slice(&bytes);
        let error = job.verify(&views(&damaged)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::VerificationFailed);
        assert!(error.message.contains(what), "{error}");
    }
    // Groups of inputs, and the configuration.
    for (name, find) in [
        ("model.safetensors", &[1u8, 0, 0, 0, 1, 0, 0, 0][..]),
        ("config.json", b"\"sym\": true"),
    ] {
        let mut damaged = files.clone();
        let file = damaged.iter_mut().find(|file| file.name == name).unwrap();
        let at = file
            .bytes
            .windows(find.len())
            .position(|window| window == find)
            .unwrap();
        file.bytes[at] ^= 1;
        assert!(job.verify(&views(&damaged)).is_err(), "{name}");
    }
}

/// The model as it comes out: norms as they are stored, and layers that lie behind them. What a
/// job decodes is for the original's norms.
#[test]
fn smoothed_layers_flow_on_as_the_folder_computes_them() {
    let mut model = TestModel::tiny_llama();
    enough(&mut model, 200.0);
    // A few inputs are ten times as large as the others: there factors help.
    let gram = |place: usize| match (place % 257, place / 257 % 16) {
        (0, 0) => 20_000.0,
        (0, _) => 200.0,
        _ => 0.0,
    };
    let gram: Vec<f32> = (0..256 * 256).map(gram).collect();
    model.set_statistic(SITE, Statistic::Gram, 256, gram.clone());
    let request = request("3bit", &[("smooth", "true")]);
    let quantizer = GptqQuantizer::new(Host::new(Listener::default()));
    let (job, files) = build(&quantizer, &model, &request, 100, 0).unwrap();
    job.verify(&views(&files)).unwrap();
    let views = views(&files);
    let converter = GptqConverter::new(Host::new(Listener::default()));
    let reader = converter.open(&views, ModelView::HuggingFace).unwrap();
    let stored = |name: &str, count: usize| {
        let mut numbers = vec![0.0; count];
        let place = reader.model().tensor_index(name).unwrap();
        let rows = (count / 256) as u64;
        reader.decode(&views, place, 0..rows, &mut numbers).unwrap();
        numbers
    };
    let norm = "model.layers.0.input_layernorm.weight";
    let (new_norm, weight) = (stored(norm, 256), stored(SITE, 256 * 256));
    let mut old_norm = vec![0.0; 256];
    let place = model.model().tensor_index(norm).unwrap();
    let view = model.view(place, None, false).unwrap();
    view.row_to_f32(0, &mut old_norm).unwrap();
    assert_ne!(new_norm, old_norm, "factors were folded");
    let flowing = job.plan().flowing_layers(model.model());
    let wanted = model.model().tensor_index(SITE).unwrap();
    let layer = flowing.into_iter().find(|layer| layer.tensor == wanted);
    let decoded = decode(&*job, &model, &files, layer.unwrap(), 0..256).unwrap();
    for (place, (decoded, weight)) in decoded.iter().zip(&weight).enumerate() {
        let exact = weight * new_norm[place % 256] / old_norm[place % 256];
        assert!((decoded - exact).abs() <= 1e-6 * exact.abs(), "{place}");
    }
    // And it was worth it.
    let errors = [&[][..], &[("smooth", "true")]].map(|options| {
        let host = Host::new(Listener::default());
        let report = encode_first(&model, host, options, (gram.clone(), 200.0)).unwrap();
        let smoothing = figure(&report, "smoothing");
        assert_eq!(smoothing.is_some(), !options.is_empty());
        figure(&report, "relative_error").unwrap()
    });
    assert!(errors[1] < errors[0], "{errors:?}");
}
