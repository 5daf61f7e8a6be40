//! Writing GPTQ folders.
//!
//! * [`options`]: what can be asked for; [`loaders`]: who will refuse it.
//! * [`layers`]: which layers are quantized; [`plan`]: where everything lies; [`config`]: what the
//!   output says about itself.
//! * [`job`]: the work; `encode` and `verify` are parts of it.
//! * `repack`: taking over the groups of another format instead.

pub mod config;
mod encode;
pub mod job;
pub mod layers;
pub mod loaders;
pub mod options;
pub mod plan;
mod repack;
mod smooth;
mod verify;

use llm_quantize_plugin_api::{
    CalibrationUse, Error, FormatDescription, Host, Inputs, Job, PlanRequest, Quantizer, Repacking,
    Result,
};

use crate::FORMAT;
use crate::levels::{LEVELS, Level};
use options::GROUP_SIZES;

/// Writes GPTQ folders.
pub struct GptqQuantizer {
    host: Host,
}

impl GptqQuantizer {
    /// A quantizer on a host.
    pub fn new(host: Host) -> Self {
        Self { host }
    }
}

impl Quantizer for GptqQuantizer {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![description()]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let job = plan::plan(self.host.clone(), inputs, request)?;
        Ok(Box::new(job))
    }
}

/// The level that a request names.
fn level(request: &PlanRequest) -> Result<&'static Level> {
    let description = description();
    let level = description.require_level(&request.level)?;
    Level::find(&level.name).ok_or_else(|| Error::internal("a described level has no row"))
}

fn description() -> FormatDescription {
    FormatDescription {
        name: FORMAT.into(),
        description: "a folder for vLLM, transformers, GPTQModel and ExLlamaV2".into(),
        levels: LEVELS.iter().map(Level::info).collect(),
        options: options::options(),
        group_sizes: GROUP_SIZES.to_vec(),
        calibration: CalibrationUse::Always,
        repacking: Repacking::AnyFormat,
        ..FormatDescription::default()
    }
}
