//! What the host does for a plugin: threads, logging, progress, cancellation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Error, ErrorKind, Result};

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Something failed.
    Error = 0,
    /// The user should know.
    Warning = 1,
    /// Ordinary news.
    Info = 2,
    /// For `--verbosity debug`.
    Debug = 3,
}

impl LogLevel {
    /// The level with this number; unknown ones are [`LogLevel::Debug`].
    pub fn from_code(code: u8) -> Self {
        [Self::Error, Self::Warning, Self::Info]
            .into_iter()
            .find(|level| *level as u8 == code)
            .unwrap_or(Self::Debug)
    }
}

/// The instruction sets that kernels may use, as the host decided once for the
/// whole process. Every level gives the same integer codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum CpuLevel {
    /// What every processor of the architecture has: SSE2 on x86-64, NEON on aarch64,
    /// plain Rust elsewhere.
    Baseline = 0,
    /// x86-64's AVX2, FMA and F16C.
    Avx2 = 1,
    /// x86-64's AVX-512 F, BW, VL, DQ, and all of [`CpuLevel::Avx2`].
    Avx512 = 2,
}

impl CpuLevel {
    /// The highest level that this processor has.
    pub fn detect() -> Self {
        Self::from_code(u8::MAX)
    }

    /// The highest level that this processor has and whose number is at most this one.
    /// That it has the level is what makes the kernels' use of it sound.
    pub fn from_code(code: u8) -> Self {
        [Self::Avx512, Self::Avx2]
            .into_iter()
            .find(|level| *level as u8 <= code && level.is_here())
            .unwrap_or(Self::Baseline)
    }

    /// Whether this processor has the instructions.
    fn is_here(self) -> bool {
        match self {
            Self::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_here()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }
}

/// The services themselves; the host implements them, [`InlineHost`] stands in for
/// it in tests.
pub trait HostServices: Send + Sync {
    /// Runs `task(0..count)` on the host's threads and returns when all are done.
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync));

    /// Shows or records a line.
    fn log(&self, level: LogLevel, message: &str);

    /// Tells how far a long call is.
    fn progress(&self, done: u64, total: u64);

    /// Whether the user wants to stop. Long calls ask now and then and return
    /// [`ErrorKind::Cancelled`].
    fn is_cancelled(&self) -> bool;

    /// The instruction sets to use.
    fn cpu_level(&self) -> CpuLevel;
}

/// A plugin's handle to its host.
#[derive(Clone)]
pub struct Host(Arc<dyn HostServices>);

impl Host {
    /// Wraps an implementation of the services.
    pub fn new(services: impl HostServices + 'static) -> Self {
        Self(Arc::new(services))
    }

    /// Runs `task(0)`, …, `task(count - 1)` on the host's threads. Make the tasks
    /// coarse: a block of rows, not a block of 32 weights.
    ///
    /// # Errors
    /// The first error by number; once a task failed, those not yet begun are
    /// skipped.
    pub fn parallel_for(
        &self,
        count: usize,
        task: impl Fn(usize) -> Result<()> + Sync,
    ) -> Result<()> {
        let failed = AtomicBool::new(false);
        let first: std::sync::Mutex<Option<(usize, Error)>> = std::sync::Mutex::new(None);
        let run = |index: usize| {
            if failed.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = guarded(|| task(index)) {
                failed.store(true, Ordering::Relaxed);
                let mut slot = first.lock().unwrap_or_else(|poison| poison.into_inner());
                if slot.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                    *slot = Some((index, error));
                }
            }
        };
        self.0.parallel_for(count, &run);
        match first.into_inner().unwrap_or_else(|p| p.into_inner()) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Shows or records a line.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.0.log(level, message);
    }

    /// Tells how far a long call is.
    pub fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total);
    }

    /// Whether the user wants to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// The instruction sets to use.
    pub fn cpu_level(&self) -> CpuLevel {
        self.0.cpu_level()
    }

    pub(crate) fn services(&self) -> &dyn HostServices {
        &*self.0
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

/// Runs a body and turns a panic into an error, so that none leaves a library.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        let reason = payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no message".to_owned());
        Err(Error::new(
            ErrorKind::Panicked,
            format!("panicked: {reason}"),
        ))
    })
}

/// A host that runs everything on the calling thread and shows nothing: for tests
/// of plugins in their own process.
#[derive(Debug, Default)]
pub struct InlineHost;

impl HostServices for InlineHost {
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        (0..count).for_each(task);
    }

    fn log(&self, _level: LogLevel, _message: &str) {}

    fn progress(&self, _done: u64, _total: u64) {}

    fn is_cancelled(&self) -> bool {
        false
    }

    fn cpu_level(&self) -> CpuLevel {
        CpuLevel::detect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn parallel_for_runs_every_index_once() {
        let sum = AtomicUsize::new(0);
        Host::new(InlineHost)
            .parallel_for(10, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
                Ok(())
            })
            .unwrap();
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn parallel_for_returns_errors_and_panics() {
        let host = Host::new(InlineHost);
        let error = host
            .parallel_for(3, |i| match i {
                1 => Err(Error::corrupt("row 1")),
                _ => Ok(()),
            })
            .unwrap_err();
        assert_eq!(error.message, "row 1");
        let error = host.parallel_for(1, |_| panic!("boom")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Panicked);
        assert!(error.message.contains("boom"));
    }

    #[test]
    fn cpu_levels_never_exceed_the_processor() {
        assert_eq!(CpuLevel::from_code(0), CpuLevel::Baseline);
        for code in 0..=u8::MAX {
            let level = CpuLevel::from_code(code);
            assert!(level.is_here() && level as u8 <= code, "{code}: {level:?}");
        }
        assert_eq!(CpuLevel::from_code(200), CpuLevel::detect());
        let detected = CpuLevel::detect();
        assert_eq!(CpuLevel::from_code(detected as u8), detected);
    }

    #[test]
    fn cpu_levels_are_those_of_the_architecture() {
        let best = CpuLevel::detect();
        if cfg!(not(target_arch = "x86_64")) {
            assert_eq!(best, CpuLevel::Baseline);
        }
        let wanted = [CpuLevel::Baseline, CpuLevel::Avx2, CpuLevel::Avx512].map(|l| l.min(best));
        assert_eq!([0, 1, 2].map(CpuLevel::from_code), wanted);
    }
}
