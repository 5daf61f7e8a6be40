//! Layers as they were encoded, for a calibration in which their outputs flow on.

use std::collections::HashMap;
use std::ops::Range;

use llm_quantize_plugin_api::{DecodeCall, FlowingLayer, Job, Plan};

use super::output_map::OutputMap;
use super::staging::span_range;
use super::tensor_source::TensorSource;
use crate::error::{Error, ExitCode, PluginResult, Result};

/// Someone who knows the numbers of encoded layers.
pub trait Decoder: Sync {
    /// Gives rows of a tensor as they were encoded; `false` if it keeps the original's numbers.
    /// Called from many threads at once.
    ///
    /// # Errors
    /// If there are no such rows, or they cannot be decoded.
    fn decode(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<bool>;
}

/// The layers whose outputs flow on quantized, by their tensors.
pub type Layers = HashMap<usize, FlowingLayer>;

/// The layers of a plan whose outputs flow on quantized.
pub fn layers_of(plan: &Plan, source: &dyn TensorSource) -> Layers {
    let layers = plan.flowing_layers(source.model()).into_iter();
    layers.map(|layer| (layer.tensor, layer)).collect()
}

/// Decodes what is in the output.
pub struct Outputs<'a> {
    /// The plugin, for errors.
    pub plugin: &'a str,
    /// The planned job.
    pub job: &'a dyn Job,
    /// The model.
    pub source: &'a dyn TensorSource,
    /// The plan's files, in order. Whatever is asked for was encoded before.
    pub maps: &'a [OutputMap],
    /// What can be decoded.
    pub layers: &'a Layers,
}

impl Decoder for Outputs<'_> {
    fn decode(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<bool> {
        let Some(layer) = self.layers.get(&tensor) else {
            return Ok(false);
        };
        let unit = &self.job.plan().units[layer.unit];
        let mut outputs = Vec::with_capacity(unit.outputs.len());
        for span in &unit.outputs {
            let map = self.maps.get(span.file).map(OutputMap::bytes);
            let bytes = map.and_then(|bytes| bytes.get(span_range(span).ok()?));
            outputs.push(bytes.ok_or_else(|| self.fault("an output lies outside its file"))?);
        }
        let norms = unit.vectors(self.source.model());
        let mut buffers: Vec<Vec<f32>> = norms.iter().map(|_| Vec::new()).collect();
        let vectors = norms.iter().zip(&mut buffers);
        let vectors = vectors
            .map(|(&norm, buffer)| self.source.rows(norm, 0..1, buffer))
            .collect::<Result<Vec<_>>>()?;
        let decoded = self.job.decode(DecodeCall {
            unit: layer.unit,
            input: layer.input,
            rows,
            vectors: &vectors,
            outputs: &outputs,
            out: &mut *out,
        });
        decoded.by_plugin(self.plugin)?;
        match out.iter().all(|number| number.is_finite()) {
            true => Ok(true),
            false => {
                let name = &self.source.model().tensors[tensor].name;
                Err(self.fault(&format!(
                    "what it encoded of \"{name}\" has infinities, or is no number at all"
                )))
            }
        }
    }
}

impl Outputs<'_> {
    fn fault(&self, what: &str) -> Error {
        let message = format!("plugin \"{}\": {what}", self.plugin);
        Error::new(ExitCode::PluginFailed, message)
    }
}
