//! The format "imatrix": what a calibration run measures, as an importance matrix's file.

use llm_quantize_plugin_api::{
    CalibrationPlan, CalibrationText, CalibrationUse, Container, EncodeCall, EncodeReport, Error,
    FileContent, FileView, Flow, FormatDescription, Grain, Inputs, Job, LevelInfo, Literal,
    OptionInfo, OptionType, OutputFile, Plan, PlanRequest, PlannedTensor, Purpose, Result, Span,
    Unit,
};

use super::sites::{is_measured, site_of};
use super::{from_gguf, is_native};
use crate::families::{Family, map_model};
use crate::imatrix::{
    EntrySize, Imatrix, ImatrixError, ImatrixLayout, Measured, MeasuredText, lay_out, statistics,
    stored_names,
};
use crate::mixture::{layer_of, walking_order};

/// Name of the format, and of its level.
pub const ANALYSIS: &str = "imatrix";

const PROCESS_OUTPUT: &str = "process-output";
/// The output projection: outside of the blocks, and so only measured if asked for.
const OUTPUT: &str = "output.weight";

/// The format as `plugin info` shows it.
pub fn description() -> FormatDescription {
    FormatDescription {
        name: ANALYSIS.into(),
        description: "importance matrix for GGUF, as llama-imatrix writes it".into(),
        levels: vec![LevelInfo {
            name: ANALYSIS.into(),
            aliases: Vec::new(),
            description: "sums of the squared inputs of each linear layer".into(),
            bits_per_weight: 0.0,
        }],
        options: vec![OptionInfo {
            key: PROCESS_OUTPUT.into(),
            value_type: OptionType::Bool,
            default: "false".into(),
            help: "also measure output.weight".into(),
            repeatable: false,
        }],
        purpose: Purpose::Analysis,
        calibration: CalibrationUse::Always,
        ..FormatDescription::default()
    }
}

/// Plans the file.
///
/// # Errors
/// If there is no calibration text, or the model is of an architecture that cannot be run.
pub fn plan(inputs: &dyn Inputs, request: &PlanRequest) -> Result<AnalysisJob> {
    description().require_level(&request.level)?;
    let text = request.calibration.as_ref().ok_or_else(|| {
        Error::invalid_request(
            "an importance matrix is measured on a calibration text, and none was given",
        )
        .suggest("name one with --calibration-data")
    })?;
    let targets = Targets::of(inputs)?;
    let process_output = request.flag(PROCESS_OUTPUT);
    let mut entries = targets.entries(process_output)?;
    if entries.is_empty() {
        return Err(Error::unsupported(
            "the model has no linear layers whose inputs could be measured",
        ));
    }
    entries.sort_by(|a, b| walking_order(&a.name, &b.name));
    let name = match &request.output_name {
        Some(name) => name.clone(),
        None => format!("{}-{ANALYSIS}.gguf", inputs.model().name),
    };
    let mut job = AnalysisJob::new(name, entries, text)?;
    if process_output && !job.entries.iter().any(|entry| entry.name == OUTPUT) {
        job.plan.warnings.push(format!(
            "the model has no {OUTPUT} of its own: it uses the token embeddings, which are not measured"
        ));
    }
    Ok(job)
}

/// A model's tensors in GGUF's terms.
struct Targets {
    family: Option<&'static Family>,
    architecture: String,
    /// Names and dimensions.
    tensors: Vec<(String, Vec<u64>)>,
}

/// A tensor whose columns' importance is measured.
struct Entry {
    name: String,
    columns: u64,
    /// Hugging Face name of the weight.
    site: String,
}

impl Targets {
    fn of(inputs: &dyn Inputs) -> Result<Self> {
        let model = inputs.model();
        if is_native(model) {
            let draft = from_gguf::draft(inputs)?;
            let architecture = draft.metadata.get::<&str>("general.architecture");
            return Ok(Self {
                family: draft.family,
                architecture: architecture.ok().flatten().unwrap_or_default().into(),
                tensors: draft
                    .tensors
                    .into_iter()
                    .map(|t| (t.name, t.dims))
                    .collect(),
            });
        }
        let mapped = map_model(model)?;
        Ok(Self {
            family: Some(mapped.family),
            architecture: mapped.family.gguf.into(),
            tensors: mapped
                .tensors
                .into_iter()
                .map(|t| (t.name, t.dims))
                .collect(),
        })
    }

    fn entries(self, process_output: bool) -> Result<Vec<Entry>> {
        let wanted = self.tensors.into_iter().filter(|(name, dims)| {
            is_measured(&self.architecture, name, dims) || (process_output && name == OUTPUT)
        });
        wanted
            .map(|(name, dims)| {
                Ok(Entry {
                    site: site_of(self.family, &self.architecture, &name)?,
                    columns: dims.first().copied().unwrap_or(1),
                    name,
                })
            })
            .collect()
    }
}

