//! Encodes a plan's pieces on all threads, straight into the mapped output.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm_quantize_plugin_api::{
    AffineGroups, ElementType, EncodeCall, Job, Measure, Plan, StatisticView, TensorView, Unit,
    UnitInput,
};

use super::decoder::{Outputs, layers_of};
use super::journal::{Finished, Journal, Record, checksum};
use super::measured::Measured;
use super::output_map::{OutputMap, Pages};
use super::pieces::Piece;
use super::progress::{JobProgress, LayerCounter, Work, WorkUnit};
use super::queue::{Ahead, order};
use super::staging::span_range;
use super::statistics::{Calibrator, Statistics, wave_of};
use super::sweep::Sweep;
use super::tensor_source::TensorSource;
use super::threads::{CancelFlag, Threads};
use crate::error::{Error, ExitCode, PluginResult, Result};

/// What the engine works with.
pub struct Engine<'a> {
    /// The plugin, for errors.
    pub plugin: &'a str,
    /// The planned job.
    pub job: &'a dyn Job,
    /// The model.
    pub source: &'a dyn TensorSource,
    /// The threads.
    pub threads: &'a Threads,
    /// Set when the user interrupts.
    pub cancel: &'a CancelFlag,
    /// Who is told.
    pub progress: &'a dyn JobProgress,
    /// All pieces of the plan.
    pub pieces: &'a [Piece],
    /// Counts the layers.
    pub layers: &'a LayerCounter,
    /// Who records the finished ones.
    pub journal: Option<&'a Journal>,
    /// Who knows in which wave statistics come.
    pub calibrator: Option<&'a dyn Calibrator>,
}

/// Pieces that can be encoded at the same time.
struct Wave {
    /// The wave of the statistics that they need.
    number: Option<usize>,
    /// Their places, in the order in which they are taken.
    places: Vec<usize>,
}

/// What lasts over all waves.
struct Encoding {
    sweep: Sweep,
    /// What was measured, by the place of the piece.
    fresh: Mutex<Vec<(usize, Vec<Measure>)>>,
}

/// The place of a piece and the parts of the output that it fills. Each is taken by one
/// thread.
type Task<'a> = Mutex<Option<(usize, Vec<&'a mut [u8]>)>>;

/// A piece that was encoded.
struct Encoded {
    crc: u32,
    bytes: u64,
    measures: Vec<Measure>,
}

