//! A block's weights in single precision.

use std::ops::Range;

use llm_quantize_plugin_api::kernels::try_hand_out;
use llm_quantize_plugin_api::{Inputs as _, TensorInfo};

use crate::error::{Error, Result};
use crate::graph::{Block, Graph, Linear, Norm, Stage, Then};
use crate::job::Threads;
use crate::source::SourceModel;

/// Numbers that a task decodes.
const DECODED: usize = 1 << 18;

/// Where weights come from.
pub trait WeightSource: Sync {
    /// The tensor at a place of the model's description; `None` if there is none.
    fn tensor(&self, tensor: usize) -> Option<&TensorInfo>;

    /// Decodes rows of a tensor; `out` holds exactly those rows.
    ///
    /// # Errors
    /// If there are no such rows, or they cannot be decoded.
    fn decode_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()>;
}

impl WeightSource for SourceModel {
    fn tensor(&self, tensor: usize) -> Option<&TensorInfo> {
        self.model().tensors.get(tensor)
    }

    fn decode_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        Self::decode_rows(self, tensor, rows, out)
    }
}

/// Single-precision weights of one block.
#[derive(Debug)]
pub struct BlockWeights {
    pub(super) block: usize,
    pub(super) norm: Vec<f32>,
    pub(super) stages: Vec<StageWeights>,
}

/// Single-precision weights of a stage. Its layers lie one after the other, so that one product
/// serves them all.
#[derive(Debug)]
pub struct StageWeights {
    pub(super) inputs: usize,
    /// Outputs of all layers.
    pub(super) outputs: usize,
    /// All outputs × inputs.
    pub(super) weight: Vec<f32>,
    /// Of all outputs, zeros for layers without one; `None` if no layer has one.
    pub(super) bias: Option<Vec<f32>>,
    /// The norm that ends the stage; empty if none does.
    pub(super) norm: Vec<f32>,
    pub(super) q_norm: Option<Vec<f32>>,
    pub(super) k_norm: Option<Vec<f32>>,
}

impl BlockWeights {
    /// Decodes a block from the source on all threads.
    ///
    /// # Errors
    /// If a tensor has another shape than the graph says, or cannot be decoded.
    ///
    /// # Panics
    /// If the graph has no such block.
    pub fn load(
        graph: &Graph,
        block: usize,
        source: &dyn WeightSource,
        threads: &Threads,
    ) -> Result<Self> {
        let Block { norm, stages } = &graph.blocks[block];
        let stages = stages
            .iter()
            .map(|stage| StageWeights::load(stage, source, threads));
        Ok(Self {
            block,
            norm: load_norm(source, *norm)?,
            stages: stages.collect::<Result<_>>()?,
        })
    }

    /// Memory that a block's weights take.
    #[must_use]
    pub fn bytes(graph: &Graph, block: usize) -> u64 {
        let norms = (2 * (graph.hidden + graph.head_dim) * size_of::<f32>()) as u64;
        let stages = graph.blocks[block].stages.iter();
        stages
            .map(StageWeights::bytes)
            .fold(norms, u64::saturating_add)
    }
}

impl StageWeights {
    /// Decodes a stage on all threads.
    ///
    /// # Errors
    /// As [`BlockWeights::load`].
    pub fn load(stage: &Stage, source: &dyn WeightSource, threads: &Threads) -> Result<Self> {
        let inputs = stage.inputs();
        let mut layers = Vec::new();
        let mut outputs = 0;
        for linear in &stage.linears {
            check(source, linear, inputs)?;
            layers.push(outputs..outputs + linear.outputs);
            outputs += linear.outputs;
        }
        let optional = |norm: Option<Norm>| -> Result<Option<Vec<f32>>> {
            norm.map(|norm| load_norm(source, norm)).transpose()
        };
        let (norm, heads) = match &stage.then {
            Then::AddAndNorm(norm) => (Some(*norm), (None, None)),
            Then::Attention(attention) => (None, (attention.q_norm, attention.k_norm)),
            Then::Gate(_) | Then::Add => (None, (None, None)),
        };
        let mut weights = Self {
            inputs,
            outputs,
            weight: vec![0.0; inputs * outputs],
            bias: load_bias(stage, &layers, outputs, source)?,
            norm: optional(norm)?.unwrap_or_default(),
            q_norm: optional(heads.0)?,
            k_norm: optional(heads.1)?,
        };
        weights.decode(stage, source, threads)?;
        Ok(weights)
    }

