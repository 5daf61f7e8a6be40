//! A quantizer whose layers see what the quantized layers before them give.
//!
//! Each site is a unit: its layers are rounded to multiples of a step that depends on the
//! weights, on what enters the site, and on the norm before it. That is no good format, but each
//! byte of it depends on all that a host has to do for a plan like this.

use std::ops::Range;

use llm_quantize_plugin_api::{
    CalibrationPlan, CalibrationUse, DecodeCall, EncodeCall, EncodeReport, Error, FileContent,
    FileView, Flow, Fold, FormatDescription, Grain, Inputs, Job, LevelInfo, Literal, Measure,
    OutputFile, Plan, PlanRequest, Quantizer, Result, Site, Span, Statistic, StatisticRequest,
    TensorView, Unit, UnitInput,
};

/// The format's name.
pub const FORMAT: &str = "sequential";

const MAGIC: &[u8] = b"SEQUENTIAL\0";
/// Bytes of a layer's step.
const STEP: usize = 4;

/// The levels: what is quantized between two stops, and whose outputs flow on.
const LEVELS: [(&str, Grain, Flow); 3] = [
    ("STAGES", Grain::Stage, Flow::Quantized),
    ("BLOCKS", Grain::Block, Flow::Quantized),
    ("ORIGINAL", Grain::Block, Flow::Original),
];

/// The quantizer.
pub struct Sequential;

struct SequentialJob {
    plan: Plan,
    /// Name and shape of each unit's layers.
    layers: Vec<Vec<Layer>>,
}

struct Layer {
    name: String,
    rows: usize,
    cols: usize,
}

