//! Everything that can be said about one file: for those who write or package plugins.

use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::metadata::PluginMetadata;
use serde::Serialize;

use super::config::Config;
use super::discovery::{Rules, compatible, read, trusted};
use super::probe::{Conformance, Examined, Prober};
use super::trust::Asker;
use super::verdicts::{Verdict, Verdicts};
use crate::error::{Error, ExitCode, Result};

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Well.
    Passed,
    /// Not well.
    Failed,
    /// It was not made, because an earlier one failed.
    Skipped,
}

impl Outcome {
    /// For tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked, in one word.
    pub name: &'static str,
    /// How it went.
    pub result: Outcome,
    /// What was found.
    pub detail: String,
}

/// All checks of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file, with links resolved.
    pub path: PathBuf,
    /// Who it says it is.
    pub plugin: Option<PluginMetadata>,
    /// What was checked, in order.
    pub checks: Vec<Check>,
    #[serde(skip)]
    failed: Option<ExitCode>,
}

/// Checks a file that need not lie in a plugin folder. Its code runs in another process
/// only, and only if nothing speaks against it before. Verdicts of earlier runs neither
/// count nor change.
///
/// # Errors
/// If the file does not exist, the configuration is not valid, or no process could be
/// started. What is wrong with the file is in the report.
pub fn examine(file: &Path) -> Result<Report> {
    let path = file.canonicalize().map_err(|error| {
        Error::io("open the plugin", file, error).class(ExitCode::PluginUnavailable)
    })?;
    let rules = Rules {
        asker: &Asker::this_process(),
        config: &Config::load()?.plugins,
        verdicts: &Verdicts::at(None),
    };
    let prober = Prober::from_environment()?;
    let mut report = Report {
        path,
        plugin: None,
        checks: Vec::new(),
        failed: None,
    };
    report.without_code(&rules);
    if report.failed.is_some() {
        for name in ["start", "conformance", "silence"] {
            report.add(name, Outcome::Skipped, "its code was not run");
        }
        return Ok(report);
    }
    let examined = prober.examine(&report.path)?;
    report.with_code(&examined);
    Ok(report)
}

impl Report {
    /// The exit code that the worst failure calls for.
    pub fn failed(&self) -> Option<ExitCode> {
        self.failed
    }

    /// The checks that failed, in order.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| check.result == Outcome::Failed)
    }

    fn without_code(&mut self, rules: &Rules<'_>) {
        let unavailable = ExitCode::PluginUnavailable;
        let trust = trusted(&self.path, rules);
        self.judge(
            "trust",
            trust,
            "only root or you could have changed it",
            unavailable,
        );
        let metadata = match read(&self.path) {
            Ok(metadata) => metadata,
            Err(reason) => return self.judge("metadata", Err(reason), "", unavailable),
        };
        let PluginMetadata {
            id,
            version,
            interface_version,
            formats,
            ..
        } = &metadata;
        let says = format!("{id} {version}, formats: {}", formats.join(", "));
        self.judge("metadata", Ok(()), &says, unavailable);
        let interface = format!("version {interface_version}");
        self.judge("interface", compatible(&metadata), &interface, unavailable);
        if rules.config.pins.contains_key(id) {
            let pin = rules.config.check(id, &self.path);
            self.judge("pin", pin, "it is the pinned library", unavailable);
        }
        self.plugin = Some(metadata);
    }

    fn with_code(&mut self, examined: &Examined) {
        let start = match &examined.probed.verdict {
            Verdict::Ok => Ok(()),
            Verdict::Refused { reason } | Verdict::Quarantined { reason } => Err(reason.clone()),
        };
        let says = "it starts, and has the formats that it promises";
        self.judge("start", start, says, ExitCode::PluginUnavailable);
        match &examined.conformance {
            None => self.add("conformance", Outcome::Skipped, "it does not start"),
            Some(Conformance::Broke(how)) => {
                self.judge("conformance", Err(how.clone()), "", ExitCode::PluginFailed);
            }
            Some(Conformance::Findings(findings)) if findings.is_empty() => {
                let says = "it does what every plugin must";
                self.judge("conformance", Ok(()), says, ExitCode::PluginFailed);
            }
            Some(Conformance::Findings(findings)) => {
                for finding in findings {
                    let problem = format!("{}: {}", finding.context, finding.problem);
                    self.judge("conformance", Err(problem), "", ExitCode::PluginFailed);
                }
            }
        }
        let silence = match examined.output.as_str() {
            "" => Ok(()),
            text => Err(format!("it printed: {text}")),
        };
        self.judge(
            "silence",
            silence,
            "it printed nothing",
            ExitCode::PluginFailed,
        );
    }

    fn judge(
        &mut self,
        name: &'static str,
        result: Result<(), String>,
        says: &str,
        class: ExitCode,
    ) {
        match result {
            Ok(()) => self.add(name, Outcome::Passed, says),
            Err(reason) => {
                self.add(name, Outcome::Failed, &reason);
                self.failed.get_or_insert(class);
            }
        }
    }

    fn add(&mut self, name: &'static str, result: Outcome, detail: &str) {
        self.checks.push(Check {
            name,
            result,
            detail: detail.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::probe::Probed;
    use llm_quantize_plugin_api::conformance::Finding;

    fn report(examined: &Examined) -> Report {
        let mut report = Report {
            path: "/x.so".into(),
            plugin: None,
            checks: Vec::new(),
            failed: None,
        };
        report.with_code(examined);
        report
    }

    fn good() -> Examined {
        Examined {
            probed: Probed::lasting(Verdict::Ok),
            conformance: Some(Conformance::Findings(Vec::new())),
            output: String::new(),
        }
    }

    #[test]
    fn the_first_failure_decides_about_the_exit_code() {
        assert_eq!(report(&good()).failed(), None);
        let reason = "crashed".to_owned();
        let crashed = Examined {
            probed: Probed::lasting(Verdict::Quarantined { reason }),
            conformance: None,
            output: "oh".into(),
        };
        assert_eq!(report(&crashed).failed(), Some(ExitCode::PluginUnavailable));
        let finding = Finding {
            context: "f".into(),
            problem: "p".into(),
        };
        let faulty = Examined {
            conformance: Some(Conformance::Findings(vec![finding.clone(), finding])),
            ..good()
        };
        let faulty = report(&faulty);
        assert_eq!(faulty.failed(), Some(ExitCode::PluginFailed));
        assert_eq!(
            faulty
                .checks
                .iter()
                .filter(|c| c.name == "conformance")
                .count(),
            2
        );
        let noisy = Examined {
            output: "hello".into(),
            ..good()
        };
        assert_eq!(report(&noisy).failed(), Some(ExitCode::PluginFailed));
    }

    #[test]
    fn what_is_no_plugin_is_never_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.so");
        std::fs::write(&file, "text").unwrap();
        let report = examine(&file).unwrap();
        assert_eq!(report.failed(), Some(ExitCode::PluginUnavailable));
        let skipped = report
            .checks
            .iter()
            .filter(|c| c.result == Outcome::Skipped);
        assert_eq!(skipped.count(), 3);
        let missing = examine(&dir.path().join("missing")).unwrap_err();
        assert_eq!(missing.class, ExitCode::PluginUnavailable);
    }
}