impl Engine<'_> {
    /// Writes literals and encodes the pieces that are not done into the maps, which are
    /// the plan's files in order. `done` has for each piece what was measured, if an
    /// earlier run did it. `statistics` must be there if a unit asks for some.
    ///
    /// # Errors
    /// The first failing piece's; work not yet begun is skipped.
    pub fn run(
        &self,
        maps: &mut [OutputMap],
        mut done: Vec<Option<Vec<Measure>>>,
        mut statistics: Option<&mut dyn Statistics>,
    ) -> Result<Measured> {
        let plan = self.job.plan();
        self.write_literals(maps)?;
        let is_done = |place: usize| done.get(place).is_some_and(Option::is_some);
        let run = statistics.as_ref().and_then(|run| run.work());
        self.progress.begin(self.work(run, is_done));
        let waves = self.waves((0..self.pieces.len()).filter(|place| !is_done(*place)));
        let encoding = Encoding {
            sweep: Sweep::new(self.threads.count()),
            fresh: Mutex::default(),
        };
        let layers = layers_of(plan, self.source);
        for wave in &waves {
            if let (Some(number), Some(statistics)) = (wave.number, &mut statistics) {
                let outputs = Outputs {
                    plugin: self.plugin,
                    job: self.job,
                    source: self.source,
                    maps,
                    layers: &layers,
                };
                self.threads
                    .inside(|| statistics.gather(number, &outputs))?;
                // What was decoded.
                maps.iter().for_each(OutputMap::release);
            }
            self.encode_all(&wave.places, maps, &encoding, statistics.as_deref())?;
            if let (Some(number), Some(statistics)) = (wave.number, &mut statistics) {
                statistics.finished(number, self.journal.map(Journal::flush))?;
            }
        }
        for (place, measures) in lock(&encoding.fresh).drain(..) {
            done[place] = Some(measures);
        }
        Ok(Measured::sum(done.into_iter().flatten()))
    }

    /// The pieces in the order in which they are taken: first those that need no statistics,
    /// then wave by wave.
    fn waves(&self, todo: impl Iterator<Item = usize>) -> Vec<Wave> {
        let plan = self.job.plan();
        let mut waves: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for place in todo {
            let unit = &plan.units[self.pieces[place].unit];
            let number = self.calibrator.and_then(|c| wave_of(c, plan, unit));
            waves.entry(number).or_default().push(place);
        }
        let ordered = |(number, places)| Wave {
            number,
            places: order(places, |place| self.size(place)),
        };
        waves.into_iter().map(ordered).collect()
    }

    /// Encodes pieces on all threads.
    fn encode_all(
        &self,
        places: &[usize],
        maps: &mut [OutputMap],
        encoding: &Encoding,
        statistics: Option<&dyn Statistics>,
    ) -> Result<()> {
        let (tasks, pages) = assign(self.job.plan(), self.pieces, places, maps)?;
        let ahead = Ahead::new(places.iter().map(|place| self.size(*place)));
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        // One queue: every thread takes the next piece, so nobody waits before the end
        // and memory holds only the pieces in flight.
        self.threads.on_each(|| {
            let mut buffers = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(index) else { break };
                let Some((place, outputs)) = lock(task).take() else {
                    continue;
                };
                ahead.begins(index, |later, most| self.prefetch(places[later], most));
                let piece = &self.pieces[place];
                let encoded = self.encode(piece, outputs, &mut buffers, statistics);
                let written = encoded.as_ref().map_or(0, |encoded| encoded.bytes);
                if encoding
                    .sweep
                    .is_due(self.size(place).saturating_add(written))
                {
                    self.source.release();
                    pages.iter().copied().for_each(Pages::release);
                }
                match encoded.and_then(|encoded| self.record(piece, encoded)) {
                    Ok(measures) => lock(&encoding.fresh).push((place, measures)),
                    Err(error) => {
                        next.store(tasks.len(), Ordering::Relaxed);
                        lock(&failure).get_or_insert(error);
                    }
                }
            }
        });
        match lock(&failure).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// How much there is to do. Where the model is run first, that takes nearly all of the
    /// time, and so it is the measure.
    fn work(&self, run: Option<Work>, is_done: impl Fn(usize) -> bool) -> Work {
        let plan = self.job.plan();
        let done = (0..self.pieces.len()).filter(|place| is_done(*place));
        let (layers, layers_done) = (self.layers.total(), self.layers.done());
        if let Some(run) = run {
            return Work {
                layers,
                layers_done,
                ..run
            };
        }
        Work {
            layers,
            layers_done,
            unit: WorkUnit::Bytes,
            amount: self.input_bytes(plan),
            amount_done: done.map(|place| self.size(place)).sum(),
        }
    }

    /// Tells everyone that a piece is done; gives its measures back.
    fn record(&self, piece: &Piece, encoded: Encoded) -> Result<Vec<Measure>> {
        let plan = self.job.plan();
        let unit = &plan.units[piece.unit];
        self.progress.bytes(self.stored_bytes(unit, piece));
        let ends_layer = self.layers.finished(piece.unit, plan, self.progress);
        let Some(journal) = self.journal else {
            return Ok(encoded.measures);
        };
        let durable = journal.finished(Finished {
            record: Record::new(piece, encoded.crc, &encoded.measures),
            files: unit.outputs.iter().map(|span| span.file).collect(),
            bytes: encoded.bytes,
            ends_layer,
        });
        if let Some(trouble) = journal.trouble() {
            self.progress.warn(&format!(
                "the checkpoint can no longer be written ({trouble}); what is done from now on \
                 would be lost with this run"
            ));
        }
        match durable {
            true => Ok(encoded.measures),
            // The journal's thread has the true reason.
            false => Err(Error::other("the output cannot be written to the disk")),
        }
    }

    fn write_literals(&self, maps: &mut [OutputMap]) -> Result<()> {
        for literal in &self.job.plan().literals {
            let start = usize::try_from(literal.offset).ok();
            let blob = self.job.blob(literal.blob);
            start
                .and_then(|start| {
                    maps.get_mut(literal.file)?
                        .bytes_mut()
                        .get_mut(start..)?
                        .get_mut(..blob.len())
                })
                .ok_or_else(|| self.fault("a literal lies outside its file"))?
                .copy_from_slice(blob);
        }
        Ok(())
    }

    fn encode(
        &self,
        piece: &Piece,
        mut outputs: Vec<&mut [u8]>,
        buffers: &mut Vec<Vec<f32>>,
        statistics: Option<&dyn Statistics>,
    ) -> Result<Encoded> {
        self.cancel.check()?;
        let unit = &self.job.plan().units[piece.unit];
        buffers.resize_with(unit.inputs.len().max(buffers.len()), Vec::new);
        let groups = self.groups(unit, piece)?;
        let inputs = self.read(unit, piece, &groups, buffers)?;
        let requests = unit.statistics.iter();
        let statistics: Vec<StatisticView<'_>> = requests
            .map(|request| match statistics {
                Some(statistics) => statistics.view(request),
                None => Err(self.fault("it asks for statistics without a calibration")),
            })
            .collect::<Result<_>>()?;
        let mut parts: Vec<&mut [u8]> = outputs.iter_mut().map(|part| &mut **part).collect();
        let report = self
            .job
            .encode(EncodeCall {
                unit: piece.unit,
                rows: piece.rows.clone(),
                inputs: &inputs,
                statistics: &statistics,
                outputs: &mut parts,
            })
            .by_plugin(self.plugin)?;
        let written = outputs.iter().map(|part| &**part);
        Ok(Encoded {
            // Only a journal needs it. Now the bytes are still in the caches.
            crc: self.journal.map_or(0, |_| checksum(written.clone())),
            bytes: written.map(|part| part.len() as u64).sum(),
            measures: report.measures,
        })
    }

    /// The piece's inputs and which rows of them it reads.
    fn inputs<'u>(
        &'u self,
        unit: &'u Unit,
        piece: &'u Piece,
    ) -> impl Iterator<Item = (&'u UnitInput, Range<u64>)> {
        unit.inputs.iter().map(|input| {
            let tensor = &self.source.model().tensors[input.tensor];
            let rows = piece.input_rows(unit, input.whole, tensor.rows().unwrap_or(0));
            (input, rows)
        })
    }

    /// The groups of those inputs that are wanted so, in their order.
    fn groups(&self, unit: &Unit, piece: &Piece) -> Result<Vec<AffineGroups>> {
        let inputs = self.inputs(unit, piece).filter(|(input, _)| input.groups);
        inputs
            .map(|(input, rows)| self.source.groups(input.tensor, rows))
            .collect()
    }

    /// Views of the piece's inputs.
    fn read<'b>(
        &'b self,
        unit: &Unit,
        piece: &Piece,
        groups: &'b [AffineGroups],
        buffers: &'b mut [Vec<f32>],
    ) -> Result<Vec<TensorView<'b>>> {
        let mut views = Vec::with_capacity(unit.inputs.len());
        let mut groups = groups.iter();
        for ((input, rows), buffer) in self.inputs(unit, piece).zip(buffers) {
            if input.groups {
                let count = usize::try_from(rows.end - rows.start).unwrap_or(0);
                let of_input = groups.next().map(|groups| groups.views(count));
                views.extend(of_input.transpose()?.into_iter().flatten());
            } else if input.raw {
                let stored = self.source.stored(input.tensor, rows.clone())?;
                views.push(raw_rows(stored, rows)?);
            } else {
                views.push(self.source.rows(input.tensor, rows, buffer)?);
            }
        }
        Ok(views)
    }

    /// Asks the system for what a piece will read, but for no more than so many bytes.
    fn prefetch(&self, place: usize, most: u64) {
        let piece = &self.pieces[place];
        let unit = &self.job.plan().units[piece.unit];
        for (input, rows) in self.inputs(unit, piece) {
            // What every piece of a unit reads is there from the first on.
            if input.whole && piece.rows.start > 0 {
                continue;
            }
            let tensor = &self.source.model().tensors[input.tensor];
            let row_bytes = tensor.bytes / tensor.rows().unwrap_or(1).max(1);
            let count = (most / row_bytes.max(1)).max(1);
            let end = rows.start.saturating_add(count).min(rows.end);
            self.source.prefetch(input.tensor, rows.start..end);
        }
    }

    /// Bytes of the source that all units read, for throughput and ETA.
    fn input_bytes(&self, plan: &Plan) -> u64 {
        let inputs = plan.units.iter().flat_map(|unit| &unit.inputs);
        inputs
            .filter_map(|input| self.source.model().tensors.get(input.tensor))
            .map(|tensor| tensor.bytes)
            .sum()
    }

    /// The stored bytes of the piece at a place.
    fn size(&self, place: usize) -> u64 {
        let piece = &self.pieces[place];
        self.stored_bytes(&self.job.plan().units[piece.unit], piece)
    }

    /// What a piece adds to [`input_bytes`](Self::input_bytes): its share of the
    /// stored bytes, whatever they grow to when decoded.
    fn stored_bytes(&self, unit: &Unit, piece: &Piece) -> u64 {
        let all = self.unit_bytes(unit);
        let Some(split) = unit.split else { return all };
        let up_to = |row: u64| (u128::from(all) * u128::from(row) / u128::from(split.rows)) as u64;
        up_to(piece.rows.end) - up_to(piece.rows.start)
    }

    fn unit_bytes(&self, unit: &Unit) -> u64 {
        let tensors = &self.source.model().tensors;
        unit.inputs
            .iter()
            .map(|input| tensors[input.tensor].bytes)
            .sum()
    }

    fn fault(&self, what: &str) -> Error {
        Error::new(
            ExitCode::PluginFailed,
            format!("plugin \"{}\": {what}", self.plugin),
        )
    }
}

