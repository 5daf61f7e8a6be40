//! The plugin's side: wraps a plugin's objects so that a host can call them.
//!
//! Every entry runs under [`guarded`]: a panic becomes an error value, because one
//! that left the library would end the host's process.

use std::ops::Range;

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_types::RRef;
use abi_stable::std_types::{ROption, RSlice, RSliceMut, RStr, RString, RVec};

use super::raw::{
    PluginModule, PluginModuleRef, RawConverter, RawConverter_TO, RawConverterBox, RawFileView,
    RawGroups, RawHostArc, RawInputsRef, RawJob, RawJob_TO, RawJobBox, RawMeasure, RawQuantizer,
    RawQuantizer_TO, RawQuantizerBox, RawRange, RawReader, RawReader_TO, RawReaderBox, RawResult,
    RawStatisticView, RawTask, RawTask_TO, RawTensorView,
};
use super::wire;
use crate::interface::{
    Converter, CpuLevel, DecodeCall, EncodeCall, FileView, Host, HostServices, Inputs, Job,
    LogLevel, ModelDescription, ModelView, PlanRequest, Quantizer, Reader, Result, guarded,
};

/// Makes the plugin's quantizer, if it has one.
pub fn new_quantizer(
    host: RawHostArc,
    make: impl FnOnce(Host) -> Option<Box<dyn Quantizer>>,
) -> RawResult<ROption<RawQuantizerBox>> {
    wire::to_raw(guarded(|| {
        let made = make(Host::new(ImportedHost(host)));
        Ok(made
            .map(|q| {
                RawQuantizer_TO::from_value(ExportedQuantizer(q), abi_stable::sabi_trait::TD_Opaque)
            })
            .into())
    }))
}

/// Makes the plugin's converter, if it has one.
pub fn new_converter(
    host: RawHostArc,
    make: impl FnOnce(Host) -> Option<Box<dyn Converter>>,
) -> RawResult<ROption<RawConverterBox>> {
    wire::to_raw(guarded(|| {
        let made = make(Host::new(ImportedHost(host)));
        Ok(made
            .map(|c| {
                RawConverter_TO::from_value(ExportedConverter(c), abi_stable::sabi_trait::TD_Opaque)
            })
            .into())
    }))
}

/// The host as the plugin sees it.
struct ImportedHost(RawHostArc);

struct TaskFn<'a>(&'a (dyn Fn(usize) + Sync));

impl RawTask for TaskFn<'_> {
    fn run(&self, index: usize) {
        // `Host::parallel_for` has caught panics already; this is the last fence.
        let _ = guarded(|| {
            (self.0)(index);
            Ok(())
        });
    }
}

impl HostServices for ImportedHost {
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let task = TaskFn(task);
        let object = RawTask_TO::from_ptr(RRef::new(&task), abi_stable::sabi_trait::TD_Opaque);
        self.0.parallel_for(count, object);
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level as u8, RStr::from_str(message));
    }

    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total);
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn cpu_level(&self) -> CpuLevel {
        CpuLevel::from_code(self.0.cpu_level())
    }
}

/// The inputs as the plugin sees them.
struct ImportedInputs<'a> {
    raw: RawInputsRef<'a>,
    model: ModelDescription,
}

impl Inputs for ImportedInputs<'_> {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, name: &str) -> Result<Option<&[u8]>> {
        let found = wire::from_raw(self.raw.file(RStr::from_str(name)))?;
        Ok(found.into_option().map(|bytes| bytes.as_slice()))
    }

    fn attachment(&self, kind: &str) -> Option<FileView<'_>> {
        let found = self.raw.attachment(RStr::from_str(kind)).into_option();
        found.map(wire::file_from_raw)
    }
}

struct ExportedQuantizer(Box<dyn Quantizer>);

impl RawQuantizer for ExportedQuantizer {
    fn formats(&self) -> RawResult<RString> {
        wire::to_raw(guarded(|| wire::to_json("formats", &self.0.formats())))
    }

    fn plan(&self, inputs: RawInputsRef<'_>, request: RStr<'_>) -> RawResult<RawJobBox> {
        wire::to_raw(guarded(|| {
            let model = wire::from_json("model", inputs.model().as_str())?;
            let request: PlanRequest = wire::from_json("request", request.as_str())?;
            let inputs = ImportedInputs { raw: inputs, model };
            let job = self.0.plan(&inputs, &request)?;
            Ok(RawJob_TO::from_value(
                ExportedJob(job),
                abi_stable::sabi_trait::TD_Opaque,
            ))
        }))
    }
}

struct ExportedJob(Box<dyn Job>);

impl RawJob for ExportedJob {
    fn plan(&self) -> RawResult<RString> {
        wire::to_raw(guarded(|| wire::to_json("plan", self.0.plan())))
    }

