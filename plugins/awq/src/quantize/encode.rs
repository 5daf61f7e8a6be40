//! Quantizes the layers of a block.

use std::time::Instant;

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::kernels::grouped::Solution;
use llm_quantize_plugin_api::kernels::product::Prepared;
use llm_quantize_plugin_api::{
    EncodeCall, EncodeReport, Error, ErrorKind, Host, LogLevel, Measure, Result, StatisticView,
    TensorView,
};
use ndarray::{Array2, ArrayView2};

use super::fold::divide;
use super::job::{AwqJob, BlockWork, SiteWork, Target};
use super::layers::Layer;
use super::options::Method;
use crate::layout::packed;
use crate::rounding::{round_clipped, round_to_nearest};
use crate::search::clip::clips;
use crate::search::factors::{Magnitudes, add_weight_magnitudes, shared, spread};
use crate::search::loss::squares_of;
use crate::search::{Found, Inputs, search};

/// Tensors of a layer.
const PARTS: usize = 3;
/// Statistics of a site.
pub(super) const STATISTICS: usize = 2;

/// Encodes the unit of a block.
///
/// # Errors
/// If a weight holds something that is no number, statistics are missing, or on cancellation.
pub fn encode(job: &AwqJob, work: &BlockWork, call: EncodeCall<'_>) -> Result<EncodeReport> {
    let (layers, vectors) = (work.layers().count(), work.vectors);
    let statistics = match job.wishes.method {
        Method::Awq => STATISTICS * work.sites.len(),
        Method::RoundToNearest | Method::Repack => 0,
    };
    let found = [call.inputs.len(), call.outputs.len(), call.statistics.len()];
    if found != [layers + vectors, PARTS * layers + vectors, statistics] {
        return Err(Error::internal(format!(
            "a block of {layers} layers and {vectors} vectors got {found:?} inputs, outputs and \
             statistics"
        )));
    }
    let (weights, vectors) = call.inputs.split_at(layers);
    let (parts, vector_parts) = call.outputs.split_at_mut(PARTS * layers);
    for (vector, part) in vectors.iter().zip(&mut *vector_parts) {
        part.copy_from_slice(vector.bytes());
    }
    let mut block = Block {
        job,
        weights,
        vectors,
        statistics: call.statistics,
        parts,
        vector_parts,
        divisors: vec![None; layers],
        report: EncodeReport::default(),
    };
    // From the last one: factors of a site change the rows of layers before it.
    let mut end = layers;
    for (number, site) in work.sites.iter().enumerate().rev() {
        let first = end - site.layers.len();
        block.site(number, site, first)?;
        end = first;
    }
    let mut report = block.report;
    let place = |measure: &Measure| {
        let mut layers = work.layers();
        layers.position(|layer| layer.module == measure.subject)
    };
    report.measures.sort_by_cached_key(place);
    Ok(report)
}

/// A block at work.
struct Block<'a, 'o> {
    job: &'a AwqJob,
    weights: &'a [TensorView<'a>],
    vectors: &'a [TensorView<'a>],
    statistics: &'a [StatisticView<'a>],
    /// The tensors of all layers.
    parts: &'a mut [&'o mut [u8]],
    /// What is stored of the vectors.
    vector_parts: &'a mut [&'o mut [u8]],
    /// What the rows of a layer are divided by.
    divisors: Vec<Option<Vec<f32>>>,
    report: EncodeReport,
}

/// A layer that is being quantized.
struct Work<'a> {
    layer: &'a Layer,
    /// Its place in the block.
    place: usize,
    weight: Array2<f32>,
}

impl Block<'_, '_> {
    /// Quantizes the layers of a site; `first` is the place of its first one.
    fn site(&mut self, number: usize, site: &SiteWork, first: usize) -> Result<()> {
        match self.job.wishes.method {
            Method::Awq => self.search_site(number, site, first),
            Method::RoundToNearest | Method::Repack => {
                for (place, layer) in (first..).zip(&site.layers) {
                    let start = Instant::now();
                    let weight = self.weight(layer, place)?;
                    let solution =
                        round_to_nearest(&self.job.host, weight.view(), layer.shape.group);
                    self.write(layer, place, &solution)?;
                    let error = solution.relative_error(weight.view());
                    self.tell(layer, start, &[("weight_error", error)]);
                }
                Ok(())
            }
        }
    }

