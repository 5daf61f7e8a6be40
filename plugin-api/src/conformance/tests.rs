//! The checks must find what is wrong: each of these plugins breaks one rule.

use super::*;
use crate::interface::{
    CalibrationPlan, DecodeCall, ElementType, EncodeCall, EncodeReport, FileContent, Flow, Grain,
    Inputs, LevelInfo, OutputFile, Plan, Span, Statistic, StatisticRequest, TensorView, Unit,
    UnitInput,
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
                fault if flows(fault) => CalibrationUse::Always,
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
        if flows(self.0) && request.calibration.is_none() {
            return Err(Error::invalid_request("it takes a calibration"));
        }
        let place = place(self.0);
        let tensor = &inputs.model().tensors[place];
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
                flow: match flows(self.0) {
                    true => Flow::Quantized,
                    false => Flow::Original,
                },
            }),
            files: vec![OutputFile {
                name: "out".into(),
                size: len - u64::from(self.0 == "size"),
                content: FileContent::Built,
            }],
            units: vec![Unit {
                label: "first".into(),
                inputs: vec![UnitInput::rows_of(place)],
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
            && files[0].bytes[..2] == first_bytes(self.fault)[..];
        match sound || self.fault == "verify" {
            true => Ok(()),
            false => Err(crate::Error::verification("differs")),
        }
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        let rows = 256;
        let sound = call.unit == 0 && call.input == 0 && call.outputs.len() == 1;
        let beyond = call.rows.end > rows as u64;
        match (sound, beyond, self.fault) {
            (_, _, "flow without a decoder") => return Err(Error::internal("no decoder")),
            (_, true, "flow beyond") => return Ok(()),
            (false, _, "flow anything") => return Ok(()),
            (true, false, _) => {}
            _ => return Err(Error::internal("there is no such layer")),
        }
        let view = TensorView::new(ElementType::BF16, rows, 256, call.outputs[0])?;
        for (row, out) in call.rows.clone().zip(call.out.chunks_exact_mut(256)) {
            view.row_to_f32(row as usize, out)?;
        }
        match self.fault {
            "flow far" => call.out.fill(0.0),
            "flow hole" => call.out[7] = f32::NAN,
            "flow by rows" => call.out[0] += call.rows.start as f32,
            _ => {}
        }
        Ok(())
    }
}

fn first_bytes(fault: &str) -> Vec<u8> {
    TestModel::tiny_llama().tensor_bytes(place(fault))[..2].to_vec()
}

/// Whether a plugin lets the outputs of a quantized layer flow on.
fn flows(fault: &str) -> bool {
    fault.starts_with("flow")
}

/// The place of the tensor that is copied: the embeddings, or the first linear layer.
fn place(fault: &str) -> usize {
    if flows(fault) { 2 } else { 0 }
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
    assert_eq!(problems("flow"), "");
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
        ("flow without a decoder", "encode: no decoder"),
        ("flow hole", "not decoded to numbers"),
        ("flow far", "decoded far from the original"),
        ("flow by rows", "decoded differently in parts"),
        ("flow beyond", "beyond a layer's end was accepted"),
        ("flow anything", "an input that is no layer was accepted"),
        (
            "flow anything",
            "a unit that the plan does not have was accepted",
        ),
        ("flow anything", "without the unit's outputs was accepted"),
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

/// Reads what is stored, a bit off.
struct OffBy(f32);

impl Converter for OffBy {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        files.iter().any(|file| file.bytes.len() == 256 * 256 * 2)
    }

    fn open(&self, files: &[FileView<'_>], _: ModelView) -> Result<Box<dyn Reader>> {
        if !self.detect(files) {
            return Err(Error::corrupt("of another size"));
        }
        let mut model = TestModel::tiny_llama().model().clone();
        model.tensors.truncate(3);
        Ok(Box::new(OffReader(model, self.0)))
    }
}

struct OffReader(crate::ModelDescription, f32);

impl Reader for OffReader {
    fn model(&self) -> &crate::ModelDescription {
        &self.0
    }

    fn file(&self, _: &[FileView<'_>], _: &str) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        _: usize,
        rows: std::ops::Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let view = TensorView::new(ElementType::BF16, 256, 256, files[0].bytes)?;
        for (row, out) in rows.zip(out.chunks_exact_mut(256)) {
            view.row_to_f32(row as usize, out)?;
            out[3] += self.1;
        }
        Ok(())
    }
}

#[test]
fn what_flows_on_is_what_the_reader_finds() {
    let off = |by| {
        let findings = check(Some(&Faulty("flow")), Some(&OffBy(by)));
        let problems = findings.iter().map(|finding| &finding.problem);
        problems
            .filter(|problem| problem.contains("what flows on"))
            .count()
    };
    assert_eq!((off(0.0), off(1e-3)), (0, 1));
}
