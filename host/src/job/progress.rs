//! What a running job tells about itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use llm_quantize_plugin_api::Plan;

use super::pieces::Piece;

/// Someone who is told how far a job is.
pub trait JobProgress: Sync {
    /// The job begins: so many layers, so many source bytes.
    fn begin(&self, layers: usize, bytes: u64);
    /// Some more bytes of the source are done.
    fn bytes(&self, done: u64);
    /// Another layer is done.
    fn layer(&self, done: usize, total: usize);
    /// All pieces are done.
    fn end(&self);
}

/// Counts the layers whose pieces are all done.
pub struct LayerCounter {
    /// Pieces left of each layer.
    left: BTreeMap<u32, AtomicUsize>,
    done: AtomicUsize,
}

impl LayerCounter {
    /// Counts the pieces of each layer.
    pub fn new(plan: &Plan, pieces: &[Piece]) -> Self {
        let mut left: BTreeMap<u32, AtomicUsize> = BTreeMap::new();
        for piece in pieces {
            if let Some(layer) = plan.units[piece.unit].layer {
                *left.entry(layer).or_default().get_mut() += 1;
            }
        }
        Self {
            left,
            done: AtomicUsize::new(0),
        }
    }

    /// Number of layers.
    pub fn total(&self) -> usize {
        self.left.len()
    }

    /// A piece of a unit is done.
    pub fn finished(&self, unit: usize, plan: &Plan, progress: &dyn JobProgress) {
        let layer = plan.units[unit].layer;
        let Some(left) = layer.and_then(|layer| self.left.get(&layer)) else {
            return;
        };
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            progress.layer(done, self.total());
        }
    }
}
