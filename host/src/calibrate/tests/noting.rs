//! Notes what the units of a format get to see.

use std::sync::{Arc, Mutex};

use llm_quantize_plugin_api as plugin_api;
use plugin_api::{
    DecodeCall, EncodeCall, EncodeReport, FileView, FormatDescription, Inputs, Job, Plan,
    PlanRequest, Quantizer, Result,
};

use super::sequential::Sequential;

/// What each unit saw: its label and its site's Gram matrix.
pub type Seen = Arc<Mutex<Vec<(String, Vec<f32>)>>>;

/// The format.
pub struct Noting(pub Seen);

struct NotingJob {
    inner: Box<dyn Job>,
    seen: Seen,
}

impl Quantizer for Noting {
    fn formats(&self) -> Vec<FormatDescription> {
        Sequential.formats()
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let inner = Sequential.plan(inputs, request)?;
        let seen = Arc::clone(&self.0);
        Ok(Box::new(NotingJob { inner, seen }))
    }
}

impl Job for NotingJob {
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.inner.blob(index)
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let label = self.plan().units[call.unit].label.clone();
        let gram = call.statistics[0].data.to_vec();
        self.seen.lock().unwrap().push((label, gram));
        self.inner.encode(call)
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        self.inner.verify(files)
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        self.inner.decode(call)
    }
}