/// A planned importance matrix.
pub struct AnalysisJob {
    plan: Plan,
    header: Vec<u8>,
    /// One for each unit of the plan.
    entries: Vec<Entry>,
}

impl AnalysisJob {
    fn new(file: String, entries: Vec<Entry>, text: &CalibrationText) -> Result<Self> {
        let sizes: Vec<EntrySize<'_>> = entries
            .iter()
            .map(|entry| EntrySize {
                name: &entry.name,
                columns: entry.columns,
                experts: 1,
            })
            .collect();
        let text = MeasuredText {
            datasets: &[&text.dataset],
            chunk_count: text.samples,
            chunk_size: text.length,
        };
        let refused = |error: ImatrixError| Error::unsupported(error.to_string());
        let laid_out = lay_out(&sizes, text).map_err(refused)?;
        Ok(Self {
            plan: Plan {
                level: ANALYSIS.into(),
                container: Container::Files,
                files: vec![OutputFile {
                    name: file,
                    size: laid_out.file_size,
                    content: FileContent::Built,
                }],
                literals: vec![Literal {
                    file: 0,
                    offset: 0,
                    len: laid_out.header.len() as u64,
                    blob: 0,
                }],
                units: units(&entries, &laid_out),
                tensors: entries.iter().flat_map(planned).collect(),
                calibration: Some(CalibrationPlan {
                    grain: Grain::Block,
                    flow: Flow::Original,
                }),
                warnings: Vec::new(),
            },
            header: laid_out.header,
            entries,
        })
    }

    /// Compares a file that was read back with the plan.
    fn compare(&self, read: &Imatrix) -> Result<(), String> {
        if read.len() != self.entries.len() {
            let (found, planned) = (read.len(), self.entries.len());
            return Err(format!("it has {found} entries, planned were {planned}"));
        }
        for entry in &self.entries {
            let found = read
                .entry(&entry.name)
                .map(|found| found.weights.len() as u64);
            if found != Some(entry.columns) {
                return Err(format!(
                    "\"{}\" has {} values, planned were {}",
                    entry.name,
                    found.unwrap_or(0),
                    entry.columns
                ));
            }
        }
        Ok(())
    }
}

/// A unit for each entry, in the order of the entries.
fn units(entries: &[Entry], laid_out: &ImatrixLayout) -> Vec<Unit> {
    let mut units: Vec<Unit> = entries
        .iter()
        .map(|entry| Unit {
            label: entry.name.clone(),
            layer: layer_of(&entry.name),
            statistics: statistics(&entry.site),
            ..Unit::default()
        })
        .collect();
    for placed in &laid_out.entries {
        if let Some(unit) = units.get_mut(placed.index) {
            unit.outputs = [&placed.sums, &placed.counts]
                .map(|range| Span {
                    file: 0,
                    offset: range.start,
                    len: range.end - range.start,
                })
                .to_vec();
        }
    }
    units
}

/// The two tensors of an entry, for people.
fn planned(entry: &Entry) -> [PlannedTensor; 2] {
    let [sums, counts] = stored_names(&entry.name);
    [(sums, entry.columns), (counts, 1)].map(|(name, columns)| PlannedTensor {
        name,
        dtype: "F32".into(),
        shape: vec![1, columns],
        bytes: columns.saturating_mul(4),
        ..PlannedTensor::default()
    })
}

impl Job for AnalysisJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        match index {
            0 => &self.header,
            _ => &[],
        }
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let unknown = || Error::internal(format!("there is no unit {}", call.unit));
        let entry = self.entries.get(call.unit).ok_or_else(unknown)?;
        let columns = usize::try_from(entry.columns).unwrap_or(usize::MAX);
        let measured = Measured::read(&entry.name, columns, call.statistics)?;
        let [sums, counts] = call.outputs else {
            return Err(Error::internal("an entry has two outputs"));
        };
        put(measured.sums, sums)?;
        put(&[measured.count], counts)?;
        Ok(EncodeReport::default())
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        let ([file], [planned]) = (files, self.plan.files.as_slice()) else {
            return Err(Error::verification("an importance matrix is one file"));
        };
        let wrong = |what: String| Error::verification(format!("\"{}\": {what}", file.name));
        if file.bytes.len() as u64 != planned.size {
            let (found, planned) = (file.bytes.len(), planned.size);
            return Err(wrong(format!(
                "it has {found} bytes, planned were {planned}"
            )));
        }
        if !file.bytes.starts_with(&self.header) {
            return Err(wrong("its header is not as planned".into()));
        }
        let read = Imatrix::parse(file.bytes).map_err(|error| wrong(error.to_string()))?;
        self.compare(&read).map_err(wrong)
    }
}

fn put(numbers: &[f32], out: &mut [u8]) -> Result<()> {
    let (places, []) = out.as_chunks_mut::<4>() else {
        return Err(Error::internal("an entry's output is no row of singles"));
    };
    if places.len() != numbers.len() {
        return Err(Error::internal("an entry's output has another length"));
    }
    for (place, number) in places.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    Ok(())
}
