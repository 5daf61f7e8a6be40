//! Does the work of a job, from the first byte to the rename, and leaves a checkpoint
//! if it cannot.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Instant;

use llm_quantize_plugin_api::Measure;

use super::engine::Engine;
use super::journal::{FileStorage, Found, Header, Journal, Place, Taken, cannot_create, take_over};
use super::measured::Measured;
use super::output_map::OutputMap;
use super::pieces::{Piece, cut};
use super::prepare::{Checkpoint, Prepared, Ready};
use super::progress::{JobProgress, LayerCounter, timed};
use super::staging::{Leftovers, Staging, take_back};
use super::statistics::{Statistics, wave_of};
use super::verify::verify;
use super::{Context, Outcome};
use crate::error::{Error, ExitCode, Result};

/// Bytes of the journal for each piece, more or less.
const RECORD_BYTES: u64 = 96;

impl Ready<'_> {
    /// Does the work.
    ///
    /// # Errors
    /// The first failure. Nothing is left under the output's name; what was finished is
    /// kept where the next run can go on with it.
    pub fn run(self, context: &Context<'_>, before_verify: impl FnOnce()) -> Result<Outcome> {
        let start = Instant::now();
        let total_bytes = self.prepared.total_bytes;
        let progress = context.progress;
        let mut build = timed(progress, "laying out the files", || {
            Build::begin(&self.prepared, self.checkpoint, context)
        })?;
        let measured = match build.work(before_verify) {
            Ok(measured) => measured,
            Err(error) => return Err(build.give_up(error)),
        };
        let path = match build.staging.publish() {
            Ok(path) => path,
            Err(error) => return Err(build.give_up(error)),
        };
        if let Err(error) = build.place.remove() {
            progress.warn(&error.message);
        }
        Ok(Outcome {
            path,
            file_size: total_bytes,
            duration: start.elapsed(),
            measures: measured.measures,
            layer_reports: measured.layers,
            layers: build.layers.total(),
            layers_resumed: build.layers_resumed,
            pieces: build.pieces.len(),
            pieces_resumed: build.pieces_resumed,
        })
    }
}

/// A job at work.
struct Build<'a> {
    job: &'a Prepared<'a>,
    context: &'a Context<'a>,
    staging: Staging,
    place: Place,
    pieces: Vec<Piece>,
    layers: LayerCounter,
    layers_resumed: usize,
    pieces_resumed: usize,
    /// Until the engine gets them.
    taken: Taken,
    maps: Vec<OutputMap>,
    /// Until it is finished.
    journal: Option<Journal>,
    /// Pieces in the journal, once it is finished.
    recorded: usize,
}

impl<'a> Build<'a> {
    /// Lays out the files, or takes over those of an earlier run.
    fn begin(
        job: &'a Prepared<'a>,
        checkpoint: Checkpoint,
        context: &'a Context<'a>,
    ) -> Result<Self> {
        let Checkpoint {
            place,
            header,
            found,
        } = checkpoint;
        let plan = job.job.plan();
        match &found {
            // It must be gone before the files that it speaks of.
            None => place.remove()?,
            Some(found) if found.publishing => take_back(&job.destination)?,
            Some(_) => {}
        }
        let leftovers = match found {
            Some(_) => Leftovers::TakeOver,
            None => Leftovers::Replace,
        };
        let staging = Staging::create(job.destination.clone(), plan, leftovers, context.cancel)?;
        let maps = staging.map()?;
        let pieces = cut(plan, job.source.model());
        let records = found.as_ref().map_or(&[][..], |found| &found.records);
        let taken = take_over(
            records,
            plan,
            &pieces,
            &maps,
            context.threads,
            context.cancel,
        )?;
        let layers = LayerCounter::new(plan, &pieces, |place| taken.done[place].is_some());
        let pieces_resumed = taken.done.iter().flatten().count();
        let storage = open_journal(&place, header.as_ref(), found.as_ref(), &staging, &pieces);
        let journal = match storage {
            Some(storage) => start_journal(storage, &place, pieces_resumed, context.progress)?,
            None => None,
        };
        let build = Self {
            job,
            context,
            staging,
            place,
            layers_resumed: layers.done(),
            layers,
            pieces,
            pieces_resumed,
            taken,
            maps,
            journal,
            recorded: pieces_resumed,
        };
        if found.is_some() {
            build.tell_resumed();
        }
        Ok(build)
    }

    fn tell_resumed(&self) {
        let progress = self.context.progress;
        if self.taken.lost > 0 {
            progress.warn(&format!(
                "{} finished pieces are damaged on the disk and are done again",
                self.taken.lost
            ));
        }
        let (done, all, what) = match self.layers_resumed {
            0 => (self.pieces_resumed, self.pieces.len(), "pieces"),
            layers => (layers, self.layers.total(), "layers"),
        };
        progress.note(&format!("Resuming: {done} of {all} {what} are done"));
    }

