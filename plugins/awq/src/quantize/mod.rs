//! Writing AWQ folders.
//!
//! * [`options`]: what can be asked for; [`loaders`]: who will refuse it.
//! * [`layers`]: which layers are quantized; [`plan`]: where everything lies; [`config`]: what the
//!   output says about itself.
//! * [`job`]: the work; `encode` and `verify` are parts of it.
//! * `repack`: taking over the groups of another format instead.

pub mod config;
mod encode;
mod fold;
pub mod job;
pub mod layers;
pub mod loaders;
pub mod options;
pub mod plan;
mod repack;
mod verify;

use llm_quantize_plugin_api::{
    CalibrationUse, FormatDescription, Host, Inputs, Job, PlanRequest, Quantizer, Repacking, Result,
};

use crate::{FORMAT, levels};
use options::GROUP_SIZES;

/// Writes AWQ folders.
pub struct AwqQuantizer {
    host: Host,
}

impl AwqQuantizer {
    /// A quantizer on a host.
    pub fn new(host: Host) -> Self {
        Self { host }
    }
}

impl Quantizer for AwqQuantizer {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![description()]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let job = plan::plan(self.host.clone(), inputs, request)?;
        Ok(Box::new(job))
    }
}

fn description() -> FormatDescription {
    FormatDescription {
        name: FORMAT.into(),
        description: "a folder for vLLM, transformers, GPTQModel and AutoAWQ".into(),
        levels: vec![levels::info()],
        options: options::options(),
        group_sizes: GROUP_SIZES.to_vec(),
        calibration: CalibrationUse::Always,
        repacking: Repacking::AnyFormat,
        ..FormatDescription::default()
    }
}
