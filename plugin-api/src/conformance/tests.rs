//! The checks must find what is wrong: each of these plugins breaks one rule.

use super::*;
use crate::interface::{
    CalibrationPlan, EncodeCall, EncodeReport, FileContent, Flow, Grain, Inputs, LevelInfo,
    OutputFile, Plan, Span, Statistic, StatisticRequest, Unit, UnitInput,
};

/// Copies every tensor's bytes; `fault` says what it does wrong.
struct Faulty(&'static str);

impl Quantizer for Faulty {
    fn formats(&self) -> Vec<FormatDescription> {
        let level = |name: &str| LevelInfo {
            name: name.into(),
            ..LevelInfo::default()
        };
        vec![FormatDescription {
            name: if self.0 == "name" { "Upper" } else { "copy" }.into(),
            levels: match self.0 {
                "levels" => vec![level("A"), level("a")],
                "analysis" => vec![level("A"), level("B")],
                _ => vec![level("A")],
            },
            calibration: match self.0 {
                "measures" | "statistic" | "site" | "asks anyway" => CalibrationUse::Optional,
                "always" => CalibrationUse::Always,
                _ => CalibrationUse::Never,
            },
            purpose: match self.0 {
                "analysis" => Purpose::Analysis,
                _ => Purpose::Model,
            },
            attachments: match self.0 {
                "needs a matrix" => vec!["imatrix".into()],
                _ => Vec::new(),
            },
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        if self.0 == "panic" {
            panic!("on purpose");
        }
        if self.0 != "any level" {
            self.formats()[0].require_level(&request.level)?;
        }
        if self.0.ends_with("a matrix") {
            return Err(Error::new(ErrorKind::ImportanceMatrix, "none given"));
        }
        let tensor = &inputs.model().tensors[0];
        let len = tensor.bytes;
        let measures = request.calibration.is_some() || self.0 == "asks anyway";
        let request = |statistic| StatisticRequest {
            site: if self.0 == "site" {
                "nowhere"
            } else {
                &tensor.name
            }
            .into(),
            statistic,
        };
        let plan = Plan {
            calibration: measures.then_some(CalibrationPlan {
                grain: Grain::Stage,
                flow: Flow::Original,
            }),
            files: vec![OutputFile {
                name: "out".into(),
                size: len - u64::from(self.0 == "size"),
                content: FileContent::Built,
            }],
            units: vec![Unit {
                label: "first".into(),
                inputs: vec![UnitInput::rows_of(0)],
                outputs: vec![Span {
                    file: 0,
                    offset: 0,
                    len,
                }],
                statistics: match measures {
                    true => vec![request(Statistic::Gram), request(Statistic::TokenCount)],
                    false => Vec::new(),
                },
                ..Unit::default()
            }],
            ..Plan::default()
        };
        Ok(Box::new(CopyJob {
            plan,
            fault: self.0,
        }))
    }
}

struct CopyJob {
    plan: Plan,
    fault: &'static str,
}

impl Job for CopyJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, _: usize) -> &[u8] {
        &[]
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        if let [gram, count] = call.statistics {
            let sound = gram.data.len() == gram.cols * gram.cols && gram.data[..2] == [1.0, 0.0];
            assert!(sound && gram.cols == call.inputs[0].cols() && count.data == [1.0]);
            if self.fault == "statistic" {
                return Err(crate::Error::internal("does not like it"));
            }
        }
        let skip = usize::from(self.fault == "unwritten");
        call.outputs[0][skip..].copy_from_slice(&call.inputs[0].bytes()[skip..]);
        Ok(EncodeReport::default())
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        let sound = matches!(files, [f] if f.bytes.len() as u64 == self.plan.files[0].size)
            && files[0].bytes[..2] == first_bytes()[..];
        match sound || self.fault == "verify" {
            true => Ok(()),
            false => Err(crate::Error::verification("differs")),
        }
    }
}

fn first_bytes() -> Vec<u8> {
    TestModel::tiny_llama().tensor_bytes(0)[..2].to_vec()
}

fn problems(fault: &'static str) -> String {
    let findings = check(Some(&Faulty(fault)), None);
    findings
        .iter()
        .map(|f| format!("{}\n", f.problem))
        .collect()
}

#[test]
fn a_sound_plugin_has_no_findings() {
    assert_eq!(problems(""), "");
    assert_eq!(problems("needs a matrix"), "");
    assert_eq!(problems("measures"), "");
}

#[test]
fn each_fault_is_found() {
    for (fault, problem) in [
        ("name", "lower case"),
        ("levels", "share a name"),
        ("panic", "on purpose"),
        ("any level", "unknown level was accepted"),
        ("cannot be given a matrix", "none given"),
        ("size", "outside"),
        ("unwritten", "not written"),
        ("verify", "truncated output was accepted"),
        ("statistic", "does not like it"),
        ("site", "statistics of \"nowhere\", which the model lacks"),
        ("asks anyway", "the request for none"),
        ("always", "a plan without a calibration was accepted"),
        ("analysis", "an analysis has one level"),
    ] {
        let found = problems(fault);
        assert!(found.contains(problem), "{fault}: {found}");
    }
}

struct TakesAll;

impl Converter for TakesAll {
    fn detect(&self, _: &[FileView<'_>]) -> bool {
        true
    }

    fn open(&self, _: &[FileView<'_>], _: ModelView) -> Result<Box<dyn Reader>> {
        panic!("not read")
    }
}

#[test]
fn a_reader_that_takes_junk_is_found() {
    let findings = check(None, Some(&TakesAll));
    assert!(findings.iter().any(|f| f.problem.contains("is detected")));
    assert!(findings.iter().any(|f| f.problem.contains("not read")));
}
