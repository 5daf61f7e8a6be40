//! Quantizes the layers of a site.

use std::time::Instant;

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::{
    EncodeCall, EncodeReport, Error, ErrorKind, Host, LogLevel, Measure, Result, StatisticView,
    TensorView,
};
use ndarray::{Array2, ArrayView2};

use super::job::{GptqJob, SiteWork};
use super::layers::Layer;
use super::options::Method;
use super::smooth::{POWERS, Smoothing};
use crate::layout::packed;
use crate::solver::{Factor, FactorError, Settings, Solution, SolveError, round_to_nearest, solve};

/// The least part of a calibration's tokens that says enough about a layer; as in GPTQModel. Below
/// it are experts that hardly any token reaches.
const ENOUGH: f64 = 0.005;

/// Encodes the unit of a site.
///
/// # Errors
/// If a weight holds something that is no number, statistics are missing, or on cancellation.
pub fn encode(job: &GptqJob, work: &SiteWork, call: EncodeCall<'_>) -> Result<EncodeReport> {
    let layers = work.layers.len();
    let norms = usize::from(work.has_norm);
    if call.inputs.len() != layers + norms || call.outputs.len() != 3 * layers + norms {
        return Err(Error::internal(format!(
            "a site of {layers} layers got {} inputs and {} outputs",
            call.inputs.len(),
            call.outputs.len()
        )));
    }
    let first = work
        .layers
        .first()
        .ok_or_else(|| Error::internal("a site without layers"))?;
    let (inputs, norm) = call.inputs.split_at(layers);
    let (outputs, norm_output) = call.outputs.split_at_mut(3 * layers);
    let mut site = Site {
        host: &job.host,
        settings: job.wishes.settings(first.shape.inputs),
        inputs: match job.wishes.method {
            Method::Gptq => Some(Measured::of(job, first, call.statistics)?),
            Method::RoundToNearest | Method::Repack => None,
        },
        smoothing: None,
    };
    if let ([norm], [output]) = (norm, norm_output) {
        site.smooth(&work.layers, inputs, norm)?;
        let folded = site.smoothing.as_ref().map(Smoothing::norm);
        output.copy_from_slice(folded.unwrap_or(norm.bytes()));
    }
    let mut report = EncodeReport::default();
    let outputs = outputs.chunks_exact_mut(3);
    for ((layer, input), outputs) in work.layers.iter().zip(inputs).zip(outputs) {
        let [qweight, qzeros, scales] = outputs else {
            continue;
        };
        let start = Instant::now();
        let (solution, mut measures) = site.quantize(layer, input)?;
        let version = job.wishes.version;
        let outputs = [&mut **qweight, &mut **qzeros, &mut **scales];
        packed::write(&job.host, &layer.shape, version, &solution, outputs)?;
        measures.push(("seconds", start.elapsed().as_secs_f64()));
        log(&job.host, layer, &measures);
        let measures = measures.into_iter();
        report
            .measures
            .extend(measures.map(|(name, value)| Measure::of(&layer.module, name, value)));
    }
    Ok(report)
}

fn log(host: &Host, layer: &Layer, measures: &[(&str, f64)]) {
    let figures = measures
        .iter()
        .map(|(name, value)| format!("{name} {value:.3e}"));
    let figures: Vec<String> = figures.collect();
    let line = format!("{}: {}", layer.module, figures.join(", "));
    host.log(LogLevel::Info, &line);
}

/// What is known about the inputs that all layers of a site read.
struct Measured<'a> {
    gram: ArrayView2<'a, f32>,
    tokens: u64,
    /// None where too little is known: then weights are rounded to the nearest.
    factor: Option<Factor>,
}

impl<'a> Measured<'a> {
    fn of(job: &GptqJob, first: &Layer, statistics: &[StatisticView<'a>]) -> Result<Self> {
        let [gram, count] = statistics else {
            let count = statistics.len();
            return Err(Error::internal(format!(
                "2 statistics are needed, not {count}"
            )));
        };
        let (site, inputs) = (&first.module, first.shape.inputs);
        let matrix = ArrayView2::from_shape((gram.rows, gram.cols), gram.data).ok();
        let matrix = matrix.filter(|matrix| matrix.dim() == (inputs, inputs));
        let matrix = matrix.ok_or_else(|| {
            Error::internal(format!(
                "{site} has {inputs} inputs, its Gram matrix others"
            ))
        })?;
        let tokens = count.data.first().copied().unwrap_or(0.0).max(0.0) as u64;
        if (tokens as f64) < ENOUGH * job.tokens as f64 || tokens == 0 {
            let all = job.tokens;
            let why = format!("only {tokens} of {all} tokens reached it");
            warn(&job.host, site, &why);
            return Ok(Self {
                gram: matrix,
                tokens,
                factor: None,
            });
        }
        let settings = job.wishes.settings(inputs);
        let factor = match Factor::new(&job.host, matrix, tokens, &settings) {
            Ok(factor) => Some(factor),
            Err(
                error @ (FactorError::NoTokens
                | FactorError::NotFinite { .. }
                | FactorError::NotDefinite { .. }),
            ) => {
                warn(&job.host, site, &error.to_string());
                None
            }
            Err(error) => return Err(Error::internal(format!("{site}: {error}"))),
        };
        Ok(Self {
            gram: matrix,
            tokens,
            factor,
        })
    }
}

fn warn(host: &Host, site: &str, why: &str) {
    let line = format!("{site} is rounded to the nearest, and what reads the same input: {why}");
    host.log(LogLevel::Warning, &line);
}

/// What the layers of a site have in common.
struct Site<'a> {
    host: &'a Host,
    settings: Settings,
    inputs: Option<Measured<'a>>,
    /// Factors that are folded into the norm; the inputs are those that it gives then.
    smoothing: Option<Smoothing>,
}

