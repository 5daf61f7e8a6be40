//! What a running job tells about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use llm_quantize_plugin_api::Plan;

use super::pieces::Piece;
use crate::error::Result;

/// Someone who is told how far a job is.
pub trait JobProgress: Sync {
    /// The encoding begins.
    fn begin(&self, work: Work);
    /// Some more bytes of the source are done; it counts if the work is measured so.
    fn bytes(&self, done: u64);
    /// Some more tokens went through a block; it counts if the work is measured so.
    fn tokens(&self, _done: u64) {}
    /// Another layer is done.
    fn layer(&self, done: usize, total: usize);
    /// All pieces are done.
    fn end(&self);
    /// Something that the user should know.
    fn note(&self, message: &str);
    /// A step of the work took so long; a detail for whoever looks for lost time.
    fn took(&self, _step: &str, _time: Duration) {}
    /// Something is not as it should be, but the job goes on.
    fn warn(&self, message: &str);
}

/// Does a step of the work and tells how long it took, if it succeeds.
pub fn timed<T>(
    progress: &dyn JobProgress,
    step: &str,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let done = work()?;
    progress.took(step, start.elapsed());
    Ok(done)
}

/// How much there is to do, and how much of it an earlier run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Work {
    /// Layers of the model.
    pub layers: usize,
    /// Layers that are done.
    pub layers_done: usize,
    /// What [`amount`](Self::amount) counts.
    pub unit: WorkUnit,
    /// How much there is to do in all.
    pub amount: u64,
    /// How much of it need not be done again.
    pub amount_done: u64,
}

/// What work is measured in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WorkUnit {
    /// Bytes of the source that are read.
    #[default]
    Bytes,
    /// Tokens that go through a block, each block counted.
    Tokens,
}

/// Counts the layers whose pieces are all done.
pub struct LayerCounter {
    /// Pieces left of each layer.
    left: BTreeMap<u32, AtomicUsize>,
    done: AtomicUsize,
}

impl LayerCounter {
    /// Counts the pieces of each layer; `is_done` says for the place of a piece whether
    /// an earlier run did it.
    pub fn new(plan: &Plan, pieces: &[Piece], is_done: impl Fn(usize) -> bool) -> Self {
        let mut left: BTreeMap<u32, AtomicUsize> = BTreeMap::new();
        for (place, piece) in pieces.iter().enumerate() {
            if let Some(layer) = plan.units[piece.unit].layer {
                *left.entry(layer).or_default().get_mut() += usize::from(!is_done(place));
            }
        }
        let done = left
            .values_mut()
            .filter_map(|left| (*left.get_mut() == 0).then_some(()));
        Self {
            done: AtomicUsize::new(done.count()),
            left,
        }
    }

    /// Number of layers.
    pub fn total(&self) -> usize {
        self.left.len()
    }

    /// Number of layers whose pieces are all done.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// A piece of a unit is done. Whether it was the last of its layer.
    pub fn finished(&self, unit: usize, plan: &Plan, progress: &dyn JobProgress) -> bool {
        let layer = plan.units[unit].layer;
        let Some(left) = layer.and_then(|layer| self.left.get(&layer)) else {
            return false;
        };
        let last = left.fetch_sub(1, Ordering::Relaxed) == 1;
        if last {
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            progress.layer(done, self.total());
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::Unit;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Layers(Mutex<Vec<usize>>);

    impl JobProgress for Layers {
        fn begin(&self, _: Work) {}
        fn bytes(&self, _: u64) {}
        fn layer(&self, done: usize, _: usize) {
            self.0.lock().unwrap().push(done);
        }
        fn end(&self) {}
        fn note(&self, _: &str) {}
        fn warn(&self, _: &str) {}
    }

    #[test]
    fn layers_of_an_earlier_run_count() {
        let unit = |layer| Unit {
            layer,
            ..Unit::default()
        };
        let plan = Plan {
            units: [None, Some(0), Some(1), Some(1)].map(unit).into(),
            ..Plan::default()
        };
        let pieces: Vec<Piece> = (0..4).map(|unit| Piece { unit, rows: 0..1 }).collect();
        let counter = LayerCounter::new(&plan, &pieces, |place| place == 1 || place == 2);
        assert_eq!((counter.total(), counter.done()), (2, 1));
        let told = Layers::default();
        assert!(!counter.finished(0, &plan, &told));
        assert!(counter.finished(3, &plan, &told));
        assert_eq!(counter.done(), 2);
        assert_eq!(told.0.into_inner().unwrap(), [2]);
    }
}
