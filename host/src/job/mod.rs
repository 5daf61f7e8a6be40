//! The job engine: from a planned output to finished, verified files.
//!
//! plan → checks → staging (files at full size, under temporary names) → pieces on
//! all threads, each straight into the mapped output → sync → verify → rename.
//! The staged files are their own checkpoint: which pieces are in them is all that a
//! later run would have to know.

mod engine;
mod output_map;
mod pieces;
mod preflight;
mod progress;
mod staging;
mod tensor_source;
mod threads;
mod verify;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use llm_quantize_plugin_api::{Job, PlanRequest, Quantizer, check_plan};

pub use engine::Measures;
pub use progress::JobProgress;
pub use staging::Destination;
pub use tensor_source::TensorSource;
pub use threads::{CancelFlag, PluginEvents, Threads, services};

use crate::error::{Error, ExitCode, PluginResult, Result};
use engine::Engine;
use staging::Staging;

/// What a job runs with.
pub struct Context<'a> {
    /// The threads.
    pub threads: &'a Threads,
    /// Set when the user interrupts.
    pub cancel: &'a CancelFlag,
    /// Who is told how far it is.
    pub progress: &'a dyn JobProgress,
    /// Memory that may be used.
    pub max_memory: u64,
}

/// A planned and checked job, not begun yet.
pub struct Prepared<'a> {
    /// The plugin, for messages.
    pub plugin: &'a str,
    /// The plan and its encoder.
    pub job: Box<dyn Job>,
    /// Where it goes.
    pub destination: Destination,
    /// Memory that it needs at once.
    pub memory_needed: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    source: &'a dyn TensorSource,
}

/// A finished job.
#[derive(Debug)]
pub struct Outcome {
    /// The main file or the folder.
    pub path: PathBuf,
    /// Bytes of all files.
    pub file_size: u64,
    /// Time from the first byte to the rename.
    pub duration: Duration,
    /// Sums of what the plugin measured.
    pub measures: Measures,
    /// The model's layers that were encoded.
    pub layers: usize,
}

/// Plans a job and checks the plan, the memory and the disk. Writes nothing.
///
/// # Errors
/// The plugin's refusal, an unsound plan, too little memory.
pub fn prepare<'a>(
    plugin: &'a str,
    quantizer: &dyn Quantizer,
    source: &'a dyn TensorSource,
    request: &PlanRequest,
    folder: &Path,
    context: &Context<'_>,
) -> Result<Prepared<'a>> {
    let formats = quantizer.formats();
    let format = formats
        .iter()
        .find(|format| format.name == request.format)
        .ok_or_else(|| {
            Error::new(
                ExitCode::PluginUnavailable,
                format!("plugin \"{plugin}\" has no format \"{}\"", request.format),
            )
        })?;
    format.require_level(&request.level)?;
    format.check_options(&request.options)?;
    if let Some(size) = request.group_size
        && !format.group_sizes.contains(&size)
    {
        return Err(Error::invalid_arguments(
            match format.group_sizes.as_slice() {
                [] => format!("the format \"{}\" has no group size to choose", format.name),
                sizes => format!(
                    "the format \"{}\" has group sizes {sizes:?}, not {size}",
                    format.name
                ),
            },
        ));
    }
    let job = quantizer.plan(source, request).by_plugin(plugin)?;
    check_plan(&*job, source.model()).by_plugin(plugin)?;
    let plan = job.plan();
    let memory_needed = preflight::memory_needed(plan, source, context.threads.count());
    let total_bytes = plan.total_bytes().unwrap_or(u64::MAX);
    let destination = Destination::new(folder, plan);
    Ok(Prepared {
        plugin,
        destination,
        memory_needed,
        total_bytes,
        source,
        job,
    })
}

impl Prepared<'_> {
    /// The checks before any long work: memory, output folder, disk.
    ///
    /// # Errors
    /// The first that fails, with what to do.
    pub fn check(&self, model: &Path, overwrite: bool, context: &Context<'_>) -> Result<()> {
        preflight::check_memory(self.memory_needed, context.max_memory)?;
        if self.job.plan().calibration.is_some() {
            return Err(Error::unsupported(format!(
                "plugin \"{}\" needs calibration statistics, which this version does not collect",
                self.plugin
            )));
        }
        preflight::check_destination(&self.destination, model, overwrite)?;
        preflight::check_disk(&self.destination.folder, self.total_bytes)
    }

    /// Does the work.
    ///
    /// # Errors
    /// The first failure. Nothing is left under the output's name.
    pub fn run(self, context: &Context<'_>, before_verify: impl FnOnce()) -> Result<Outcome> {
        let start = Instant::now();
        let plan = self.job.plan();
        let mut staging = Staging::create(self.destination, plan)?;
        staging.copy_side_files(plan, |name| {
            let found = self.source.file(name)?;
            found.ok_or_else(|| Error::validation(format!("the model has no file \"{name}\"")))
        })?;
        let engine = Engine {
            plugin: self.plugin,
            job: &*self.job,
            source: self.source,
            threads: context.threads,
            cancel: context.cancel,
            progress: context.progress,
        };
        let mut maps = staging.map()?;
        let measures = engine.run(&mut maps)?;
        drop(maps);
        context.progress.end();
        before_verify();
        verify::verify(self.plugin, &*self.job, &staging, context.threads)?;
        self.source.check_unchanged()?;
        staging.sync()?;
        let path = staging.publish()?;
        let mut layers: Vec<u32> = plan.units.iter().filter_map(|unit| unit.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        Ok(Outcome {
            path,
            file_size: self.total_bytes,
            duration: start.elapsed(),
            measures,
            layers: layers.len(),
        })
    }
}
