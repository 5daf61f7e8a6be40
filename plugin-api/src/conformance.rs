//! What every plugin must do, whatever its format.
//!
//! Run it in a unit test of your plugin (see the example plugin); the host runs it on
//! any library. It quantizes [`TestModel::tiny_llama`] to each level.

mod flow;

use crate::interface::{
    CalibrationText, CalibrationUse, Converter, Error, ErrorKind, FileView, FormatDescription,
    Inputs, Job, ModelView, PlanRequest, Purpose, Quantizer, Reader, Result, guarded,
};
use crate::testing::{BuiltFile, TestModel, build, views};

/// One thing that a plugin does wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Finding {
    /// The format and level it was found with.
    pub context: String,
    /// What is wrong.
    pub problem: String,
}

/// Runs all checks. An empty list means that the plugin conforms.
///
/// A format that can make use of a calibration is checked with one, and without if it can do
/// without; its statistics are made up. A level that needs an importance matrix, in a format that
/// takes attachments, may refuse to plan without it.
pub fn check(quantizer: Option<&dyn Quantizer>, converter: Option<&dyn Converter>) -> Vec<Finding> {
    check_reporting(quantizer, converter, &mut |_| ())
}

/// As [`check`]; `progress` is told what is checked next (a format, a format and level),
/// so that one who watches from another process knows where a plugin crashed.
pub fn check_reporting(
    quantizer: Option<&dyn Quantizer>,
    converter: Option<&dyn Converter>,
    progress: &mut dyn FnMut(&str),
) -> Vec<Finding> {
    let mut checker = Checker {
        context: String::new(),
        findings: Vec::new(),
        progress,
    };
    if let Some(quantizer) = quantizer {
        for format in quantizer.formats() {
            checker.format(quantizer, converter, &format);
        }
    }
    if let Some(converter) = converter {
        checker.hostile_files(converter);
    }
    checker.findings
}

/// A [`relative_error`] that no encoding has: ternary weights are about 0.7 off, zeros 1.0, the
/// weights of another row or column 1.4.
const FAR: f64 = 0.9;

struct Checker<'a> {
    context: String,
    findings: Vec<Finding>,
    progress: &'a mut dyn FnMut(&str),
}

