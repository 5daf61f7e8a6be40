//! Everything that crosses, crossed both ways in one process.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};

use super::raw::{
    PluginModuleRef, RawFileView, RawInputsRef, RawJob, RawJob_TO, RawJobBox, RawMeasure,
    RawQuantizer, RawQuantizer_TO, RawResult, RawStatisticView, RawTensorView,
};
use super::{export, import};
use crate::interface::{
    AffineGroups, Converter, CpuLevel, DecodeCall, EncodeCall, EncodeReport, Error, ErrorKind,
    FileView, FormatDescription, Host, HostServices, Inputs, Job, Literal, LogLevel, Measure,
    ModelDescription, ModelView, Plan, PlanRequest, Quantizer, Reader, Result, StatisticView,
};
use crate::testing::TestModel;

/// A plugin that answers with what it was asked, or panics.
struct Echo(Host);

impl Quantizer for Echo {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![FormatDescription {
            name: "echo".into(),
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        if request.level == "panic" {
            panic!("in plan");
        }
        let side = inputs.file("tokenizer_config.json")?.map_or(0, <[u8]>::len);
        let matrix = inputs.attachment("imatrix");
        Ok(Box::new(EchoJob {
            host: self.0.clone(),
            plan: Plan {
                level: format!("{} {side}", matrix.map_or("none", |file| file.name)),
                literals: vec![Literal {
                    file: 0,
                    offset: 0,
                    len: 4,
                    blob: 0,
                }],
                ..Plan::default()
            },
        }))
    }
}

struct EchoJob {
    host: Host,
    plan: Plan,
}

impl Job for EchoJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        assert!(index == 0, "no such blob");
        b"blob"
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        if call.unit == 99 {
            panic!("in encode");
        }
        call.outputs[0].fill(call.rows.start as u8);
        let sum = AtomicUsize::new(0);
        self.host.parallel_for(4, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
            Ok(())
        })?;
        self.host.log(LogLevel::Warning, "from the plugin");
        self.host.progress(1, 2);
        let cancelled = f64::from(u8::from(self.host.is_cancelled()));
        let measure = Measure::new;
        Ok(EncodeReport {
            measures: vec![
                measure("sum", sum.into_inner() as f64),
                measure("statistic", f64::from(call.statistics[0].data[1])),
                measure("cols", call.inputs[0].cols() as f64),
                measure("cancelled", cancelled),
                Measure::of("layers.0\tq", "error", 0.5),
            ],
        })
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        Err(Error::verification(format!("{} files", files.len())).suggest("none"))
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        if call.unit == 99 {
            panic!("in decode");
        }
        let rows = (call.rows.end - call.rows.start) as f32;
        let vectors = call.vectors.iter().map(|vector| vector.cols() as f32);
        let outputs = call.outputs.iter().map(|bytes| f32::from(bytes[0]));
        let all = [call.unit as f32, call.input as f32, rows];
        let all = all.into_iter().chain(vectors).chain(outputs);
        for (out, value) in call.out.iter_mut().zip(all) {
            *out = value;
        }
        Ok(())
    }
}

struct EchoConverter;

impl Converter for EchoConverter {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        match files {
            [] => panic!("in detect"),
            [file, ..] => file.bytes == b"echo",
        }
    }

    fn open(&self, _: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        Ok(Box::new(EchoReader(ModelDescription {
            name: format!("{view:?}"),
            ..ModelDescription::default()
        })))
    }
}

struct EchoReader(ModelDescription);

impl Reader for EchoReader {
    fn model(&self) -> &ModelDescription {
        &self.0
    }

    fn file(&self, _: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        Ok((name == "known").then(|| b"content".to_vec()))
    }

    fn decode(
        &self,
        _: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        if tensor == 99 {
            panic!("in decode");
        }
        out.fill(rows.end as f32);
        Ok(())
    }

    fn stored(&self, tensor: usize) -> Option<(usize, Range<u64>)> {
        (tensor == 1).then_some((2, 3..4))
    }