    fn blob(&self, index: usize) -> RSlice<'_, u8> {
        guarded(|| Ok(self.0.blob(index)))
            .map(RSlice::from_slice)
            .unwrap_or(RSlice::EMPTY)
    }

    fn encode(
        &self,
        unit: usize,
        first_row: u64,
        end_row: u64,
        inputs: RSlice<'_, RawTensorView<'_>>,
        statistics: RSlice<'_, RawStatisticView<'_>>,
        mut outputs: RSliceMut<'_, RSliceMut<'_, u8>>,
    ) -> RawResult<RVec<RawMeasure>> {
        wire::to_raw(guarded(|| {
            let inputs = wire::tensors_from_raw(inputs.as_slice())?;
            let statistics = wire::statistics_from_raw(statistics.as_slice())?;
            let mut outputs: Vec<&mut [u8]> = outputs
                .as_mut_slice()
                .iter_mut()
                .map(RSliceMut::as_mut_slice)
                .collect();
            let report = self.0.encode(EncodeCall {
                unit,
                rows: first_row..end_row,
                inputs: &inputs,
                statistics: &statistics,
                outputs: &mut outputs,
            })?;
            Ok(wire::report_to_raw(report).into())
        }))
    }

    fn verify(&self, files: RSlice<'_, RawFileView<'_>>) -> RawResult<()> {
        wire::to_raw(guarded(|| {
            self.0.verify(&wire::files_from_raw(files.as_slice()))
        }))
    }

    fn decode(
        &self,
        unit: usize,
        input: usize,
        first_row: u64,
        end_row: u64,
        vectors: RSlice<'_, RawTensorView<'_>>,
        outputs: RSlice<'_, RSlice<'_, u8>>,
        mut out: RSliceMut<'_, f32>,
    ) -> RawResult<()> {
        wire::to_raw(guarded(|| {
            let vectors = wire::tensors_from_raw(vectors.as_slice())?;
            let outputs: Vec<&[u8]> = outputs.iter().map(RSlice::as_slice).collect();
            self.0.decode(DecodeCall {
                unit,
                input,
                rows: first_row..end_row,
                vectors: &vectors,
                outputs: &outputs,
                out: out.as_mut_slice(),
            })
        }))
    }
}

struct ExportedConverter(Box<dyn Converter>);

impl RawConverter for ExportedConverter {
    fn detect(&self, files: RSlice<'_, RawFileView<'_>>) -> bool {
        guarded(|| Ok(self.0.detect(&wire::files_from_raw(files.as_slice())))).unwrap_or(false)
    }

    fn open(&self, files: RSlice<'_, RawFileView<'_>>, view: u32) -> RawResult<RawReaderBox> {
        wire::to_raw(guarded(|| {
            let view = match view {
                0 => ModelView::HuggingFace,
                _ => ModelView::Native,
            };
            let reader = self.0.open(&wire::files_from_raw(files.as_slice()), view)?;
            Ok(RawReader_TO::from_value(
                ExportedReader(reader),
                abi_stable::sabi_trait::TD_Opaque,
            ))
        }))
    }
}

struct ExportedReader(Box<dyn Reader>);

impl RawReader for ExportedReader {
    fn model(&self) -> RawResult<RString> {
        wire::to_raw(guarded(|| wire::to_json("model", self.0.model())))
    }

    fn file(
        &self,
        files: RSlice<'_, RawFileView<'_>>,
        name: RStr<'_>,
    ) -> RawResult<ROption<RVec<u8>>> {
        wire::to_raw(guarded(|| {
            let found = self
                .0
                .file(&wire::files_from_raw(files.as_slice()), name.as_str())?;
            Ok(found.map(RVec::from).into())
        }))
    }

    fn decode(
        &self,
        files: RSlice<'_, RawFileView<'_>>,
        tensor: usize,
        first_row: u64,
        end_row: u64,
        mut out: RSliceMut<'_, f32>,
    ) -> RawResult<()> {
        wire::to_raw(guarded(|| {
            self.0.decode(
                &wire::files_from_raw(files.as_slice()),
                tensor,
                first_row..end_row,
                out.as_mut_slice(),
            )
        }))
    }

    fn stored(&self, tensor: usize) -> ROption<RawRange> {
        guarded(|| Ok(self.0.stored(tensor)))
            .unwrap_or(None)
            .map(|(file, Range { start, end })| RawRange { file, start, end })
            .into()
    }

    fn groups(
        &self,
        files: RSlice<'_, RawFileView<'_>>,
        tensor: usize,
        first_row: u64,
        end_row: u64,
    ) -> RawResult<ROption<RawGroups>> {
        wire::to_raw(guarded(|| {
            let found = self.0.groups(
                &wire::files_from_raw(files.as_slice()),
                tensor,
                first_row..end_row,
            )?;
            Ok(found.map(wire::groups_to_raw).into())
        }))
    }
}

/// What a plugin's `new_quantizer` entry returns.
pub type QuantizerResult = RawResult<ROption<RawQuantizerBox>>;

/// What a plugin's `new_converter` entry returns.
pub type ConverterResult = RawResult<ROption<RawConverterBox>>;

/// The root module of a plugin.
pub fn module(
    new_quantizer: extern "C" fn(RawHostArc) -> QuantizerResult,
    new_converter: extern "C" fn(RawHostArc) -> ConverterResult,
) -> PluginModuleRef {
    PluginModule {
        new_quantizer,
        new_converter,
    }
    .leak_into_prefix()
}
