//! Tries a library in a process of its own, before its code runs in this one.
//!
//! The process is this program again, with a command of its own ([`child`]). It loads
//! the library, makes its quantizer and converter and asks for its formats. Whatever
//! the library does meanwhile (crash, hang, end the process, print) does no harm; this
//! side ([`watch`]) draws the conclusions. (Another program that uses this library must
//! call [`serve`] before all else, as the command line does.)

mod child;
mod message;
mod watch;

use std::path::Path;
use std::time::Duration;

use llm_quantize_plugin_api::conformance::Finding;
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM};
use signal_hook::low_level::signal_name;

pub use child::serve;
pub use message::Probed;

use super::verdicts::Verdict;
use crate::error::{Error, ExitCode, Result};
use crate::output::printable;
use message::Message;
use watch::{End, Limits, Transcript};

/// Seconds that a library may take to start.
pub const TIMEOUT_VARIABLE: &str = "LLM_QUANTIZE_PROBE_TIMEOUT";

/// The first argument of a probing process.
const COMMAND: &str = "__plugin-probe";

const DEFAULT_SECONDS: u64 = 10;
const MAX_SECONDS: u64 = 3600;

/// The conformance checks quantize a small model to every level of a format, twice.
const CHECKS_TAKE_LONGER: u32 = 30;

/// What a probing process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Loads the library.
    Probe,
    /// Makes the conformance checks, too.
    Check,
}

impl Depth {
    fn word(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Check => "check",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Probe, Self::Check]
            .into_iter()
            .find(|depth| depth.word() == word)
    }
}

/// What the conformance checks came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conformance {
    /// They were all made; what is wrong.
    Findings(Vec<Finding>),
    /// The library did not let them come to an end.
    Broke(String),
}

/// A library that was probed and, if that went well, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// What probing said.
    pub probed: Probed,
    /// What the checks said.
    pub conformance: Option<Conformance>,
    /// The end of what the library printed, which it should not.
    pub output: String,
}

/// Probes libraries.
#[derive(Debug, Clone, Copy)]
pub struct Prober {
    limits: Limits,
}

impl Prober {
    /// With the time that the environment allows.
    ///
    /// # Errors
    /// If the variable is no number of seconds.
    pub fn from_environment() -> Result<Self> {
        Self::new(std::env::var_os(TIMEOUT_VARIABLE).map(|v| v.to_string_lossy().into_owned()))
    }

    fn new(seconds: Option<String>) -> Result<Self> {
        let seconds = match seconds.as_deref().filter(|text| !text.is_empty()) {
            None => Some(DEFAULT_SECONDS),
            Some(text) => text.parse().ok().filter(|s| (1..=MAX_SECONDS).contains(s)),
        };
        let seconds = seconds.ok_or_else(|| {
            Error::invalid_arguments(format!(
                "{TIMEOUT_VARIABLE} must be a whole number of seconds from 1 to {MAX_SECONDS}"
            ))
        })?;
        let probe = Duration::from_secs(seconds);
        let checks = probe * CHECKS_TAKE_LONGER;
        Ok(Self {
            limits: Limits { probe, checks },
        })
    }

    /// Probes a library.
    ///
    /// # Errors
    /// If no process could be started, or the user interrupted it. Whatever the library
    /// does is a verdict.
    pub fn probe(&self, library: &Path) -> Result<Probed> {
        // After the probe there is only the process's end to wait for.
        let checks = self.limits.probe;
        let limits = Limits {
            checks,
            ..self.limits
        };
        let transcript = run(Depth::Probe, library, limits)?;
        let (probed, _) = self.judge(library, &transcript)?;
        match failure(&transcript, limits.checks) {
            Some(how) if probed.verdict == Verdict::Ok => {
                Ok(Probed::lasting(Verdict::Quarantined {
                    reason: format!("{how} after it was probed"),
                }))
            }
            _ => Ok(probed),
        }
    }

    /// Probes a library and makes the conformance checks.
    ///
    /// # Errors
    /// As [`probe`](Self::probe).
    pub fn examine(&self, library: &Path) -> Result<Examined> {
        let transcript = run(Depth::Check, library, self.limits)?;
        let (probed, rest) = self.judge(library, &transcript)?;
        let conformance = match probed.verdict {
            Verdict::Ok => Some(conformance(rest, failure(&transcript, self.limits.checks))),
            _ => None,
        };
        Ok(Examined {
            probed,
            conformance,
            output: printable(&transcript.output),
        })
    }

    /// The verdict, and what was said after it.
    fn judge<'a>(
        &self,
        library: &Path,
        transcript: &'a Transcript,
    ) -> Result<(Probed, &'a [Message])> {
        if let End::Signal(SIGINT | SIGTERM | SIGHUP | SIGQUIT) = transcript.end {
            return Err(Error::new(ExitCode::Interrupted, "interrupted"));
        }
        match transcript.messages.as_slice() {
            [Message::Started, Message::Probed(probed), rest @ ..] => {
                return Ok((probed.clone(), rest));
            }
            [Message::Started, ..] => {}
            _ => {
                return Err(no_process(
                    library,
                    &format!("it did not start: {}", transcript.output),
                ));
            }
        }
        let how = failure(transcript, self.limits.probe);
        let how = how.unwrap_or_else(|| "ended the process (exit code 0)".into());
        let reason = format!(
            "{how} while it was probed{}",
            last_words(&transcript.output)
        );
        Ok((
            Probed {
                verdict: Verdict::Quarantined { reason },
                // Perhaps the system was out of memory.
                lasting: transcript.end != End::Signal(SIGKILL),
            },
            &[],
        ))
    }
}