    fn search_site(&mut self, number: usize, site: &SiteWork, first: usize) -> Result<()> {
        let start = Instant::now();
        let host = &self.job.host;
        let statistics = self
            .statistics
            .get(STATISTICS * number..)
            .unwrap_or_default();
        let inputs = Statistics::of(site, statistics)?;
        let layers = (first..).zip(&site.layers).map(|(place, layer)| {
            let weight = self.weight(layer, place)?;
            Ok(Work {
                layer,
                place,
                weight,
            })
        });
        let layers: Vec<Work<'_>> = layers.collect::<Result<_>>()?;
        let group = layers.first().map_or(1, |work| work.layer.shape.group);
        let inputs = Inputs {
            gram: Prepared::new(host, inputs.gram),
            magnitudes: inputs.magnitudes,
            group,
        };
        let (factors, found) = self.factors(site, &layers, &inputs)?;
        let searched = start.elapsed().as_secs_f64() / layers.len().max(1) as f64;
        for work in layers {
            let start = Instant::now();
            let mut scaled = scaled(&work.weight, &factors);
            let clips = match self.job.wishes.clip {
                true => clips(
                    host,
                    scaled.view(),
                    &factors,
                    group,
                    inputs.gram.matrix(),
                    20,
                ),
                false => Array2::ones((scaled.nrows(), scaled.ncols() / group)),
            };
            let divisors = self.divisors.get_mut(work.place).and_then(Option::take);
            if let Some(divisors) = &divisors {
                for (mut row, by) in scaled.outer_iter_mut().zip(divisors) {
                    row.iter_mut().for_each(|w| *w /= by);
                }
            }
            let solution = round_clipped(host, scaled.view(), group, clips.view());
            drop(scaled);
            self.write(work.layer, work.place, &solution)?;
            let error = output_error(host, &work.weight, &solution, &factors, divisors, &inputs);
            let mut figures = vec![("relative_error", error)];
            if let Some(found) = &found {
                figures.extend([
                    ("site_error", found.loss),
                    ("site_error_rounded", found.before),
                    ("input_exponent", found.exponents.inputs),
                    ("weight_exponent", found.exponents.weights),
                ]);
            }
            figures.push(("search_seconds", searched));
            self.tell(work.layer, start, &figures);
        }
        Ok(())
    }