impl Checker<'_> {
    fn begin(&mut self, context: String) {
        (self.progress)(&context);
        self.context = context;
    }

    fn expect(&mut self, holds: bool, problem: impl Into<String>) {
        if !holds {
            self.findings.push(Finding {
                context: self.context.clone(),
                problem: problem.into(),
            });
        }
    }

    /// The value of a call that must succeed, without a panic.
    fn ok<T>(&mut self, what: &str, call: impl FnOnce() -> Result<T>) -> Option<T> {
        match guarded(call) {
            Ok(value) => Some(value),
            Err(error) => {
                self.expect(false, format!("{what}: {error}"));
                None
            }
        }
    }

    /// A call that must fail, without a panic.
    fn refuses<T>(&mut self, what: &str, call: impl FnOnce() -> Result<T>) {
        match guarded(call) {
            Ok(_) => self.expect(false, format!("{what} was accepted")),
            Err(error) => self.expect(
                error.kind != ErrorKind::Panicked,
                format!("{what}: {error}"),
            ),
        }
    }

    fn format(
        &mut self,
        quantizer: &dyn Quantizer,
        converter: Option<&dyn Converter>,
        format: &FormatDescription,
    ) {
        self.begin(format.name.clone());
        self.expect(
            format
                .name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c)),
            "the format's name must be lower case",
        );
        self.expect(!format.levels.is_empty(), "the format has no levels");
        let mut names: Vec<String> = Vec::new();
        for level in &format.levels {
            names.extend(
                level
                    .aliases
                    .iter()
                    .chain([&level.name])
                    .map(|n| n.to_lowercase()),
            );
        }
        names.sort();
        let count = names.len();
        names.dedup();
        self.expect(names.len() == count, "two levels share a name or alias");
        self.expect(
            format.purpose != Purpose::Analysis || format.levels.len() == 1,
            "an analysis has one level",
        );
        self.requests(quantizer, format);
        for level in &format.levels {
            let context = format!("{} {}", format.name, level.name);
            if format.calibration != CalibrationUse::Always {
                self.begin(context.clone());
                self.level(quantizer, converter, format, &request(format, &level.name));
            }
            if format.calibration != CalibrationUse::Never {
                self.begin(context + " with a calibration");
                let calibrated = calibrated(request(format, &level.name));
                self.level(quantizer, converter, format, &calibrated);
            }
        }
    }

    fn requests(&mut self, quantizer: &dyn Quantizer, format: &FormatDescription) {
        let unknown = match format.calibration {
            CalibrationUse::Always => calibrated(request(format, "no-such-level")),
            _ => request(format, "no-such-level"),
        };
        self.invalid(quantizer, "an unknown level", &unknown);
        if let (CalibrationUse::Always, [level, ..]) = (format.calibration, &format.levels[..]) {
            let uncalibrated = request(format, &level.name);
            self.invalid(quantizer, "a plan without a calibration", &uncalibrated);
        }
    }

    /// A request that a plugin must refuse as the user's fault.
    fn invalid(&mut self, quantizer: &dyn Quantizer, what: &str, request: &PlanRequest) {
        let model = TestModel::tiny_llama();
        match guarded(|| quantizer.plan(&model, request)) {
            Ok(_) => self.expect(false, format!("{what} was accepted")),
            Err(error) => self.expect(
                error.kind == ErrorKind::InvalidRequest,
                format!("{what} must be an invalid request, not {:?}", error.kind),
            ),
        }
    }

    fn level(
        &mut self,
        quantizer: &dyn Quantizer,
        converter: Option<&dyn Converter>,
        format: &FormatDescription,
        request: &PlanRequest,
    ) {
        let model = TestModel::tiny_llama();
        let plan = |quantizer: &dyn Quantizer| Ok(quantizer.plan(&model, request)?.plan().clone());
        let first = guarded(|| plan(quantizer));
        if !format.attachments.is_empty() && first.as_ref().is_err_and(lacks_importance) {
            return;
        }
        let Some(first) = self.ok("plan", || first) else {
            return;
        };
        let second = self.ok("plan again", || plan(quantizer));
        self.expect(
            second.as_ref() == Some(&first),
            "two plans of the same request differ",
        );
        self.expect(
            first
                .tensors
                .iter()
                .all(|t| !t.name.is_empty() && !t.dtype.is_empty()),
            "a planned tensor has no name or type",
        );
        self.expect(
            first.calibration.is_none() || request.calibration.is_some(),
            "the plan asks for a calibration, the request for none",
        );
        let whole = self.ok("encode", || {
            build(quantizer, &model, request, u64::MAX, 0x00)
        });
        let pieces = self.ok("encode in pieces", || {
            build(quantizer, &model, request, 1, 0xFF)
        });
        let (Some((job, whole)), Some((_, pieces))) = (whole, pieces) else {
            return;
        };
        self.expect(
            whole == pieces,
            "the bytes depend on how the rows are cut, or some are not written",
        );
        self.verification(&*job, &whole);
        flow::check(self, &*job, &model, &whole);
        if let (Purpose::Model, Some(converter)) = (format.purpose, converter) {
            self.reading(converter, &*job, &model, &whole);
        }
    }

    fn verification(&mut self, job: &dyn Job, built: &[BuiltFile]) {
        self.ok("verify", || job.verify(&views(built)));
        let mut damaged = built.to_vec();
        if let Some(byte) = damaged[0].bytes.first_mut() {
            *byte ^= 0xFF;
        }
        self.refuses("an output with a damaged first byte", || {
            job.verify(&views(&damaged))
        });
        let mut short = built.to_vec();
        short[0].bytes.pop();
        self.refuses("a truncated output", || job.verify(&views(&short)));
        self.refuses("an output without files", || job.verify(&[]));
    }

    fn reading(
        &mut self,
        converter: &dyn Converter,
        job: &dyn Job,
        model: &TestModel,
        built: &[BuiltFile],
    ) {
        let files = views(built);
        self.expect(converter.detect(&files), "its own output is not detected");
        let opened = self.ok("open", || converter.open(&files, ModelView::HuggingFace));
        if let Some(reader) = opened {
            self.same_model(&*reader, model, &files);
            flow::check_reader(self, &*reader, job, model, built);
        }
        self.ok("open natively", || {
            converter.open(&files, ModelView::Native)
        });
    }

    /// Every weight matrix of the model is there, of the same shape, and near.
    fn same_model(&mut self, reader: &dyn Reader, model: &TestModel, files: &[FileView<'_>]) {
        for (index, tensor) in model.model().tensors.iter().enumerate() {
            let name = &tensor.name;
            let Some(place) = reader.model().tensor_index(name) else {
                self.expect(false, format!("\"{name}\" is missing from the output"));
                continue;
            };
            let shape = &reader.model().tensors[place].shape;
            self.expect(
                *shape == tensor.shape,
                format!("\"{name}\" has shape {shape:?}"),
            );
            if *shape != tensor.shape {
                continue;
            }
            let (rows, cols) = (tensor.rows().unwrap_or(0), tensor.cols() as usize);
            let mut decoded = vec![f32::NAN; rows as usize * cols];
            let whole = self.ok("decode", || {
                reader.decode(files, place, 0..rows, &mut decoded)
            });
            if whole.is_none() {
                continue;
            }
            let mut last = vec![f32::NAN; cols];
            self.ok("decode a row", || {
                reader.decode(files, place, rows - 1..rows, &mut last)
            });
            let tail = &decoded[decoded.len() - cols..];
            self.expect(
                last == tail,
                format!("a row of \"{name}\" decodes differently alone"),
            );
            self.refuses("decoding rows beyond the end", || {
                reader.decode(files, place, rows..rows + 1, &mut last)
            });
            let error = self.ok("compare", || relative_error(model, index, &decoded));
            self.expect(
                error.is_some_and(|error| error < FAR),
                format!("\"{name}\" does not come back: relative error {error:?}"),
            );
        }
    }

    fn hostile_files(&mut self, converter: &dyn Converter) {
        self.begin("reading".into());
        let junk: Vec<u8> = (0u32..4096)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for bytes in [&b""[..], b"\0", b"{}", &junk] {
            let file = FileView {
                name: "junk.bin",
                bytes,
            };
            let len = bytes.len();
            self.expect(
                !converter.detect(&[file]),
                format!("junk of {len} bytes is detected"),
            );
            self.refuses(&format!("junk of {len} bytes"), || {
                converter.open(&[file], ModelView::Native)
            });
        }
        self.refuses("no files at all", || converter.open(&[], ModelView::Native));
    }
}

