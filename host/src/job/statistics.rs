//! Statistics that units ask for: who gathers them, and when the engine gets them.
//!
//! Statistics come in waves, a block of the model each, or the layers of a block that share an
//! input: the engine encodes the units of a wave, then those statistics are dropped. So memory
//! holds one block's at a time, whatever the model.

use std::path::Path;

use llm_quantize_plugin_api::{Plan, StatisticRequest, StatisticView, Unit};

use super::{Context, Decoder, Durable, Work};
use crate::error::Result;

/// Someone who can run the model on text and gather statistics.
pub trait Calibrator: Sync {
    /// Refuses a plan whose wishes cannot be met.
    ///
    /// # Errors
    /// If a unit asks for a layer that the model does not have, or the run would have to
    /// proceed in a way that this program cannot.
    fn check(&self, plan: &Plan) -> Result<()>;

    /// The wave in which a plan gets the statistics of a weight; `None` if there is no such layer.
    fn wave(&self, plan: &Plan, site: &str) -> Option<usize>;

    /// The least memory that a run for this plan needs.
    fn memory_needed(&self, plan: &Plan) -> u64;

    /// Begins a run for those waves of a plan that are still to be done, in rising order.
    /// In `folder` it may keep what a later run can go on from; it is the calibrator's own,
    /// and need not exist.
    ///
    /// # Errors
    /// If the folder or temporary files cannot be used.
    fn start<'a>(
        &'a self,
        plan: &Plan,
        waves: &[usize],
        folder: Option<&Path>,
        context: &'a Context<'a>,
    ) -> Result<Box<dyn Statistics + 'a>>;
}

/// A calibration run at work.
pub trait Statistics: Send + Sync {
    /// How much there is to run, in tokens; `None` if everything is known already.
    fn work(&self) -> Option<Work>;

    /// Gathers the statistics of a wave. Waves come in rising order, and some may be left out.
    /// Everything before this wave is encoded, and where its outputs are to flow on, the decoder
    /// has its numbers.
    ///
    /// # Errors
    /// If the model cannot be read, its numbers overflow, or the user interrupts.
    fn gather(&mut self, wave: usize, decoder: &dyn Decoder) -> Result<()>;

    /// A statistic of the wave that was gathered last.
    ///
    /// # Errors
    /// If it is not part of that wave.
    fn view(&self, request: &StatisticRequest) -> Result<StatisticView<'_>>;

    /// The wave's units are encoded. Once what was encoded is `durable`, a later run will not ask
    /// for this wave again; without it there is no later run that goes on.
    ///
    /// # Errors
    /// If the checkpoint cannot be written.
    fn finished(&mut self, wave: usize, durable: Option<Durable>) -> Result<()>;
}

/// The wave of a plan's unit: the last one of those that its statistics come in; `None` for a
/// unit that needs none.
pub fn wave_of(calibrator: &dyn Calibrator, plan: &Plan, unit: &Unit) -> Option<usize> {
    let requests = unit.statistics.iter();
    requests
        .filter_map(|request| calibrator.wave(plan, &request.site))
        .max()
}
