//! What a process took.

use std::process::Command;
use std::time::{Duration, Instant};

/// What a finished process took.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// On the clock.
    pub wall: Duration,
    /// Of all its threads, in the program and in the system.
    pub cpu: Duration,
    /// The most memory that was resident at once, with the mapped pages of files.
    pub peak_bytes: u64,
}

/// Runs a command to its end.
///
/// The peak of a process begins with what its parent has at the start, so this program must
/// stay small itself.
///
/// # Errors
/// If it cannot be started, or does not end with success.
pub fn measure(command: &mut Command) -> Result<Usage, String> {
    let start = Instant::now();
    let child = command.spawn().map_err(|error| error.to_string())?;
    let pid = libc::pid_t::try_from(child.id()).map_err(|error| error.to_string())?;
    let mut status = 0;
    // SAFETY: all zeros are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers lead to variables of the right type, and the child is this
    // function's own: nobody else waits for it.
    let ended = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    let wall = start.elapsed();
    if ended != pid || !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        return Err(format!("{command:?} failed (wait status {status})"));
    }
    Ok(Usage {
        wall,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        // KiB on Linux, bytes on macOS.
        peak_bytes: usage.ru_maxrss.unsigned_abs()
            * if cfg!(target_os = "macos") { 1 } else { 1024 },
    })
}

fn time(value: libc::timeval) -> Duration {
    // Their types depend on the system; times are never negative.
    let seconds = u64::try_from(value.tv_sec).unwrap_or(0);
    let micros = u64::try_from(value.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Runs of one program.
#[derive(Debug, Default)]
pub struct Runs(Vec<Usage>);

impl Runs {
    /// Adds a run.
    pub fn push(&mut self, usage: Usage) {
        self.0.push(usage);
    }

    /// Median of the wall times, in seconds.
    pub fn wall(&self) -> f64 {
        self.median(|usage| usage.wall)
    }

    /// Median of the processor times, in seconds.
    pub fn cpu(&self) -> f64 {
        self.median(|usage| usage.cpu)
    }

    /// The highest peak, in MiB.
    pub fn peak(&self) -> f64 {
        let peaks = self.0.iter().map(|usage| usage.peak_bytes);
        peaks.max().unwrap_or(0) as f64 / f64::from(1 << 20)
    }

    fn median(&self, figure: impl Fn(&Usage) -> Duration) -> f64 {
        let mut all: Vec<f64> = self.0.iter().map(|u| figure(u).as_secs_f64()).collect();
        all.sort_by(f64::total_cmp);
        match (all.len() / 2, all.len() % 2) {
            (0, 0) => f64::NAN,
            (half, 0) => f64::midpoint(all[half - 1], all[half]),
            (half, _) => all[half],
        }
    }
}