fn run(depth: Depth, library: &Path, limits: Limits) -> Result<Transcript> {
    watch::run(depth, library, limits).map_err(|error| no_process(library, &error.to_string()))
}

fn no_process(library: &Path, reason: &str) -> Error {
    Error::other(format!(
        "cannot probe the plugin {} in a process of its own: {reason}",
        library.display()
    ))
}

/// What the checks came to, from what was said after the probe.
fn conformance(said: &[Message], failure: Option<String>) -> Conformance {
    let findings = match said.last() {
        Some(Message::Checked { findings }) => Some(findings.clone()),
        _ => None,
    };
    match (findings, failure) {
        (Some(findings), None) => Conformance::Findings(findings),
        (Some(_), Some(how)) => Conformance::Broke(format!("{how} after the checks")),
        (None, how) => {
            let how = how.unwrap_or_else(|| "ended the process (exit code 0)".into());
            let at = said.iter().rev().find_map(|message| match message {
                Message::Checking { context } => Some(format!(" ({context})")),
                _ => None,
            });
            Conformance::Broke(format!("{how} during the checks{}", at.unwrap_or_default()))
        }
    }
}

/// How a process failed to end by itself and well.
fn failure(transcript: &Transcript, limit: Duration) -> Option<String> {
    match transcript.end {
        End::Exited(0) => None,
        End::Exited(code) => Some(format!("ended the process (exit code {code})")),
        End::Signal(signal) => Some(match signal_name(signal) {
            Some(name) => format!("crashed ({name})"),
            None => format!("crashed (signal {signal})"),
        }),
        End::TimedOut => Some(format!("did not return within {} s", limit.as_secs())),
    }
}

/// The last line that was printed: often it says why.
fn last_words(output: &str) -> String {
    let line = output.lines().map(str::trim).rfind(|line| !line.is_empty());
    match line {
        Some(line) => {
            let line: String = printable(line).chars().take(160).collect();
            format!("; its last words: {line}")
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(messages: &[Message], end: End) -> Transcript {
        Transcript {
            messages: messages.to_vec(),
            end,
            output: "one\nout of luck\n".into(),
        }
    }

    fn judge(messages: &[Message], end: End) -> Result<Probed> {
        let prober = Prober::new(None).unwrap();
        let transcript = transcript(messages, end);
        prober
            .judge(Path::new("/x.so"), &transcript)
            .map(|(probed, _)| probed)
    }

    #[track_caller]
    fn reason(messages: &[Message], end: End) -> String {
        match judge(messages, end).unwrap().verdict {
            Verdict::Quarantined { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whatever_keeps_a_library_from_answering_is_quarantine() {
        let started = [Message::Started];
        let crash = reason(&started, End::Signal(11));
        assert!(
            crash.contains("SIGSEGV") && crash.contains("out of luck"),
            "{crash}"
        );
        assert!(reason(&started, End::TimedOut).contains("within 10 s"));
        assert!(reason(&started, End::Exited(0)).contains("exit code 0"));
        assert!(reason(&started, End::Exited(12)).contains("exit code 12"));
        let killed = judge(&started, End::Signal(SIGKILL)).unwrap();
        assert!(!killed.lasting);
        assert!(judge(&started, End::Signal(11)).unwrap().lasting);
    }

    #[test]
    fn what_is_not_the_librarys_fault_is_an_error() {
        let error = judge(&[], End::Exited(0)).unwrap_err();
        assert_eq!(error.class, ExitCode::Other);
        assert!(error.message.contains("/x.so"));
        let error = judge(&[Message::Started], End::Signal(SIGINT)).unwrap_err();
        assert_eq!(error.class, ExitCode::Interrupted);
    }

    #[test]
    fn a_verdict_counts_as_it_is() {
        let probed = Probed::lasting(Verdict::Refused {
            reason: "is old".into(),
        });
        let messages = [Message::Started, Message::Probed(probed.clone())];
        assert_eq!(judge(&messages, End::Exited(0)).unwrap(), probed);
    }

    #[test]
    fn checks_that_break_off_name_the_place() {
        let checking = Message::Checking {
            context: "f Q4".into(),
        };
        let broke = conformance(&[checking], Some("crashed (SIGSEGV)".into()));
        let Conformance::Broke(how) = broke else {
            panic!("{broke:?}")
        };
        assert_eq!(how, "crashed (SIGSEGV) during the checks (f Q4)");
        let checked = [Message::Checked {
            findings: Vec::new(),
        }];
        assert_eq!(
            conformance(&checked, None),
            Conformance::Findings(Vec::new())
        );
        assert!(matches!(
            conformance(&checked, Some("crashed".into())),
            Conformance::Broke(_)
        ));
    }

    #[test]
    fn the_time_limit_is_a_number_of_seconds() {
        let limit = |text: &str| Prober::new(Some(text.into())).map(|p| p.limits.probe.as_secs());
        assert_eq!(limit("3").unwrap(), 3);
        assert_eq!(limit("").unwrap(), 10);
        for bad in ["0", "-1", "1.5", "soon", "3601"] {
            let error = limit(bad).unwrap_err();
            assert_eq!(error.class, ExitCode::InvalidArguments);
            assert!(error.message.contains(TIMEOUT_VARIABLE));
        }
    }
}
