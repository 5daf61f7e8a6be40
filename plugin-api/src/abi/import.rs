//! The host's side: makes a plugin's raw objects look like the interface.
//!

use std::ops::Range;

use abi_stable::sabi_types::RRef;
use abi_stable::std_types::{RArc, ROption, RSlice, RSliceMut, RStr, RString};

use super::raw::{
    PluginModuleRef, RawConverterBox, RawFileView, RawHost, RawHost_TO, RawHostArc, RawInputs,
    RawInputs_TO, RawJobBox, RawQuantizerBox, RawReaderBox, RawResult, RawTask_TO,
};
use super::wire;
use crate::interface::{
    AffineGroups, Converter, DecodeCall, EncodeCall, EncodeReport, FileView, FormatDescription,
    Host, Inputs, Job, LogLevel, ModelDescription, ModelView, Plan, PlanRequest, Quantizer, Reader,
    Result,
};

/// Makes the quantizer of a loaded plugin, if it has one.
pub fn quantizer(module: PluginModuleRef, host: &Host) -> Result<Option<Box<dyn Quantizer>>> {
    let made = wire::from_raw((module.new_quantizer())(export_host(host)))?;
    let ROption::RSome(raw) = made else {
        return Ok(None);
    };
    let formats = wire::from_json("formats", &wire::from_raw(raw.formats())?)?;
    Ok(Some(Box::new(ImportedQuantizer { raw, formats })))
}

/// Makes the converter of a loaded plugin, if it has one.
pub fn converter(module: PluginModuleRef, host: &Host) -> Result<Option<Box<dyn Converter>>> {
    let made = wire::from_raw((module.new_converter())(export_host(host)))?;
    Ok(made
        .into_option()
        .map(|raw| Box::new(ImportedConverter(raw)) as Box<dyn Converter>))
}

/// The host's services as the plugin gets them.
fn export_host(host: &Host) -> RawHostArc {
    RawHost_TO::from_ptr(
        RArc::new(ExportedHost(host.clone())),
        abi_stable::sabi_trait::TD_Opaque,
    )
}

struct ExportedHost(Host);

impl RawHost for ExportedHost {
    fn parallel_for(&self, count: usize, task: RawTask_TO<'_, RRef<'_, ()>>) {
        self.0
            .services()
            .parallel_for(count, &|index| task.run(index));
    }

    fn log(&self, level: u8, message: RStr<'_>) {
        self.0.log(LogLevel::from_code(level), message.as_str());
    }

    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total);
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    fn cpu_level(&self) -> u8 {
        self.0.cpu_level() as u8
    }
}

struct ExportedInputs<'a> {
    inner: &'a dyn Inputs,
    model: RString,
}

impl RawInputs for ExportedInputs<'_> {
    fn model(&self) -> RStr<'_> {
        self.model.as_rstr()
    }

    fn file(&self, name: RStr<'_>) -> RawResult<ROption<RSlice<'_, u8>>> {
        let found = self.inner.file(name.as_str());
        wire::to_raw(found.map(|bytes| bytes.map(RSlice::from_slice).into()))
    }

    fn attachment(&self, kind: RStr<'_>) -> ROption<super::raw::RawFileView<'_>> {
        let found = self.inner.attachment(kind.as_str());
        found.as_ref().map(wire::file_to_raw).into()
    }
}

struct ImportedQuantizer {
    raw: RawQuantizerBox,
    formats: Vec<FormatDescription>,
}

impl Quantizer for ImportedQuantizer {
    fn formats(&self) -> Vec<FormatDescription> {
        self.formats.clone()
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let exported = ExportedInputs {
            inner: inputs,
            model: wire::to_json("model", inputs.model())?,
        };
        let object =
            RawInputs_TO::from_ptr(RRef::new(&exported), abi_stable::sabi_trait::TD_Opaque);
        let request = wire::to_json("request", request)?;
        let raw = wire::from_raw(self.raw.plan(object, request.as_rstr()))?;
        let plan = wire::from_json("plan", &wire::from_raw(raw.plan())?)?;
        Ok(Box::new(ImportedJob { raw, plan }))
    }
}

struct ImportedJob {
    raw: RawJobBox,
    plan: Plan,
}

impl Job for ImportedJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.raw.blob(index).as_slice()
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let inputs = wire::tensors_to_raw(call.inputs);
        let statistics = wire::statistics_to_raw(call.statistics);
        let mut outputs = wire::outputs_to_raw(call.outputs);
        let measures = wire::from_raw(self.raw.encode(
            call.unit,
            call.rows.start,
            call.rows.end,
            RSlice::from_slice(&inputs),
            RSlice::from_slice(&statistics),
            RSliceMut::from_mut_slice(&mut outputs),
        ))?;
        Ok(wire::report_from_raw(measures))
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        let files = wire::files_to_raw(files);
        wire::from_raw(self.raw.verify(RSlice::from_slice(&files)))
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        let vectors = wire::tensors_to_raw(call.vectors);
        let outputs: Vec<RSlice<'_, u8>> =
            call.outputs.iter().map(|o| RSlice::from_slice(o)).collect();
        wire::from_raw(self.raw.decode(
            call.unit,
            call.input,
            call.rows.start,
            call.rows.end,
            RSlice::from_slice(&vectors),
            RSlice::from_slice(&outputs),
            RSliceMut::from_mut_slice(call.out),
        ))
    }
}

struct ImportedConverter(RawConverterBox);

impl Converter for ImportedConverter {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        let files = wire::files_to_raw(files);
        self.0.detect(RSlice::from_slice(&files))
    }

    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        let files: Vec<RawFileView<'_>> = wire::files_to_raw(files);
        let raw = wire::from_raw(self.0.open(RSlice::from_slice(&files), view as u32))?;
        let model = wire::from_json("model", &wire::from_raw(raw.model())?)?;
        Ok(Box::new(ImportedReader { raw, model }))
    }
}

struct ImportedReader {
    raw: RawReaderBox,
    model: ModelDescription,
}

impl Reader for ImportedReader {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        let files = wire::files_to_raw(files);
        let found = wire::from_raw(
            self.raw
                .file(RSlice::from_slice(&files), RStr::from_str(name)),
        )?;
        Ok(found.into_option().map(Into::into))
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let files = wire::files_to_raw(files);
        wire::from_raw(self.raw.decode(
            RSlice::from_slice(&files),
            tensor,
            rows.start,
            rows.end,
            RSliceMut::from_mut_slice(out),
        ))
    }

    fn stored(&self, tensor: usize) -> Option<(usize, Range<u64>)> {
        let found = self.raw.stored(tensor).into_option()?;
        Some((found.file, found.start..found.end))
    }

    fn groups(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        let files = wire::files_to_raw(files);
        let found = wire::from_raw(self.raw.groups(
            RSlice::from_slice(&files),
            tensor,
            rows.start,
            rows.end,
        ))?;
        Ok(found.into_option().map(wire::groups_from_raw))
    }
}
