//! The search over a block: what it reports, refuses, and does when it is told to stop.

use std::sync::atomic::{AtomicUsize, Ordering};

use llm_quantize_plugin_api::{CpuLevel, HostServices, Statistic};

use super::folding::{Numbers, Weights, model, statistics};
use super::*;
use crate::quantize::plan::tests::request;

/// A host that is told to stop once it has been asked so many times whether it was.
struct Impatient {
    answers: AtomicUsize,
}

impl HostServices for Impatient {
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }
    fn log(&self, _: LogLevel, _: &str) {}
    fn progress(&self, _: u64, _: u64) {}
    fn is_cancelled(&self) -> bool {
        let left = |answers: usize| answers.checked_sub(1);
        let answer = self
            .answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        answer.is_err()
    }
    fn cpu_level(&self) -> CpuLevel {
        CpuLevel::detect()
    }
}

/// What a block is encoded with.
struct Call {
    model: TestModel,
    options: Vec<(&'static str, &'static str)>,
    statistics: Vec<Numbers>,
}

impl Call {
    /// The first block of the small model, with statistics of one token for each channel.
    fn new(model: TestModel, options: &[(&'static str, &'static str)]) -> Self {
        let statistics = [256, 256, 256, 512].into_iter().flat_map(|inputs| {
            let gram = (0..inputs * inputs).map(|at| f32::from(at % (inputs + 1) == 0));
            [(inputs, gram.collect()), (1, vec![1.0; inputs])]
        });
        Self {
            model,
            options: options.to_vec(),
            statistics: statistics.collect(),
        }
    }

    fn encode(&self, host: Host) -> Result<EncodeReport> {
        let job = AwqQuantizer::new(host).plan(&self.model, &request(&self.options))?;
        let units = &job.plan().units;
        let unit = units.iter().position(|unit| unit.split.is_none()).unwrap();
        let inputs = units[unit].inputs.iter();
        let inputs = inputs.map(|input| self.model.view(input.tensor, None, false).unwrap());
        let inputs: Vec<TensorView<'_>> = inputs.collect();
        let outputs = units[unit].outputs.iter();
        let mut buffers: Vec<Vec<u8>> = outputs.map(|span| vec![0; span.len as usize]).collect();
        let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        let statistics = self.statistics.iter();
        let statistics = statistics.map(|(rows, data)| StatisticView {
            rows: *rows,
            cols: data.len() / rows,
            data,
        });
        let statistics: Vec<StatisticView<'_>> = statistics.collect();
        job.encode(EncodeCall {
            unit,
            rows: 0..1,
            inputs: &inputs,
            statistics: &statistics,
            outputs: &mut outputs,
        })
    }
}

fn host() -> Host {
    Host::new(InlineHost)
}

/// A figure of a report, one for each layer.
fn figures(report: &EncodeReport, name: &str) -> Vec<f64> {
    let measures = report.measures.iter().filter(|m| m.name == name);
    measures.map(|measure| measure.value).collect()
}

/// Nothing is worse than without factors, and what the search has promised for a site is what its
/// layers lose in the end.
#[test]
fn what_is_found_is_what_is_stored() {
    let sites = [256, 256, 256, 512].into_iter().zip(1..);
    let call = Call {
        model: model(Weights::Usual, true),
        options: vec![("clip", "false"), ("grid", "4")],
        statistics: sites.flat_map(|(k, seed)| statistics(k, seed)).collect(),
    };
    let report = call.encode(host()).unwrap();
    let found = figures(&report, "site_error");
    let before = figures(&report, "site_error_rounded");
    let errors = figures(&report, "relative_error");
    assert_eq!([found.len(), before.len(), errors.len()], [7; 3]);
    for (found, before) in found.iter().zip(&before) {
        assert!(found < &(0.9 * before), "{found} {before}");
    }
    for site in [0..3, 3..4, 4..6, 6..7] {
        let lost: f64 = errors[site.clone()].iter().sum();
        let promised = found[site.start];
        assert!((lost / promised - 1.0).abs() < 0.03, "{lost} {promised}");
    }
    // Ranges are searched for each group alone, and help all the same.
    let clipped = Call {
        options: vec![("grid", "4")],
        ..call
    };
    let clipped = clipped.encode(host()).unwrap();
    let clipped: f64 = figures(&clipped, "relative_error").iter().sum();
    assert!(clipped < errors.iter().sum(), "{clipped}");
}

#[test]
fn statistics_must_be_those_of_the_block() {
    let call = || Call::new(TestModel::tiny_llama(), &[("grid", "1")]);
    assert!(call().encode(host()).is_ok());
    let spoilt: [fn(&mut Vec<Numbers>); 5] = [
        |statistics| statistics.clear(),
        |statistics| drop(statistics.pop()),
        |statistics| statistics.push((1, vec![1.0; 256])),
        |statistics| statistics.swap(0, 1),
        |statistics| statistics.swap(1, 7),
    ];
    for spoil in spoilt {
        let mut call = call();
        spoil(&mut call.statistics);
        let error = call.encode(host()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Internal, "{error}");
        assert!(error.message.contains("statistics"), "{error}");
    }
}

/// A model whose activations overflow is not made worse: its weights are rounded.
#[test]
fn statistics_that_are_no_numbers_are_of_no_use() {
    for broken in [f32::NAN, f32::INFINITY] {
        let mut model = model(Weights::Usual, false);
        for (name, inputs) in [("self_attn.o_proj", 256), ("mlp.down_proj", 512)] {
            let name = format!("model.layers.1.{name}.weight");
            model.set_statistic(
                &name,
                Statistic::Gram,
                inputs,
                vec![broken; inputs * inputs],
            );
            let mut magnitudes = vec![1.0; inputs];
            magnitudes[7] = broken;
            model.set_statistic(&name, Statistic::MeanMagnitude, 1, magnitudes);
        }
        let (_, files) = built(&model, &request(&[("grid", "2")]));
        let (_, rounded) = built(&model, &rounding());
        let (folder, rounded) = (Folder::open(&files), Folder::open(&rounded));
        for name in ["self_attn.o_proj", "mlp.down_proj"] {
            let name = format!("model.layers.1.{name}.weight");
            assert_eq!(folder.numbers(&name), rounded.numbers(&name), "{broken}");
        }
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let full = TestModel::tiny_llama();
    let mut model = TestModel::default();
    model.set_config(full.model().config.clone());
    for (index, tensor) in full.model().tensors.iter().enumerate() {
        let mut bytes = full.tensor_bytes(index).to_vec();
        if tensor.name == "model.layers.0.mlp.up_proj.weight" {
            // Row 1, column 2: infinity.
            bytes[2 * (256 + 2)..][..2].copy_from_slice(&[0x80, 0x7F]);
        }
        model.add_tensor(&tensor.name, "BF16", &tensor.shape, bytes);
    }
    model.set_sites(full.model().sites.clone());
    let error = Call::new(model, &[("grid", "1")]).encode(host());
    let error = error.unwrap_err();
    assert_eq!(error.kind, ErrorKind::CorruptInput);
    let what = "up_proj: the weight in row 1, column 2 is inf";
    assert!(error.message.contains(what), "{error}");
}

#[test]
fn a_cancelled_run_ends_at_once() {
    let call = Call::new(TestModel::tiny_llama(), &[("grid", "1")]);
    for answers in [0, 1, 6] {
        let host = Host::new(Impatient {
            answers: AtomicUsize::new(answers),
        });
        let error = call.encode(host).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{answers}");
    }
}