    fn groups(
        &self,
        _: &[FileView<'_>],
        tensor: usize,
        _: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        Ok((tensor == 1).then(groups))
    }
}

fn groups() -> AffineGroups {
    AffineGroups {
        bits: 4,
        group_size: 2,
        codes: vec![1, 2],
        scales: vec![0.5],
        zeros: vec![8.0],
        permutation: Some(vec![1, 0]),
    }
}

/// A host that remembers.
#[derive(Default)]
struct Recording(std::sync::Arc<Mutex<Vec<String>>>);

impl HostServices for Recording {
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).rev().for_each(task);
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.0.lock().unwrap().push(format!("{level:?} {message}"));
    }

    fn progress(&self, done: u64, total: u64) {
        self.0.lock().unwrap().push(format!("{done}/{total}"));
    }

    fn is_cancelled(&self) -> bool {
        true
    }

    fn cpu_level(&self) -> CpuLevel {
        CpuLevel::Baseline
    }
}

extern "C" fn new_quantizer(host: super::raw::RawHostArc) -> export::QuantizerResult {
    export::new_quantizer(host, |host| Some(Box::new(Echo(host))))
}

extern "C" fn new_converter(host: super::raw::RawHostArc) -> export::ConverterResult {
    export::new_converter(host, |_| Some(Box::new(EchoConverter)))
}

extern "C" fn no_quantizer(host: super::raw::RawHostArc) -> export::QuantizerResult {
    export::new_quantizer(host, |_| None)
}

extern "C" fn panicking_converter(host: super::raw::RawHostArc) -> export::ConverterResult {
    export::new_converter(host, |_| panic!("in the constructor"))
}

fn module() -> PluginModuleRef {
    export::module(new_quantizer, new_converter)
}

#[test]
fn planning_and_encoding_cross() {
    let log = std::sync::Arc::default();
    let host = Host::new(Recording(std::sync::Arc::clone(&log)));
    let quantizer = import::quantizer(module(), &host).unwrap().unwrap();
    assert_eq!(quantizer.formats()[0].name, "echo");
    let mut model = TestModel::tiny_llama();
    model.add_attachment("imatrix", vec![1]);
    let job = quantizer.plan(&model, &PlanRequest::default()).unwrap();
    let side = model.file("tokenizer_config.json").unwrap().unwrap().len();
    assert_eq!(job.plan().level, format!("imatrix {side}"));
    assert_eq!(job.blob(0), b"blob");
    assert_eq!(job.blob(7), b"");

    let view = model.view(0, Some(0..2), false).unwrap();
    let mut bytes = [0u8; 3];
    let statistic = StatisticView {
        rows: 1,
        cols: 2,
        data: &[1.5, 2.5],
    };
    let report = job.encode(EncodeCall {
        unit: 0,
        rows: 7..9,
        inputs: &[view],
        statistics: &[statistic],
        outputs: &mut [&mut bytes],
    });
    let measures = report.unwrap().measures;
    let values: Vec<f64> = measures.iter().map(|m| m.value).collect();
    assert_eq!(values, [6.0, 2.5, view.cols() as f64, 1.0, 0.5]);
    let last = measures.last().unwrap();
    assert_eq!(measures[0], Measure::new("sum", 6.0));
    assert_eq!(*last, Measure::of("layers.0 q", "error", 0.5));
    assert_eq!(bytes, [7; 3]);
    assert_eq!(*log.lock().unwrap(), ["Warning from the plugin", "1/2"]);

    let error = job.verify(&[]).unwrap_err();
    assert_eq!(error, Error::verification("0 files").suggest("none"));
}

#[test]
fn decoding_crosses() {
    let host = Host::new(Recording::default());
    let quantizer = import::quantizer(module(), &host).unwrap().unwrap();
    let model = TestModel::tiny_llama();
    let job = quantizer.plan(&model, &PlanRequest::default()).unwrap();
    let norm = model.model().tensor_index("model.norm.weight");
    let norm = model.view(norm.unwrap(), None, false).unwrap();
    let mut out = [0.0; 6];
    let mut call = |unit: usize| {
        job.decode(DecodeCall {
            unit,
            input: 2,
            rows: 5..9,
            vectors: &[norm],
            outputs: &[b"\x07", b"\x08\x09"],
            out: &mut out,
        })
    };
    assert_eq!(call(99).unwrap_err().kind, ErrorKind::Panicked);
    call(3).unwrap();
    assert_eq!(out, [3.0, 2.0, 4.0, 256.0, 7.0, 8.0]);
}

/// A job of the time before layers were decoded.
struct Old;

