//! The job engine: from a planned output to finished, verified files.
//!
//! plan → checks → staging (files at full size, under temporary names) → pieces on
//! all threads, each straight into the mapped output → sync → verify → rename.
//! The staged files are their own checkpoint: a [journal](journal) says which pieces are
//! in them, and the same command goes on from there.

mod decoder;
mod engine;
mod journal;
mod lock;
mod measured;
mod output_map;
mod pieces;
mod preflight;
mod prepare;
mod progress;
mod queue;
mod run;
mod staging;
mod statistics;
mod sweep;
mod tensor_source;
mod threads;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

pub use decoder::Decoder;
pub(crate) use journal::FileMark;
pub use journal::{Checkpoints, Durable, PluginId};
pub use measured::{LayerReport, Measured, Measures};
pub use prepare::{Prepared, Ready, prepare};
pub use progress::{JobProgress, Work, WorkUnit};
pub use staging::Destination;
pub use statistics::{Calibrator, Statistics};
pub use tensor_source::{Origin, TensorSource};
pub use threads::{CancelFlag, PluginEvents, Threads, services};

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

/// A finished job.
#[derive(Debug)]
pub struct Outcome {
    /// The main file or the folder.
    pub path: PathBuf,
    /// Bytes of all files.
    pub file_size: u64,
    /// Time from the first byte to the rename.
    pub duration: Duration,
    /// Sums of what the plugin measured of the whole output.
    pub measures: Measures,
    /// What it measured of each layer, in the plan's order.
    pub layer_reports: Vec<LayerReport>,
    /// The model's layers that were encoded.
    pub layers: usize,
    /// Of these, the layers that an earlier run had finished.
    pub layers_resumed: usize,
    /// The pieces that the work was cut into.
    pub pieces: usize,
    /// Of these, the pieces that an earlier run had finished.
    pub pieces_resumed: usize,
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wave_tests;