/// The stored bytes of some rows as a raw view.
fn raw_rows(bytes: &[u8], rows: Range<u64>) -> Result<TensorView<'_>> {
    let count = (rows.end - rows.start) as usize;
    let cols = bytes.len() / count.max(1);
    Ok(TensorView::new(ElementType::Raw, count, cols, bytes)?)
}

/// Gives each piece that is to be done, in this order, its own parts of the maps. The
/// plan's spans do not overlap, so the borrow checker can see that no two threads write
/// the same byte. The pages of the maps come with them.
fn assign<'m>(
    plan: &Plan,
    pieces: &[Piece],
    todo: &[usize],
    maps: &'m mut [OutputMap],
) -> Result<(Vec<Task<'m>>, Vec<Pages<'m>>)> {
    let mut spans: Vec<(usize, Range<usize>, usize, usize)> = Vec::new();
    for (index, place) in todo.iter().enumerate() {
        let piece = &pieces[*place];
        for (order, span) in piece.spans(&plan.units[piece.unit]).enumerate() {
            spans.push((span.file, span_range(&span)?, index, order));
        }
    }
    spans.sort_by_key(|(file, range, ..)| (*file, range.start));
    let mut parts: Vec<Vec<(usize, &'m mut [u8])>> = todo.iter().map(|_| Vec::new()).collect();
    let mut spans = spans.into_iter().peekable();
    let mut pages = Vec::with_capacity(maps.len());
    for (file, map) in maps.iter_mut().enumerate() {
        let (mut rest, whole) = map.split_mut();
        pages.push(whole);
        let mut at = 0;
        while let Some((_, range, index, order)) = spans.next_if(|(f, ..)| *f == file) {
            let (_, from) = rest.split_at_mut(range.start - at);
            let (part, after) = from.split_at_mut(range.len());
            parts[index].push((order, part));
            (rest, at) = (after, range.end);
        }
    }
    let tasks = todo.iter().zip(parts).map(|(place, mut parts)| {
        parts.sort_by_key(|(order, _)| *order);
        let outputs = parts.into_iter().map(|(_, part)| part).collect();
        Mutex::new(Some((*place, outputs)))
    });
    Ok((tasks.collect(), pages))
}

/// A lock whose poison does not matter: what it guards is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