impl Quantizer for Sequential {
    fn formats(&self) -> Vec<FormatDescription> {
        let level = |(name, ..): (&str, Grain, Flow)| LevelInfo {
            name: name.into(),
            bits_per_weight: 8.0,
            ..LevelInfo::default()
        };
        vec![FormatDescription {
            name: FORMAT.into(),
            levels: LEVELS.map(level).into(),
            calibration: CalibrationUse::Always,
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let level = self.formats()[0]
            .require_level(&request.level)?
            .name
            .clone();
        if request.calibration.is_none() {
            return Err(Error::invalid_request("this format needs a calibration"));
        }
        let found = LEVELS.iter().find(|(name, ..)| *name == level);
        let &(_, grain, flow) = found.ok_or_else(|| Error::internal("no such level"))?;
        let model = inputs.model();
        let mut job = SequentialJob {
            plan: Plan {
                level,
                literals: vec![Literal {
                    file: 0,
                    offset: 0,
                    len: MAGIC.len() as u64,
                    blob: 0,
                }],
                calibration: Some(CalibrationPlan { grain, flow }),
                ..Plan::default()
            },
            layers: Vec::new(),
        };
        let mut end = MAGIC.len() as u64;
        for site in &model.sites {
            let layers = site.layers.iter().map(|&place| {
                let tensor = &model.tensors[place];
                Layer {
                    name: tensor.name.clone(),
                    rows: tensor.rows().unwrap_or(0) as usize,
                    cols: tensor.cols() as usize,
                }
            });
            let layers: Vec<Layer> = layers.collect();
            job.plan.units.push(unit(site, &layers, &mut end));
            job.layers.push(layers);
        }
        let name = request.output_name.clone();
        job.plan.files.push(OutputFile {
            name: name.unwrap_or_else(|| "model.sequential".into()),
            size: end,
            content: FileContent::Built,
        });
        Ok(Box::new(job))
    }
}

/// The unit of a site, whose outputs begin at `end`.
fn unit(site: &Site, layers: &[Layer], end: &mut u64) -> Unit {
    let request = |statistic| StatisticRequest {
        site: layers[0].name.clone(),
        statistic,
    };
    let outputs = layers.iter().map(|layer| {
        let len = (STEP + layer.rows * layer.cols) as u64;
        let offset = *end;
        *end += len;
        Span {
            file: 0,
            offset,
            len,
        }
    });
    let outputs = outputs.collect();
    let norm = match site.fold {
        Fold::Norm { weight } => Some(weight),
        _ => None,
    };
    let inputs = site.layers.iter().copied().chain(norm);
    Unit {
        label: layers[0].name.clone(),
        layer: site.block,
        inputs: inputs.map(UnitInput::rows_of).collect(),
        outputs,
        statistics: vec![request(Statistic::Gram), request(Statistic::TokenCount)],
        ..Unit::default()
    }
}

impl Job for SequentialJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, _index: usize) -> &[u8] {
        MAGIC
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let layers = &self.layers[call.unit];
        let (gram, tokens) = (&call.statistics[0], call.statistics[1].data[0]);
        let diagonal = (0..gram.cols).map(|k| gram.data[k * gram.cols + k] / tokens);
        let power = diagonal.sum::<f32>() / gram.cols as f32;
        let unit = magnitude(&call.inputs[layers.len()..])?;
        let mut measures = Vec::new();
        for ((layer, input), output) in layers.iter().zip(call.inputs).zip(call.outputs.iter_mut())
        {
            let weights = numbers(input)?;
            let mean = weights.iter().map(|w| w.abs()).sum::<f32>() / weights.len() as f32;
            let step = mean * (1.0 + 1.0 / (1.0 + power)) / 2.0;
            let (head, codes) = output.split_at_mut(STEP);
            head.copy_from_slice(&(step / unit).to_le_bytes());
            let mut error = 0.0;
            for (w, code) in weights.iter().zip(codes) {
                let rounded = (w / step).round().clamp(-127.0, 127.0);
                error += f64::from(rounded * step - w).powi(2);
                *code = rounded as i8 as u8;
            }
            let name = layer.name.trim_end_matches(".weight");
            measures.push(Measure::of(name, "squared_error", error));
            measures.push(Measure::new("squared_error", error));
        }
        Ok(EncodeReport { measures })
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        let size = self.plan.files[0].size;
        match files {
            [file] if file.bytes.starts_with(MAGIC) && file.bytes.len() as u64 == size => Ok(()),
            _ => Err(Error::verification("the output is not as planned")),
        }
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        let layers = self.layers.get(call.unit);
        let layer = layers.and_then(|layers| layers.get(call.input));
        let stored = call.outputs.get(call.input);
        let refused = || Error::internal("there are no such rows of a layer");
        let (layer, stored) = layer.zip(stored).ok_or_else(refused)?;
        let codes = layer.codes(&call.rows).ok_or_else(refused)?;
        let (head, all) = stored.split_first_chunk().ok_or_else(refused)?;
        let codes = all.get(codes).ok_or_else(refused)?;
        if codes.len() != call.out.len() {
            return Err(refused());
        }
        let step = f32::from_le_bytes(*head) * magnitude(call.vectors)?;
        for (out, code) in call.out.iter_mut().zip(codes) {
            *out = f32::from(*code as i8) * step;
        }
        Ok(())
    }
}

impl Layer {
    /// Where the codes of some rows are.
    fn codes(&self, rows: &Range<u64>) -> Option<Range<usize>> {
        let valid = rows.start <= rows.end && rows.end <= self.rows as u64;
        valid.then(|| rows.start as usize * self.cols..rows.end as usize * self.cols)
    }
}

/// All numbers of a view.
fn numbers(view: &TensorView<'_>) -> Result<Vec<f32>> {
    let mut all = vec![0.0; view.rows() * view.cols()];
    for (row, out) in all.chunks_exact_mut(view.cols()).enumerate() {
        view.row_to_f32(row, out)?;
    }
    Ok(all)
}

/// Mean magnitude of a norm's numbers; 1 where there is no norm.
fn magnitude(norms: &[TensorView<'_>]) -> Result<f32> {
    let Some(norm) = norms.first() else {
        return Ok(1.0);
    };
    let numbers = numbers(norm)?;
    Ok(numbers.iter().map(|x| x.abs()).sum::<f32>() / numbers.len() as f32)
}
