//! Results: they go to stdout, and a reader that has seen enough is no error.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use serde::Serialize;

use super::report::ErrorReport;
use super::ui::Ui;
use crate::cli::args::OutputFormat;
use crate::error::{Error, Result};

/// The process's stdout, once it is kept for results.
static RESERVED: OnceLock<File> = OnceLock::new();

/// From now on only results reach stdout: whatever else in this process prints there,
/// such as a library that a plugin uses, prints to stderr.
pub fn reserve_stdout() {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        if RESERVED.get().is_some() {
            return;
        }
        // Without a stdout or stderr there is nothing to keep apart.
        let Ok(stdout) = io::stdout().as_fd().try_clone_to_owned() else {
            return;
        };
        if RESERVED.set(File::from(stdout)).is_ok() {
            let _ = rustix::stdio::dup2_stdout(io::stderr().as_fd());
        }
    }
}

/// The descriptor that results go to. Only looks at an atomic: signal handlers ask, too.
#[cfg(unix)]
pub fn result_descriptor() -> std::os::fd::RawFd {
    use std::os::fd::AsRawFd;
    RESERVED
        .get()
        .map_or_else(|| io::stdout().as_raw_fd(), AsRawFd::as_raw_fd)
}

/// Writes text to stdout.
///
/// # Errors
/// If stdout cannot be written; a closed pipe (`… | head`) is a success.
pub fn emit(text: &str) -> Result<()> {
    emit_bytes(text.as_bytes())
}

/// Writes bytes to stdout.
///
/// # Errors
/// As [`emit`].
pub fn emit_bytes(bytes: &[u8]) -> Result<()> {
    let written = match RESERVED.get() {
        Some(mut stdout) => stdout.write_all(bytes),
        None => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        }
    };
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::other(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a document on one line.
///
/// # Errors
/// As [`emit`].
pub fn emit_json(document: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string(document)
        .map_err(|error| Error::other(format!("cannot write the result as JSON: {error}")))?;
    text.push('\n');
    emit(&text)
}

/// Tells of a failure on stderr, and with JSON on stdout too.
pub fn emit_error(ui: &Ui, format: OutputFormat, error: &Error) {
    ui.error(&error.message);
    ui.hint(error.advice());
    if format == OutputFormat::Json
        && let Err(failed) = emit_json(&ErrorReport::new(error))
    {
        ui.error(&failed.message);
    }
}
