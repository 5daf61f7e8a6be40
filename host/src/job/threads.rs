//! The host's threads, and what plugins get of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use llm_quantize_plugin_api::{CpuLevel, Host, HostServices, LogLevel};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::fatal;

/// The one pool of the process.
#[derive(Clone)]
pub struct Threads {
    pool: Arc<rayon::ThreadPool>,
    after_task: Arc<RwLock<Option<Hook>>>,
}

/// Something to do after each task of a plugin's loop.
type Hook = Arc<dyn Fn() + Send + Sync>;

impl Threads {
    /// A pool of `count` threads.
    ///
    /// # Errors
    /// If the system refuses the threads.
    pub fn new(count: usize) -> Result<Self> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(count.max(1))
            .thread_name(|index| format!("worker-{index}"))
            .build()
            .map(|pool| Self {
                pool: Arc::new(pool),
                after_task: Arc::default(),
            })
            .map_err(|error| Error::other(format!("cannot start {count} threads: {error}")))
    }

    /// Number of threads.
    pub fn count(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `worker` once on every thread and returns when all are done.
    pub fn on_each(&self, worker: impl Fn() + Sync) {
        self.pool.broadcast(|_| worker());
    }

    /// Runs `body` on one of the threads: loops in it then begin without waking anybody.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.pool.install(body)
    }

    /// Runs `body`; meanwhile `hook` runs after each task of every plugin's loop.
    pub fn after_each_task<T>(
        &self,
        hook: impl Fn() + Send + Sync + 'static,
        body: impl FnOnce() -> T,
    ) -> T {
        let set = |hook| {
            *self
                .after_task
                .write()
                .unwrap_or_else(PoisonError::into_inner) = hook
        };
        set(Some(Arc::new(hook)));
        let result = body();
        set(None);
        result
    }

    /// Runs `task(0)`, …, `task(count - 1)` on the threads and returns when all are done.
    pub fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let hook = self
            .after_task
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // Whoever's loop this is, its tasks are its code on every thread.
        let culprit = fatal::current();
        let run = |index: usize| {
            let _mark = fatal::in_plugin(culprit);
            task(index);
            if let Some(hook) = &hook {
                hook();
            }
        };
        // Inside a worker this is the same pool, so the caller helps.
        self.pool
            .install(|| (0..count).into_par_iter().with_max_len(1).for_each(run));
    }
}

/// Where plugins' lines and progress go.
pub trait PluginEvents: Send + Sync {
    /// A line of a plugin.
    fn log(&self, level: LogLevel, message: &str);
    /// A long call's progress.
    fn progress(&self, done: u64, total: u64);
}

/// A flag that the user's interrupt sets.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends the work if it is set.
    ///
    /// # Errors
    /// [`Error::interrupted`].
    pub fn check(&self) -> Result<()> {
        match self.is_set() {
            true => Err(Error::interrupted()),
            false => Ok(()),
        }
    }

    /// The flag itself, for a signal handler.
    pub fn shared(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// Builds the services that every plugin gets.
pub fn services(threads: &Threads, cancel: &CancelFlag, events: Arc<dyn PluginEvents>) -> Host {
    Host::new(Services {
        threads: threads.clone(),
        cancel: cancel.clone(),
        events,
    })
}

struct Services {
    threads: Threads,
    cancel: CancelFlag,
    events: Arc<dyn PluginEvents>,
}

impl HostServices for Services {
    fn parallel_for(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        self.threads.parallel_for(count, task);
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.events.log(level, message);
    }

    fn progress(&self, done: u64, total: u64) {
        self.events.progress(done, total);
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_set()
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
    fn the_hook_runs_after_each_task_and_only_meanwhile() {
        let threads = Threads::new(2).unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let hook = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        threads.after_each_task(hook, || threads.parallel_for(7, &|_| {}));
        threads.parallel_for(5, &|_| {});
        assert_eq!(count.load(Ordering::Relaxed), 7);
    }

    #[test]
    fn a_worker_that_is_alone_gets_help_from_all_others() {
        let threads = Threads::new(3).unwrap();
        let taken = AtomicUsize::new(0);
        // Each task waits until as many are running as there are threads.
        let running = std::sync::Barrier::new(3);
        threads.on_each(|| {
            if taken.fetch_add(1, Ordering::Relaxed) == 0 {
                threads.parallel_for(3, &|_| {
                    running.wait();
                });
            }
        });
        assert_eq!(taken.into_inner(), 3);
    }

    #[test]
    fn work_nested_in_a_worker_finishes() {
        let threads = Threads::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        threads.on_each(|| {
            threads.parallel_for(100, &|i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 2 * 4950);
    }
}