type Figures = Vec<(&'static str, f64)>;

impl Site<'_> {
    /// Folds factors into the norm, if that makes the errors of the layers smaller.
    fn smooth(
        &mut self,
        layers: &[Layer],
        inputs: &[TensorView<'_>],
        norm: &TensorView<'_>,
    ) -> Result<()> {
        let Some(Measured {
            gram,
            tokens,
            factor: Some(factor),
        }) = &self.inputs
        else {
            return Ok(());
        };
        let mut least = self.error(layers, inputs, factor, None)?;
        let mut best = None;
        for power in POWERS {
            let Some(smoothing) = Smoothing::new(norm, *gram, power)? else {
                continue;
            };
            let scaled = smoothing.scaled_gram(*gram);
            let factor = Factor::new(self.host, scaled.view(), *tokens, &self.settings);
            // What cannot be solved does not help.
            let Ok(factor) = factor else { continue };
            let error = self.error(layers, inputs, &factor, Some(&smoothing))?;
            if error < least {
                least = error;
                best = Some((smoothing, factor));
            }
        }
        if let (Some((smoothing, factor)), Some(measured)) = (best, &mut self.inputs) {
            self.smoothing = Some(smoothing);
            measured.factor = Some(factor);
        }
        Ok(())
    }

    /// The sum of the layers' relative errors, without refinement.
    fn error(
        &self,
        layers: &[Layer],
        inputs: &[TensorView<'_>],
        factor: &Factor,
        smoothing: Option<&Smoothing>,
    ) -> Result<f64> {
        let mut settings = self.settings;
        settings.refine.rounds = 0;
        let mut sum = 0.0;
        for (layer, input) in layers.iter().zip(inputs) {
            let weight = self.weight(layer, input, smoothing)?;
            let cancelled = || self.host.is_cancelled();
            let solved = solve(self.host, factor, weight.view(), &settings, &cancelled);
            sum += solved.map_err(|error| failed(layer, &error))?.1;
        }
        Ok(sum)
    }

    /// A layer's weight for the inputs that the norm gives.
    fn weight(
        &self,
        layer: &Layer,
        input: &TensorView<'_>,
        smoothing: Option<&Smoothing>,
    ) -> Result<Array2<f32>> {
        let mut weight = widen(self.host, layer, input)?;
        if let Some(smoothing) = smoothing {
            smoothing.scale_weight(&mut weight);
        }
        Ok(weight)
    }

    fn quantize(&self, layer: &Layer, input: &TensorView<'_>) -> Result<(Solution, Figures)> {
        let weight = self.weight(layer, input, self.smoothing.as_ref())?;
        let mut figures = Figures::new();
        if let Some(measured) = &self.inputs {
            figures.push(("tokens", measured.tokens as f64));
            if let Some(factor) = &measured.factor {
                let cancelled = || self.host.is_cancelled();
                let solved = solve(self.host, factor, weight.view(), &self.settings, &cancelled);
                let (solution, error) = solved.map_err(|error| failed(layer, &error))?;
                figures.push(("relative_error", error));
                figures.push(("damping", factor.damping()));
                if let Some(smoothing) = &self.smoothing {
                    figures.push(("smoothing", smoothing.power));
                }
                return Ok((solution, figures));
            }
        }
        if let Some(((row, column), _)) = weight.indexed_iter().find(|(_, w)| !w.is_finite()) {
            return Err(failed(layer, &SolveError::NotFinite { row, column }));
        }
        let solution = round_to_nearest(self.host, weight.view(), &self.settings);
        figures.push(("weight_error", solution.relative_error(weight.view())));
        Ok((solution, figures))
    }
}

fn failed(layer: &Layer, error: &SolveError) -> Error {
    let message = format!("{}: {error}", layer.module);
    match error {
        SolveError::NotFinite { .. } => Error::corrupt(message),
        SolveError::Cancelled => Error::new(ErrorKind::Cancelled, message),
        SolveError::Inputs { .. } | SolveError::Settings => Error::internal(message),
    }
}

/// The numbers of a weight in single precision.
fn widen(host: &Host, layer: &Layer, input: &TensorView<'_>) -> Result<Array2<f32>> {
    let (rows, cols) = (layer.shape.outputs, layer.shape.inputs);
    if (input.rows(), input.cols()) != (rows, cols) {
        return Err(Error::internal(format!(
            "{} has {} x {} weights, planned were {rows} x {cols}",
            layer.module,
            input.rows(),
            input.cols()
        )));
    }
    convert::widen(host, input)
}

#[cfg(test)]
mod tests;