impl RawQuantizer for Old {
    fn formats(&self) -> RawResult<RString> {
        RResult::ROk("[]".into())
    }

    fn plan(&self, _: RawInputsRef<'_>, _: RStr<'_>) -> RawResult<RawJobBox> {
        RResult::ROk(RawJob_TO::from_value(Old, TD_Opaque))
    }
}

impl RawJob for Old {
    fn plan(&self) -> RawResult<RString> {
        let plan = serde_json::to_string(&Plan::default()).unwrap();
        RResult::ROk(plan.into())
    }

    fn blob(&self, _: usize) -> RSlice<'_, u8> {
        RSlice::EMPTY
    }

    fn encode(
        &self,
        _: usize,
        _: u64,
        _: u64,
        _: RSlice<'_, RawTensorView<'_>>,
        _: RSlice<'_, RawStatisticView<'_>>,
        _: RSliceMut<'_, RSliceMut<'_, u8>>,
    ) -> RawResult<RVec<RawMeasure>> {
        RResult::ROk(RVec::new())
    }

    fn verify(&self, _: RSlice<'_, RawFileView<'_>>) -> RawResult<()> {
        RResult::ROk(())
    }
}

extern "C" fn old_quantizer(_: super::raw::RawHostArc) -> export::QuantizerResult {
    let quantizer = RawQuantizer_TO::from_value(Old, TD_Opaque);
    RResult::ROk(ROption::RSome(quantizer))
}

#[test]
fn an_older_plugin_says_that_it_cannot_decode() {
    let host = Host::new(Recording::default());
    let module = export::module(old_quantizer, new_converter);
    let quantizer = import::quantizer(module, &host).unwrap().unwrap();
    let model = TestModel::tiny_llama();
    let job = quantizer.plan(&model, &PlanRequest::default()).unwrap();
    let error = job.decode(DecodeCall {
        unit: 4,
        input: 0,
        rows: 0..1,
        vectors: &[],
        outputs: &[],
        out: &mut [],
    });
    let message = error.unwrap_err().message;
    assert_eq!(message, "unit 4 cannot be decoded: the plugin is too old");
}

#[test]
fn reading_crosses() {
    let host = Host::new(Recording::default());
    let converter = import::converter(module(), &host).unwrap().unwrap();
    let files = [FileView {
        name: "f",
        bytes: b"echo",
    }];
    assert!(converter.detect(&files));
    let reader = converter.open(&files, ModelView::Native).unwrap();
    assert_eq!(reader.model().name, "Native");
    assert_eq!(reader.file(&files, "known").unwrap().unwrap(), b"content");
    assert_eq!(reader.file(&files, "unknown").unwrap(), None);
    let mut out = [0.0; 2];
    reader.decode(&files, 0, 1..5, &mut out).unwrap();
    assert_eq!(out, [5.0; 2]);
    assert_eq!(reader.stored(1), Some((2, 3..4)));
    assert_eq!(reader.stored(0), None);
    assert_eq!(reader.groups(&files, 1, 0..1).unwrap(), Some(groups()));
    assert_eq!(reader.groups(&files, 0, 0..1).unwrap(), None);
}

#[test]
fn panics_come_back_as_errors() {
    let host = Host::new(Recording::default());
    let quantizer = import::quantizer(module(), &host).unwrap().unwrap();
    let model = TestModel::tiny_llama();
    let request = |level: &str| PlanRequest {
        level: level.into(),
        ..PlanRequest::default()
    };
    let error = quantizer.plan(&model, &request("panic")).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Panicked);
    assert!(error.message.contains("in plan"));
    let job = quantizer.plan(&model, &request("")).unwrap();
    let error = job
        .encode(EncodeCall {
            unit: 99,
            rows: 0..1,
            inputs: &[],
            statistics: &[],
            outputs: &mut [],
        })
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Panicked);
    let converter = import::converter(module(), &host).unwrap().unwrap();
    assert!(!converter.detect(&[]));
    let reader = converter.open(&[], ModelView::HuggingFace).unwrap();
    let error = reader.decode(&[], 99, 0..1, &mut []).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Panicked);
    let broken = export::module(no_quantizer, panicking_converter);
    assert!(import::quantizer(broken, &host).unwrap().is_none());
    let error = import::converter(broken, &host).err().unwrap();
    assert!(error.message.contains("in the constructor"));
}
