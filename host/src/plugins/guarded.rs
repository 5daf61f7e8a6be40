//! A plugin's objects, with every call marked as its: if one crashes the program,
//! [`fatal`](crate::fatal) knows whom to name.

use std::ops::Range;

use llm_quantize_plugin_api::{
    AffineGroups, Converter, DecodeCall, EncodeCall, EncodeReport, FileView, FormatDescription,
    Inputs, Job, ModelDescription, ModelView, Plan, PlanRequest, Quantizer, Reader, Result,
};

use crate::fatal::{Culprit, in_plugin};

/// An object of a plugin.
pub struct Guarded<T: ?Sized> {
    culprit: Culprit,
    inner: Box<T>,
}

impl<T: ?Sized> Guarded<T> {
    /// Marks the calls of an object.
    pub fn new(culprit: Culprit, inner: Box<T>) -> Self {
        Self { culprit, inner }
    }

    fn call<R>(&self, call: impl FnOnce(&T) -> R) -> R {
        let _mark = in_plugin(Some(self.culprit));
        call(&self.inner)
    }

    fn guard<U: ?Sized>(&self, inner: Box<U>) -> Guarded<U> {
        Guarded::new(self.culprit, inner)
    }
}

impl Quantizer for Guarded<dyn Quantizer> {
    fn formats(&self) -> Vec<FormatDescription> {
        self.call(|quantizer| quantizer.formats())
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let job = self.call(|quantizer| quantizer.plan(inputs, request))?;
        Ok(Box::new(self.guard(job)))
    }
}

impl Job for Guarded<dyn Job> {
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn blob(&self, index: usize) -> &[u8] {
        let _mark = in_plugin(Some(self.culprit));
        self.inner.blob(index)
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        self.call(|job| job.encode(call))
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        self.call(|job| job.verify(files))
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        self.call(|job| job.decode(call))
    }
}

impl Converter for Guarded<dyn Converter> {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        self.call(|converter| converter.detect(files))
    }

    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        let reader = self.call(|converter| converter.open(files, view))?;
        Ok(Box::new(self.guard(reader)))
    }
}

impl Reader for Guarded<dyn Reader> {
    fn model(&self) -> &ModelDescription {
        self.inner.model()
    }

    fn file(&self, files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        self.call(|reader| reader.file(files, name))
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        self.call(|reader| reader.decode(files, tensor, rows, out))
    }

    fn stored(&self, tensor: usize) -> Option<(usize, Range<u64>)> {
        self.call(|reader| reader.stored(tensor))
    }

    fn groups(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        self.call(|reader| reader.groups(files, tensor, rows))
    }
}