/// A request for a level, without a calibration.
fn request(format: &FormatDescription, level: &str) -> PlanRequest {
    PlanRequest {
        format: format.name.clone(),
        level: level.into(),
        ..PlanRequest::default()
    }
}

/// The same with a calibration.
fn calibrated(request: PlanRequest) -> PlanRequest {
    PlanRequest {
        calibration: Some(CalibrationText {
            dataset: "made-up.txt".into(),
            samples: 1,
            length: 1,
            fingerprint: "0".into(),
        }),
        ..request
    }
}

/// Whether a plan was refused for want of an importance matrix.
fn lacks_importance(error: &Error) -> bool {
    error.kind == ErrorKind::ImportanceMatrix
}

/// Root of the squared error over the squared weights.
fn relative_error(model: &TestModel, tensor: usize, decoded: &[f32]) -> Result<f64> {
    let view = model.view(tensor, None, false)?;
    let mut row = vec![0.0; view.cols()];
    let (mut error, mut norm) = (0.0, 0.0);
    for (index, decoded) in decoded.chunks_exact(view.cols()).enumerate() {
        view.row_to_f32(index, &mut row)?;
        for (weight, back) in row.iter().zip(decoded) {
            error += f64::from(weight - back).powi(2);
            norm += f64::from(*weight).powi(2);
        }
    }
    Ok((error / norm).sqrt())
}

#[cfg(test)]
mod tests;
