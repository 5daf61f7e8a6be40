//! Where the time went.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Time that a [`Forward`](super::Forward) spent on its kinds of work, summed over its calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Linear layers.
    pub linear: Duration,
    /// Attention: from turned queries and keys to what they gather.
    pub attention: Duration,
    /// Norms, rotary positions and activations.
    pub rest: Duration,
}

/// A kind of work.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Linear,
    Attention,
    Rest,
}

/// Nanoseconds of each kind of work.
#[derive(Debug, Default)]
pub(super) struct Clock([AtomicU64; 3]);

impl Clock {
    /// Does some work and counts the time that it takes.
    pub(super) fn time<T>(&self, work: Work, body: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = body();
        let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.0[work as usize].fetch_add(nanoseconds, Ordering::Relaxed);
        result
    }

    pub(super) fn spent(&self) -> Spent {
        let of = |work| Duration::from_nanos(self.0[work as usize].load(Ordering::Relaxed));
        Spent {
            linear: of(Work::Linear),
            attention: of(Work::Attention),
            rest: of(Work::Rest),
        }
    }
}