    /// Everything up to the rename.
    fn work(&mut self, before_verify: impl FnOnce()) -> Result<Measured> {
        let job = self.job;
        let plan = job.job.plan();
        self.staging.copy_side_files(plan, |name| {
            let found = job.source.file(name)?;
            found.ok_or_else(|| Error::validation(format!("the model has no file \"{name}\"")))
        })?;
        let mut maps = std::mem::take(&mut self.maps);
        let done = std::mem::take(&mut self.taken.done);
        let progress = self.context.progress;
        let mut statistics = self.statistics(&done)?;
        let measured = timed(progress, "encoding", || {
            let statistics = statistics.as_mut().map(|run| &mut **run as _);
            self.engine().run(&mut maps, done, statistics)
        })?;
        drop(statistics);
        drop(maps);
        progress.end();
        if let Some(journal) = &self.journal {
            journal.flush();
        }
        before_verify();
        let id = &job.plugin.id;
        timed(progress, "validating", || {
            verify(id, &*job.job, &self.staging, self.context.threads)
        })?;
        job.source.check_unchanged()?;
        timed(progress, "syncing", || self.staging.sync())?;
        self.context.cancel.check()?;
        if let Some(journal) = &self.journal
            && job.destination.targets.len() > 1
        {
            journal.publishing();
        }
        self.finish_journal()?;
        Ok(measured)
    }

    /// Begins the calibration run, if the pieces that are not done need one.
    fn statistics(
        &self,
        done: &[Option<Vec<Measure>>],
    ) -> Result<Option<Box<dyn Statistics + 'a>>> {
        let Some(calibrator) = self.job.calibrator else {
            return Ok(None);
        };
        let plan = self.job.job.plan();
        let todo = self
            .pieces
            .iter()
            .zip(done)
            .filter(|(_, done)| done.is_none());
        let waves = todo.filter_map(|(piece, _)| {
            let unit = &plan.units[piece.unit];
            wave_of(calibrator, plan, unit)
        });
        let waves: Vec<usize> = BTreeSet::from_iter(waves).into_iter().collect();
        let folder = self.journal.as_ref().map(|_| self.place.calibration());
        let run = calibrator.start(plan, &waves, folder.as_deref(), self.context)?;
        Ok(Some(run))
    }

    fn engine(&self) -> Engine<'_> {
        Engine {
            plugin: &self.job.plugin.id,
            job: &*self.job.job,
            source: self.job.source,
            threads: self.context.threads,
            cancel: self.context.cancel,
            progress: self.context.progress,
            pieces: &self.pieces,
            layers: &self.layers,
            journal: self.journal.as_ref(),
            calibrator: self.job.calibrator,
        }
    }

    fn finish_journal(&mut self) -> Result<()> {
        let Some(journal) = self.journal.take() else {
            return Ok(());
        };
        let (recorded, result) = journal.finish();
        self.recorded = recorded;
        result
    }

    /// Leaves what the next run can go on with, or nothing.
    fn give_up(mut self, error: Error) -> Error {
        // If the data cannot be written, everything else is a consequence.
        let error = self.finish_journal().err().unwrap_or(error);
        // With the same source and the same output, a validation fails again.
        let useful = error.class != ExitCode::Validation;
        let keep = useful && self.recorded > 0 && self.place.path.exists();
        self.staging.keep(keep);
        match keep {
            true => kept(error, &self.place),
            false => {
                // The error is the news; a journal without files is no obstacle.
                drop(self.place.remove());
                error
            }
        }
    }
}

/// The journal of this run, which is that of the earlier one if there is one; `None` if
/// none is wanted.
fn open_journal(
    place: &Place,
    header: Option<&Header>,
    found: Option<&Found>,
    staging: &Staging,
    pieces: &[Piece],
) -> Option<std::io::Result<FileStorage>> {
    let header = header?;
    let files = staging.files().to_vec();
    let reserve = (pieces.len() as u64).saturating_mul(RECORD_BYTES);
    Some(match found {
        Some(found) => FileStorage::reopen(place, found.valid, reserve, files),
        None => FileStorage::create(place, header, reserve, files),
    })
}

/// `None` if the disk is full: the output has its space, so the work can go on.
fn start_journal(
    storage: std::io::Result<FileStorage>,
    place: &Place,
    recorded: usize,
    progress: &dyn JobProgress,
) -> Result<Option<Journal>> {
    match storage {
        Ok(storage) => Journal::start(storage, recorded).map(Some),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ) =>
        {
            progress.warn(&format!(
                "there is no space for the checkpoint {}; this run goes on without",
                place.path.display()
            ));
            Ok(None)
        }
        Err(error) => Err(cannot_create(place, error)),
    }
}

/// Adds where the finished work is.
fn kept(error: Error, place: &Place) -> Error {
    let path = place.path.display();
    match error.class {
        ExitCode::Interrupted => {
            let message = format!("interrupted; progress is kept in {path}");
            Error { message, ..error }.suggest("run the same command again to go on from there")
        }
        _ => {
            let advice = error.advice().to_owned();
            error.suggest(format!(
                "{advice}; progress is kept in {path}: the same command goes on from there"
            ))
        }
    }
}