    /// The factors of a site's inputs, folded into what computes them; ones if there is nothing
    /// that they could be folded into.
    fn factors(
        &mut self,
        site: &SiteWork,
        layers: &[Work<'_>],
        inputs: &Inputs<'_>,
    ) -> Result<(Vec<f32>, Option<Found>)> {
        let channels = inputs.gram.matrix().ncols();
        let Some(target) = &site.target else {
            return Ok((vec![1.0; channels], None));
        };
        let (head, shared_by) = target.sharing(channels);
        let mut sums = vec![0.0; channels];
        for work in layers {
            add_weight_magnitudes(work.weight.view(), inputs.group, &mut sums);
        }
        let magnitudes: Vec<f64> = inputs.magnitudes.iter().map(|x| f64::from(*x)).collect();
        let magnitudes = Magnitudes::new(
            &shared(&magnitudes, head, shared_by),
            &shared(&sums, head, shared_by),
        );
        let weights: Vec<ArrayView2<'_, f32>> =
            layers.iter().map(|work| work.weight.view()).collect();
        let to_channels = |factors: Vec<f32>| spread(&factors, head, shared_by);
        let host = &self.job.host;
        let effort = self.job.wishes.effort;
        let cancelled = || host.is_cancelled();
        let found = search(
            host,
            &weights,
            inputs,
            &magnitudes,
            &to_channels,
            effort,
            &cancelled,
        );
        self.check_cancelled()?;
        let mut factors = magnitudes.factors(found.exponents);
        if let Some(vector) = target.vector() {
            let (Some(stored), Some(view)) =
                (self.vector_parts.get_mut(vector), self.vectors.get(vector))
            else {
                return Err(Error::internal(format!("there is no vector {vector}")));
            };
            match divide(view, &mut factors)? {
                Some(bytes) => stored.copy_from_slice(&bytes),
                None => return Ok((vec![1.0; channels], None)),
            }
        }
        if let Target::Rows { layer, .. } = target
            && let Some(divisors) = self.divisors.get_mut(*layer)
        {
            *divisors = Some(factors.clone());
        }
        Ok((to_channels(factors), Some(found)))
    }

    fn check_cancelled(&self) -> Result<()> {
        match self.job.host.is_cancelled() {
            true => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
            false => Ok(()),
        }
    }

    /// A layer's weight in single precision: finite, and of the planned size.
    fn weight(&self, layer: &Layer, place: usize) -> Result<Array2<f32>> {
        self.check_cancelled()?;
        let host = &self.job.host;
        let input = self.weights.get(place);
        let input = input.ok_or_else(|| Error::internal(format!("there is no layer {place}")))?;
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

    fn write(&mut self, layer: &Layer, place: usize, solution: &Solution) -> Result<()> {
        let parts = self.parts.chunks_exact_mut(PARTS).nth(place);
        let Some([qweight, qzeros, scales]) = parts else {
            return Err(Error::internal(format!("there is no layer {place}")));
        };
        let parts = [&mut **qweight, &mut **qzeros, &mut **scales];
        packed::write(&self.job.host, &layer.shape, solution, parts)
    }

    /// Says what came of a layer, to the log and in the report.
    fn tell(&mut self, layer: &Layer, start: Instant, figures: &[(&str, f64)]) {
        let module = &layer.module;
        let seconds = start.elapsed().as_secs_f64();
        let figures: Vec<_> = figures
            .iter()
            .copied()
            .chain([("seconds", seconds)])
            .collect();
        let words = figures
            .iter()
            .map(|(name, value)| format!("{name} {value:.3e}"));
        let words: Vec<String> = words.collect();
        let line = format!("{module}: {}", words.join(", "));
        self.job.host.log(LogLevel::Info, &line);
        let figures = figures.into_iter();
        let measures = figures.map(|(name, value)| Measure::of(module, name, value));
        self.report.measures.extend(measures);
    }
}

/// What is known about a site's inputs.
struct Statistics<'a> {
    gram: ArrayView2<'a, f32>,
    magnitudes: &'a [f32],
}

impl<'a> Statistics<'a> {
    fn of(site: &SiteWork, statistics: &[StatisticView<'a>]) -> Result<Self> {
        let inputs = site.layers.first().map_or(0, |layer| layer.shape.inputs);
        let found = match statistics {
            [gram, magnitudes, ..] => ArrayView2::from_shape((gram.rows, gram.cols), gram.data)
                .ok()
                .map(|gram| (gram, magnitudes.data)),
            _ => None,
        };
        let fits = |(gram, magnitudes): &(ArrayView2<'_, f32>, &[f32])| {
            gram.dim() == (inputs, inputs) && magnitudes.len() == inputs
        };
        let (gram, magnitudes) = found
            .filter(fits)
            .ok_or_else(|| Error::internal(format!("statistics of other inputs than {inputs}")))?;
        Ok(Self { gram, magnitudes })
    }
}

/// A weight for inputs that are divided by factors.
fn scaled(weight: &Array2<f32>, factors: &[f32]) -> Array2<f32> {
    weight * &ndarray::aview1(factors)
}

/// The part of a layer's output energy that is lost.
fn output_error(
    host: &Host,
    weight: &Array2<f32>,
    solution: &Solution,
    factors: &[f32],
    divisors: Option<Vec<f32>>,
    inputs: &Inputs<'_>,
) -> f64 {
    let mut change = solution.dequantize();
    if let Some(divisors) = divisors {
        for (mut row, by) in change.outer_iter_mut().zip(divisors) {
            row.iter_mut().for_each(|w| *w *= by);
        }
    }
    change /= &ndarray::aview1(factors);
    change -= weight;
    let lost = squares_of(host, change.view(), &inputs.gram);
    let all = squares_of(host, weight.view(), &inputs.gram);
    if all > 0.0 { lost / all } else { 0.0 }
}

#[cfg(test)]
mod tests;