    /// Memory that the weights of a stage's layers take.
    #[must_use]
    pub fn bytes(stage: &Stage) -> u64 {
        let numbers = stage.linears.iter().map(|linear| {
            let bias = u64::from(linear.bias.is_some());
            (linear.inputs as u64 + bias).saturating_mul(linear.outputs as u64)
        });
        numbers
            .fold(0, u64::saturating_add)
            .saturating_mul(size_of::<f32>() as u64)
    }

    fn decode(
        &mut self,
        stage: &Stage,
        source: &dyn WeightSource,
        threads: &Threads,
    ) -> Result<()> {
        let rows = (DECODED / self.inputs.max(1)).max(1);
        let mut pieces = Vec::new();
        let mut rest = &mut self.weight[..];
        for linear in &stage.linears {
            let (weight, after) = rest.split_at_mut(linear.outputs * self.inputs);
            rest = after;
            for (index, piece) in weight.chunks_mut(rows * self.inputs).enumerate() {
                pieces.push((linear.weight, index * rows, piece));
            }
        }
        let inputs = self.inputs;
        try_hand_out(threads, pieces, |_, (tensor, from, piece)| {
            let to = from + piece.len() / inputs;
            source.decode_rows(tensor, from as u64..to as u64, piece)
        })
    }
}

fn load_bias(
    stage: &Stage,
    layers: &[Range<usize>],
    outputs: usize,
    source: &dyn WeightSource,
) -> Result<Option<Vec<f32>>> {
    if stage.linears.iter().all(|linear| linear.bias.is_none()) {
        return Ok(None);
    }
    let mut all = vec![0.0; outputs];
    for (linear, place) in stage.linears.iter().zip(layers) {
        if let Some(bias) = linear.bias {
            let bias = load_vector(source, bias)?;
            if bias.len() != linear.outputs {
                return Err(mismatch(&linear.name, "bias"));
            }
            all[place.clone()].copy_from_slice(&bias);
        }
    }
    Ok(Some(all))
}

/// What a norm multiplies channels with.
///
/// # Errors
/// As [`load_vector`].
pub fn load_norm(source: &dyn WeightSource, norm: Norm) -> Result<Vec<f32>> {
    let mut weight = load_vector(source, norm.weight)?;
    if norm.plus_one {
        weight.iter_mut().for_each(|weight| *weight += 1.0);
    }
    Ok(weight)
}

/// A tensor of one dimension, e.g. a bias.
///
/// # Errors
/// If there is no such tensor, or it cannot be decoded.
pub fn load_vector(source: &dyn WeightSource, tensor: usize) -> Result<Vec<f32>> {
    let info = source.tensor(tensor);
    let shape = info.and_then(|info| Some((info.rows()?, info.elements()?)));
    let sizes = shape.and_then(|(rows, elements)| Some((rows, usize::try_from(elements).ok()?)));
    let Some((rows, elements)) = sizes else {
        return Err(Error::validation(format!("there is no tensor {tensor}")));
    };
    let mut vector = vec![0.0; elements];
    source.decode_rows(tensor, 0..rows, &mut vector)?;
    Ok(vector)
}

/// Refuses a weight that is not outputs × inputs, before memory is taken for it.
fn check(source: &dyn WeightSource, linear: &Linear, inputs: usize) -> Result<()> {
    let shape = source.tensor(linear.weight);
    let shape = shape.map(|info| (info.rows(), info.cols()));
    if linear.inputs == inputs && shape == Some((Some(linear.outputs as u64), inputs as u64)) {
        return Ok(());
    }
    Err(mismatch(&linear.name, "weight"))
}

fn mismatch(name: &str, what: &str) -> Error {
    Error::validation(format!(
        "the {what} of \"{name}\" does not have the shape that the model's configuration says"
    ))
}
