//! Writing GGUF: from a model and a request to a plan and its encoder.
//!
//! A source, Hugging Face ([`from_hf`]) or GGUF ([`from_gguf`]), becomes a [`draft`]: a
//! GGUF file before its types are chosen. The [`planner`] chooses them and lays out the
//! files; the [`job`] encodes; [`verify`] reads back. [`analysis`] is a format of its own,
//! for importance matrices; [`sites`] says where they can be measured.

mod analysis;
mod draft;
mod from_gguf;
mod from_hf;
mod importance;
mod job;
mod matrix;
mod planner;
mod repack;
mod request;
mod sites;
mod verify;

pub use analysis::ANALYSIS;

use llm_quantize_plugin_api::{
    CalibrationUse, Error, FormatDescription, Host, Inputs, Job, LevelInfo, ModelDescription,
    PlanRequest, Quantizer, Repacking, Result,
};

use crate::levels::{LEVELS, Level};
use importance::ImportanceSource;
use request::Wishes;

/// Name of the format on the command line.
pub const FORMAT: &str = "gguf";
/// The attachment that weighs errors.
const IMATRIX: &str = "imatrix";

/// Writes GGUF files.
pub struct GgufQuantizer {
    host: Host,
}

impl GgufQuantizer {
    /// A quantizer on a host.
    pub fn new(host: Host) -> Self {
        Self { host }
    }
}

impl Quantizer for GgufQuantizer {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![description(), analysis::description()]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        match request.format.as_str() {
            FORMAT => self.plan_model(inputs, request),
            ANALYSIS => Ok(Box::new(analysis::plan(inputs, request)?)),
            other => Err(Error::invalid_request(format!(
                "the GGUF plugin has no format \"{other}\""
            ))
            .suggest(format!("choose one of: {FORMAT}, {ANALYSIS}"))),
        }
    }
}

impl GgufQuantizer {
    fn plan_model(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let importance = ImportanceSource::of(inputs, request)?;
        let wishes = Wishes::from_request(request, importance.is_given())?;
        let model = inputs.model();
        let draft = match is_native(model) {
            true => from_gguf::draft(inputs)?,
            false => from_hf::draft(inputs)?,
        };
        let job = planner::plan(
            self.host.clone(),
            draft,
            &wishes,
            &importance,
            model,
            request,
        )?;
        Ok(Box::new(job))
    }
}

fn description() -> FormatDescription {
    FormatDescription {
        name: FORMAT.into(),
        description: "llama.cpp's format: llama.cpp, Ollama, LM Studio, …".into(),
        levels: LEVELS.iter().map(level_info).collect(),
        options: request::options(),
        group_sizes: Vec::new(),
        attachments: vec![IMATRIX.into()],
        calibration: CalibrationUse::Optional,
        repacking: Repacking::OtherFormats,
        ..FormatDescription::default()
    }
}

fn level_info(level: &Level) -> LevelInfo {
    LevelInfo {
        name: level.name.into(),
        aliases: level.aliases.iter().map(|name| (*name).into()).collect(),
        description: level.description.into(),
        bits_per_weight: level.bits_per_weight.into(),
    }
}

/// Whether a model is a GGUF file seen as itself: the other view has a configuration.
fn is_native(model: &ModelDescription) -> bool {
    let unconfigured = model
        .config
        .as_object()
        .is_none_or(serde_json::Map::is_empty);
    model.format == FORMAT && unconfigured
}

/// The level of this name or alias.
fn level(name: &str) -> Result<&'static Level> {
    description().require_level(name)?;
    Level::find(name).ok_or_else(|| Error::internal("a described level has no row"))
}

/// The file's name without `.gguf`: the user's, or `<model>-<level>`.
fn output_stem(request: &PlanRequest, model: &str, level: &Level) -> String {
    match &request.output_name {
        Some(name) => name.strip_suffix(".gguf").unwrap_or(name).to_owned(),
        None => format!("{model}-{}", level.name),
    }
}
