//! What a probing process tells the one that started it: one JSON document a line.

use llm_quantize_plugin_api::conformance::Finding;
use serde::{Deserialize, Serialize};

use crate::plugins::verdicts::Verdict;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// The first line: this is the right program, and nothing of the library has run.
    Started,
    /// The library was loaded and asked.
    Probed(Probed),
    /// What is checked next.
    Checking {
        /// A format, or a format and level.
        context: String,
    },
    /// All checks were made.
    Checked {
        /// What is wrong.
        findings: Vec<Finding>,
    },
}

/// The result of probing a library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// What it is.
    pub verdict: Verdict,
    /// Whether it stays so until the library changes; if not, the cause may lie
    /// elsewhere, e.g. in a library that is missing on this machine.
    pub lasting: bool,
}

impl Probed {
    /// A verdict about the library itself.
    pub fn lasting(verdict: Verdict) -> Self {
        Self {
            verdict,
            lasting: true,
        }
    }
}
