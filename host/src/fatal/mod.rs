//! Last words: what the user is told when the system would end the process without
//! any.
//!
//! Two things can kill a program that does everything right itself. A mapped file that
//! somebody else shortens, or whose disk fails, turns a read into `SIGBUS`. A plugin
//! with a bug in its unsafe code, or one that calls `abort` or `exit`, takes the host
//! along. Neither can be caught as an error; but the handlers here can say who it was
//! and end with the exit code that the user expects. Outputs under construction stay
//! where they are, so that the next run can go on from there.
//!
//! Code that runs inside a signal handler may not allocate, lock or format. So
//! everything it says is prepared beforehand: [`MappedRange`] for a mapping and
//! [`in_plugin`] for a call.

mod culprit;
mod last_words;
mod ranges;
#[cfg(unix)]
mod signals;

pub use culprit::{Culprit, InPlugin, current, in_plugin};
pub use ranges::{MappedRange, Purpose};

/// Installs the handlers. With `json`, the last words also go to stdout as the
/// document that every failure has.
pub fn install(json: bool) {
    last_words::want_json(json);
    #[cfg(unix)]
    signals::install();
}
