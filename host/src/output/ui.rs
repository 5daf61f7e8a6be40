//! stderr: lines of news, as many as the user wants.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard};

use indicatif::ProgressBar;
use llm_quantize_plugin_api::LogLevel;

use super::printable;
use crate::cli::args::Verbosity;
use crate::job::PluginEvents;

/// What every line begins with.
const PREFIX: &str = "[llm-quantize]";

/// The user's side of stderr.
#[derive(Debug)]
pub struct Ui {
    verbosity: Verbosity,
    terminal: bool,
    colours: bool,
    /// The bar that is on the screen; lines must not tear it.
    bar: Mutex<Option<ProgressBar>>,
}

#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Yellow,
    Red,
}

impl Ui {
    /// For the process's stderr, with colours as its environment wants them.
    pub fn for_stderr(verbosity: Verbosity) -> Self {
        let terminal = io::stderr().is_terminal();
        Self {
            verbosity,
            terminal,
            colours: colours(terminal, |name| std::env::var(name).ok()),
            bar: Mutex::new(None),
        }
    }

    /// Whether stderr is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether colours are wanted.
    pub fn colours(&self) -> bool {
        self.colours
    }

    /// Whether lines of this verbosity are shown.
    pub fn shows(&self, verbosity: Verbosity) -> bool {
        self.verbosity >= verbosity
    }

    /// A step of the work.
    pub fn info(&self, message: &str) {
        self.line(Verbosity::Normal, Tone::Plain, "", message);
    }

    /// Something that the user should know.
    pub fn warn(&self, message: &str) {
        self.line(Verbosity::Normal, Tone::Yellow, "Warning: ", message);
    }

    /// What ended the run.
    pub fn error(&self, message: &str) {
        self.line(Verbosity::Quiet, Tone::Red, "Error: ", message);
    }

    /// What to do about an error.
    pub fn hint(&self, message: &str) {
        self.line(Verbosity::Quiet, Tone::Plain, "Hint: ", message);
    }

    /// A detail for `--verbosity verbose`.
    pub fn verbose(&self, message: &str) {
        self.line(Verbosity::Verbose, Tone::Plain, "", message);
    }

    /// A detail for `--verbosity debug`.
    pub fn debug(&self, message: &str) {
        self.line(Verbosity::Debug, Tone::Plain, "debug: ", message);
    }

    /// Puts a line on stderr as it is, if this verbosity is shown.
    pub(super) fn raw(&self, verbosity: Verbosity, line: &str) {
        if !self.shows(verbosity) {
            return;
        }
        let write = || {
            // If stderr is gone there is nobody to tell.
            let _ = writeln!(io::stderr().lock(), "{line}");
        };
        match &*self.bar() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    pub(super) fn set_bar(&self, bar: Option<ProgressBar>) {
        *self.bar() = bar;
    }

    fn bar(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn line(&self, verbosity: Verbosity, tone: Tone, kind: &str, message: &str) {
        if !self.shows(verbosity) {
            return;
        }
        let message = printable(message);
        let colour = match tone {
            _ if !self.colours => None,
            Tone::Plain => None,
            Tone::Yellow => Some("33"),
            Tone::Red => Some("31"),
        };
        let line = match colour {
            Some(code) => format!("{PREFIX} \x1b[{code}m{kind}\x1b[0m{message}"),
            None => format!("{PREFIX} {kind}{message}"),
        };
        self.raw(verbosity, &line);
    }
}

impl PluginEvents for Ui {
    fn log(&self, level: LogLevel, message: &str) {
        match level {
            LogLevel::Error | LogLevel::Warning => self.warn(message),
            LogLevel::Info => self.verbose(message),
            LogLevel::Debug => self.debug(message),
        }
    }

    fn progress(&self, done: u64, total: u64) {
        self.debug(&format!("a plugin is at {done} of {total}"));
    }
}

/// `NO_COLOR` wins, `CLICOLOR_FORCE` comes second, then the terminal decides.
fn colours(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if set("NO_COLOR").is_some() {
        return false;
    }
    if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") {
        return true;
    }
    terminal && set("TERM").as_deref() != Some("dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_the_usual_variables() {
        let with = |terminal, pairs: &'static [(&str, &str)]| {
            colours(terminal, |name| {
                let found = pairs.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(true, &[]));
        assert!(!with(false, &[]));
        assert!(!with(true, &[("NO_COLOR", "1")]));
        assert!(with(true, &[("NO_COLOR", "")]));
        assert!(with(false, &[("CLICOLOR_FORCE", "1")]));
        assert!(!with(false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!with(true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
        assert!(!with(true, &[("TERM", "dumb")]));
    }
}
