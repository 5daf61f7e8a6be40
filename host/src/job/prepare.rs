//! From a request to a job that may begin: the plan and the checks.

use std::path::Path;

use llm_quantize_plugin_api::{Job, Plan, PlanRequest, Quantizer, Routing, Unit, check_plan};

use super::journal::{self, Checkpoints, Found, Header, Place, PluginId, Subject};
use super::lock::OutputLock;
use super::progress::timed;
use super::staging::{Destination, half_published};
use super::statistics::wave_of;
use super::{Calibrator, Context, TensorSource, preflight};
use crate::error::{Error, ExitCode, PluginResult, Result};

/// A planned job, not begun yet.
pub struct Prepared<'a> {
    /// Who plans and encodes.
    pub plugin: &'a PluginId,
    /// The plan and its encoder.
    pub job: Box<dyn Job>,
    /// Where it goes.
    pub destination: Destination,
    /// Memory that it needs at once.
    pub memory_needed: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    pub(super) source: &'a dyn TensorSource,
    /// Who gathers the statistics that the plan asks for, if it asks for any.
    pub(super) calibrator: Option<&'a dyn Calibrator>,
    request: PlanRequest,
}

/// A job that may begin: the machine has what it needs, and nobody else builds this
/// output.
pub struct Ready<'a> {
    pub(super) prepared: Prepared<'a>,
    pub(super) checkpoint: Checkpoint,
    /// Held until everything else of the job is dropped.
    pub(super) _lock: OutputLock,
}

/// What is known about checkpoints before the work.
pub(super) struct Checkpoint {
    pub place: Place,
    /// What the journal will begin with; `None` if none is wanted.
    pub header: Option<Header>,
    /// What an earlier run left and this one continues.
    pub found: Option<Found>,
}

/// Plans a job and checks the plan, the memory and the disk. Writes nothing. There must be a
/// calibrator if the request has a calibration.
///
/// # Errors
/// The plugin's refusal, an unsound plan, too little memory.
pub fn prepare<'a>(
    plugin: &'a PluginId,
    quantizer: &dyn Quantizer,
    source: &'a dyn TensorSource,
    calibrator: Option<&'a dyn Calibrator>,
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
                format!(
                    "plugin \"{}\" has no format \"{}\"",
                    plugin.id, request.format
                ),
            )
        })?;
    // Groups that are repacked may decide about the level.
    if !(request.level.is_empty() && matches!(request.routing, Routing::Repack { .. })) {
        format.require_level(&request.level)?;
    }
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
    let job = timed(context.progress, "planning", || {
        quantizer.plan(source, request).by_plugin(&plugin.id)
    })?;
    check_plan(&*job, source.model()).by_plugin(&plugin.id)?;
    let plan = job.plan();
    let calibrator = calibrator_of(plan, plugin, calibrator)?;
    // The model is run and its weights are encoded by turns.
    let wave = |unit: &Unit| calibrator.and_then(|c| wave_of(c, plan, unit));
    let encoding = preflight::memory_needed(plan, source, context.threads.count(), wave);
    let running = calibrator.map_or(0, |calibrator| calibrator.memory_needed(plan));
    let memory_needed = encoding.saturating_add(running);
    let total_bytes = plan.total_bytes().unwrap_or(u64::MAX);
    let destination = Destination::new(folder, plan);
    Ok(Prepared {
        plugin,
        destination,
        memory_needed,
        total_bytes,
        source,
        calibrator,
        request: request.clone(),
        job,
    })
}

/// The calibrator, if the plan needs it and it can do what the plan asks for.
fn calibrator_of<'a>(
    plan: &Plan,
    plugin: &PluginId,
    calibrator: Option<&'a dyn Calibrator>,
) -> Result<Option<&'a dyn Calibrator>> {
    if plan.units.iter().all(|unit| unit.statistics.is_empty()) {
        return Ok(None);
    }
    let Some(calibrator) = calibrator else {
        return Err(Error::new(
            ExitCode::PluginFailed,
            format!(
                "plugin \"{}\" asks for statistics of a calibration that was not ordered",
                plugin.id
            ),
        ));
    };
    calibrator.check(plan)?;
    Ok(Some(calibrator))
}

impl<'a> Prepared<'a> {
    /// The checks before any long work: memory, output folder, other runs, an existing
    /// output or checkpoint, disk.
    ///
    /// # Errors
    /// The first that fails, with what to do.
    pub fn check(
        self,
        overwrite: bool,
        checkpoints: &Checkpoints,
        context: &Context<'_>,
    ) -> Result<Ready<'a>> {
        self.check_possible(context)?;
        let lock = OutputLock::take(&self.destination)?;
        let checkpoint = self.find_checkpoint(overwrite, checkpoints)?;
        preflight::check_disk(&self.destination, self.total_bytes)?;
        Ok(Ready {
            prepared: self,
            checkpoint,
            _lock: lock,
        })
    }

    /// As [`check`](Self::check), for a source of which only the headers are here: a
    /// checkpoint is left alone, since it belongs to the whole files.
    ///
    /// # Errors
    /// The first that fails, with what to do.
    pub fn rehearse(
        &self,
        overwrite: bool,
        checkpoints: &Checkpoints,
        context: &Context<'_>,
    ) -> Result<()> {
        self.check_possible(context)?;
        let found = Place::of(checkpoints, &self.destination).and_then(|p| journal::read(&p));
        self.check_absent(overwrite, &found)?;
        preflight::check_disk(&self.destination, self.total_bytes)
    }

    fn check_possible(&self, context: &Context<'_>) -> Result<()> {
        preflight::check_memory(self.memory_needed, context.max_memory)?;
        preflight::check_destination(&self.destination, self.source.origin().path)
    }

    fn find_checkpoint(&self, overwrite: bool, wanted: &Checkpoints) -> Result<Checkpoint> {
        let place = Place::of(wanted, &self.destination);
        let found = match &place {
            Ok(place) if !wanted.off => journal::read(place),
            _ => Ok(None),
        };
        // An output that exists is the more important news than a bad checkpoint.
        self.check_absent(overwrite, &found)?;
        let (place, found) = (place?, found?);
        if wanted.off {
            return Ok(Checkpoint {
                place,
                header: None,
                found: None,
            });
        }
        let subject = Subject {
            plugin: self.plugin,
            job: &*self.job,
            request: &self.request,
            origin: self.source.origin(),
            destination: &self.destination,
        };
        let header = Header::new(&subject, &place)?;
        // A journal whose files are gone has nothing that could be lost.
        let folder = &self.destination.folder;
        let found = found.filter(|found| place.named || found.has_files(folder));
        if let Some(found) = &found {
            found.check(&header, &place, &self.destination)?;
        }
        Ok(Checkpoint {
            place,
            header: Some(header),
            found,
        })
    }

    /// Refuses an existing output; files that an interrupted renaming left under their
    /// own names are none.
    fn check_absent(&self, overwrite: bool, found: &Result<Option<Found>>) -> Result<()> {
        if overwrite {
            return Ok(());
        }
        let publishing = matches!(found, Ok(Some(found)) if found.publishing);
        let own = match publishing {
            true => half_published(&self.destination),
            false => Vec::new(),
        };
        let targets = self
            .destination
            .targets
            .iter()
            .map(|target| target.as_path());
        preflight::check_absent(targets.filter(|target| !own.iter().any(|(_, o)| o == target)))
    }
}
