//! Quantizes the layers of a block.

use std::time::Instant;

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::kernels::grouped::Solution;
use llm_quantize_plugin_api::{
    EncodeCall, EncodeReport, Error, ErrorKind, Host, LogLevel, Measure, Result, TensorView,
};
use ndarray::Array2;

use super::job::{AwqJob, BlockWork};
use super::layers::Layer;
use super::options::Method;
use crate::layout::packed;
use crate::rounding::round_to_nearest;

/// Encodes the unit of a block.
///
/// # Errors
/// If a weight holds something that is no number, or on cancellation.
pub fn encode(job: &AwqJob, work: &BlockWork, call: EncodeCall<'_>) -> Result<EncodeReport> {
    let layers = work.layers().count();
    if call.inputs.len() != layers || call.outputs.len() != 3 * layers {
        return Err(Error::internal(format!(
            "a block of {layers} layers got {} inputs and {} outputs",
            call.inputs.len(),
            call.outputs.len()
        )));
    }
    let mut report = EncodeReport::default();
    let outputs = call.outputs.chunks_exact_mut(3);
    for ((layer, input), outputs) in work.layers().zip(call.inputs).zip(outputs) {
        let [qweight, qzeros, scales] = outputs else {
            continue;
        };
        if job.host.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
        }
        let start = Instant::now();
        let weight = weight(&job.host, layer, input)?;
        let solution = match job.wishes.method {
            Method::RoundToNearest => round_to_nearest(&job.host, weight.view(), layer.shape.group),
        };
        let outputs = [&mut **qweight, &mut **qzeros, &mut **scales];
        packed::write(&job.host, &layer.shape, &solution, outputs)?;
        let seconds = start.elapsed().as_secs_f64();
        report_layer(&job.host, layer, &weight, &solution, seconds, &mut report);
    }
    Ok(report)
}

/// A layer's weight in single precision: finite, and of the planned size.
fn weight(host: &Host, layer: &Layer, input: &TensorView<'_>) -> Result<Array2<f32>> {
    let (rows, cols) = (layer.shape.outputs, layer.shape.inputs);
    if (input.rows(), input.cols()) != (rows, cols) {
        return Err(Error::internal(format!(
            "{} has {} x {} weights, planned were {rows} x {cols}",
            layer.module,
            input.rows(),
            input.cols()
        )));
    }
    let weight = convert::widen(host, input)?;
    match weight.indexed_iter().find(|(_, w)| !w.is_finite()) {
        None => Ok(weight),
        Some(((row, column), weight)) => Err(Error::corrupt(format!(
            "{}: the weight in row {row}, column {column} is {weight}",
            layer.module
        ))
        .suggest("get the model's files again, or find out which program wrote them")),
    }
}

/// Says what came of a layer, to the log and in the report.
fn report_layer(
    host: &Host,
    layer: &Layer,
    weight: &Array2<f32>,
    solution: &Solution,
    seconds: f64,
    report: &mut EncodeReport,
) {
    let error = solution.relative_error(weight.view());
    let module = &layer.module;
    host.log(
        LogLevel::Info,
        &format!("{module}: weight_error {error:.3e}"),
    );
    for (name, value) in [("weight_error", error), ("seconds", seconds)] {
        report.measures.push(Measure::of(module, name, value));
    }
}

#[cfg(test)]
mod tests;
