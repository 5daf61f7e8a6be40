//! When the pages of the mapped files are let go.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes for each thread that may be touched between two sweeps: a few pieces, so that
/// what the threads are at is seldom taken from them and little else stays.
const EACH: u64 = 8 << 20;

/// Counts the bytes that were touched through maps, and says when all pages should be let
/// go.
///
/// All of them, as the system maps more than what was touched: pages around it, or the
/// whole large page that it lies in. Letting go of what was touched alone would leave
/// these, more and more of them. A thread in the middle of such pages finds them again in
/// the page cache.
pub struct Sweep {
    every: u64,
    since: AtomicU64,
}

impl Sweep {
    /// For so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            every: most(threads),
            since: AtomicU64::new(0),
        }
    }

    /// Notes some bytes; whether it is time.
    pub fn is_due(&self, touched: u64) -> bool {
        let before = self.since.fetch_add(touched, Ordering::Relaxed);
        before / self.every != before.saturating_add(touched) / self.every
    }
}

/// The most bytes that are touched between two sweeps, but for the last piece's.
pub fn most(threads: usize) -> u64 {
    EACH.saturating_mul(threads.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_due_whenever_so_much_was_touched() {
        let sweep = Sweep::new(2);
        let due: Vec<bool> = (0..8).map(|_| sweep.is_due(EACH / 2)).collect();
        assert_eq!(due, [false, false, false, true].repeat(2));
        assert!(sweep.is_due(10 * EACH));
        assert!(!sweep.is_due(0));
        // Nobody has memory for this, but counting it must not fail.
        assert!(Sweep::new(usize::MAX).is_due(u64::MAX));
    }
}
