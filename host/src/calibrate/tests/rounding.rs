//! A format for the tests: the rounded weights of each site in single precision, by a step that
//! depends on the site's statistics.

use std::sync::{Arc, Mutex};

use llm_quantize_plugin_api as plugin_api;
use plugin_api::{
    CalibrationPlan, CalibrationUse, Container, DecodeCall, EncodeCall, EncodeReport, FileContent,
    FileView, Flow, Fold, FormatDescription, Grain, Inputs, Job, LevelInfo, Measure,
    ModelDescription, OutputFile, Plan, PlanRequest, Quantizer, Result, Site, Span, Statistic,
    StatisticRequest, TensorView, Unit, UnitInput,
};

/// What a unit saw: its label and its site's Gram matrix.
pub type Seen = Arc<Mutex<Vec<(String, Vec<f32>)>>>;

/// The format.
pub struct Rounding {
    pub grain: Grain,
    pub flow: Flow,
    pub seen: Seen,
}

pub struct RoundingJob {
    plan: Plan,
    seen: Seen,
}

pub const LEVEL: &str = "ROUND";

impl Quantizer for Rounding {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![FormatDescription {
            name: "rounding".into(),
            levels: vec![LevelInfo {
                name: LEVEL.into(),
                ..LevelInfo::default()
            }],
            calibration: CalibrationUse::Always,
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, _: &PlanRequest) -> Result<Box<dyn Job>> {
        let model = inputs.model();
        let mut size = 0;
        let units: Vec<Unit> = model
            .sites
            .iter()
            .map(|site| unit(model, site, &mut size))
            .collect();
        let plan = Plan {
            level: LEVEL.into(),
            container: Container::Folder("out".into()),
            files: vec![OutputFile {
                name: "weights.bin".into(),
                size,
                content: FileContent::Built,
            }],
            units,
            calibration: Some(CalibrationPlan {
                grain: self.grain,
                flow: self.flow,
            }),
            ..Plan::default()
        };
        let seen = Arc::clone(&self.seen);
        Ok(Box::new(RoundingJob { plan, seen }))
    }
}

fn unit(model: &ModelDescription, site: &Site, size: &mut u64) -> Unit {
    let first = &model.tensors[site.layers[0]].name;
    let outputs = site.layers.iter().map(|layer| {
        let tensor = &model.tensors[*layer];
        let span = Span {
            file: 0,
            offset: *size,
            len: tensor.shape.iter().product::<u64>() * 4,
        };
        *size += span.len;
        span
    });
    let outputs = outputs.collect();
    let norm = match site.fold {
        Fold::Norm { weight } => Some(weight),
        _ => None,
    };
    let inputs = site.layers.iter().copied().chain(norm);
    let request = |statistic| StatisticRequest {
        site: first.clone(),
        statistic,
    };
    Unit {
        label: first.clone(),
        layer: site.block,
        inputs: inputs.map(UnitInput::rows_of).collect(),
        outputs,
        statistics: vec![request(Statistic::Gram), request(Statistic::TokenCount)],
        ..Unit::default()
    }
}

impl Job for RoundingJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, _: usize) -> &[u8] {
        &[]
    }

    /// Rounds each layer, and multiplies its columns with the norm, if there is one.
    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let unit = &self.plan.units[call.unit];
        let (gram, tokens) = (&call.statistics[0], call.statistics[1].data[0]);
        let seen = (unit.label.clone(), gram.data.to_vec());
        self.seen.lock().unwrap().push(seen);
        let diagonal = (0..gram.cols).map(|k| gram.data[k * gram.cols + k] / tokens);
        let power = diagonal.sum::<f32>() / gram.cols as f32;
        let layers = call.outputs.len();
        let norm = numbers(call.inputs.get(layers))?;
        let mut measures = Vec::new();
        for (input, output) in call.inputs.iter().zip(call.outputs.iter_mut()) {
            let weights = numbers(Some(input))?;
            let mean = weights.iter().map(|w| w.abs()).sum::<f32>() / weights.len() as f32;
            let step = mean * (1.0 + 1.0 / (1.0 + power));
            let mut error = 0.0;
            for (index, (w, out)) in weights.iter().zip(output.chunks_exact_mut(4)).enumerate() {
                let rounded = (w / step).round() * step;
                error += f64::from(rounded - w).powi(2);
                let folded = rounded * norm.get(index % input.cols()).unwrap_or(&1.0);
                out.copy_from_slice(&folded.to_le_bytes());
            }
            measures.push(Measure::new("squared_error", error));
            measures.push(Measure::of(&unit.label, "squared_error", error));
        }
        Ok(EncodeReport { measures })
    }

    fn verify(&self, _: &[FileView<'_>]) -> Result<()> {
        Ok(())
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        let norm = numbers(call.vectors.first())?;
        let rows = call.rows.end - call.rows.start;
        let cols = call.out.len() / rows as usize;
        let start = call.rows.start as usize * cols * 4;
        let stored = call.outputs[call.input][start..].chunks_exact(4);
        for (index, (out, stored)) in call.out.iter_mut().zip(stored).enumerate() {
            let folded = f32::from_le_bytes(stored.try_into().unwrap());
            *out = folded / norm.get(index % cols).unwrap_or(&1.0);
        }
        Ok(())
    }
}

/// All numbers of a view; none of none.
fn numbers(view: Option<&TensorView<'_>>) -> Result<Vec<f32>> {
    let Some(view) = view else {
        return Ok(Vec::new());
    };
    let mut all = vec![0.0; view.rows() * view.cols()];
    for (row, out) in all.chunks_exact_mut(view.cols()).enumerate() {
        view.row_to_f32(row, out)?;
    }
    Ok(all)
}
