//! From a Hugging Face model's tensors to GGUF's.

use std::collections::{BTreeMap, HashMap};

use llm_quantize_plugin_api::hf_config::RopeScaling;
use llm_quantize_plugin_api::{ElementType, Error, ModelDescription, Result, TensorInfo};
use serde_json::Value;

use super::ledger::{Ledger, Place, Side, listed};
use super::rules::Presence;
use super::{Family, Hyperparameters, ROPE_FREQS, rope_factors};

/// Ends of the names of tensors that old checkpoints hold and nobody needs.
const SKIPPED: [&str; 3] = [
    ".rotary_emb.inv_freq",
    ".attention.masked_bias",
    ".attention.bias",
];

/// What to do with a tensor's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// Add one to each number towards GGUF, take it away back.
    AddOne,
    /// Reorder the rows of each head: [`permuted_row`](super::permuted_row) towards GGUF,
    /// [`unpermuted_row`](super::unpermuted_row) back. For a bias the elements are the
    /// rows.
    PermuteRows {
        /// Number of heads.
        heads: u64,
        /// Rows of a head.
        head_rows: u64,
    },
}

/// A tensor of the GGUF file that is made from one of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedTensor {
    /// GGUF name.
    pub name: String,
    /// Dimensions in ggml's order: the row length first.
    pub dims: Vec<u64>,
    /// Places in [`ModelDescription::tensors`]: one, or that of each expert, in order.
    pub sources: Vec<usize>,
    /// What to do with the rows.
    pub transform: Transform,
    /// The layer, for tensors that belong to one.
    pub layer: Option<u32>,
}

/// A tensor of the GGUF file that is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedTensor {
    /// GGUF name.
    pub name: String,
    /// Dimensions in ggml's order.
    pub dims: Vec<u64>,
    /// The numbers, always stored in single precision.
    pub values: Vec<f32>,
}

/// A model in GGUF's terms.
#[derive(Debug, Clone)]
pub struct MappedModel {
    /// The family.
    pub family: &'static Family,
    /// The numbers of the architecture.
    pub hyperparameters: Hyperparameters,
    /// Computed tensors; they come first in the file.
    pub generated: Vec<GeneratedTensor>,
    /// The model's tensors in the source's order, which is the file's.
    pub tensors: Vec<MappedTensor>,
    /// Whether the embeddings serve as output head.
    pub tied: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl MappedModel {
    /// Number of weights in the file, computed ones included.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let generated = self.generated.iter().map(|tensor| &tensor.dims);
        let all = generated.chain(self.tensors.iter().map(|tensor| &tensor.dims));
        // Dimensions have been checked against shapes below 2^32 each.
        all.map(|dims| dims.iter().fold(1u64, |n, dim| n.saturating_mul(*dim)))
            .fold(0, u64::saturating_add)
    }
}

/// Maps a model's tensors to GGUF.
///
/// The order is the source's. To write what the converter writes, the source must give
/// the files in the order of their names and the tensors of each file likewise.
///
/// # Errors
/// If the architecture is unknown, the configuration impossible, or a tensor missing,
/// unknown, of another shape than the configuration says, or of a type that is not
/// supported.
pub fn map_model(model: &ModelDescription) -> Result<MappedModel> {
    let family = Family::for_architecture(&model.config)?;
    let hyperparameters = Hyperparameters::from_config(family, &model.config)?;
    let mut ledger = Ledger::new(family, &hyperparameters, Side::HuggingFace);
    let mut tensors = Vec::with_capacity(model.tensors.len());
    let mut stacks = Stacks::default();
    let mut unknown = Vec::new();
    for (source, tensor) in model.tensors.iter().enumerate() {
        if SKIPPED.iter().any(|end| tensor.name.ends_with(end)) {
            continue;
        }
        let Some(place) = ledger.place(&tensor.name) else {
            unknown.push(tensor.name.as_str());
            continue;
        };
        ledger.note(place, &tensor.name)?;
        let mut dims = checked_dims(tensor, place, &hyperparameters, &model.format)?;
        let name = place.rule.gguf_name(place.layer.unwrap_or(0));
        if let Some(expert) = place.expert {
            if !stacks.begin(&name, tensors.len()) {
                stacks.add(&name, expert, source);
                continue;
            }
            stacks.add(&name, expert, source);
            dims.extend(hyperparameters.experts.map(|experts| experts.count));
        }
        tensors.push(MappedTensor {
            name,
            dims,
            sources: vec![source],
            transform: ledger.transform(place.rule),
            layer: place.layer,
        });
    }
    if !unknown.is_empty() {
        return Err(unknown_tensors(family, &unknown, &model.config));
    }
    let flag = |key: &str| model.config.get(key).and_then(Value::as_bool);
    ledger.complete(|presence| match presence {
        Presence::Required => true,
        Presence::UnlessTied => !flag("tie_word_embeddings").unwrap_or(family.defaults.tied),
        Presence::Flag(key) => flag(key) == Some(true),
    })?;
    stacks.complete(&mut tensors);
    let tied = ledger.tied();
    let mut warnings = hyperparameters.warnings();
    for (key, there) in ledger.flags() {
        if there && flag(key) != Some(true) {
            warnings.push(format!(
                "the model has biases, but \"{key}\" in config.json is not true: llama.cpp will \
                 use them, transformers does not"
            ));
        }
    }
    Ok(MappedModel {
        generated: generated(&hyperparameters),
        family,
        hyperparameters,
        tensors,
        tied,
        warnings,
    })
}

/// Tensors that are stacks of experts' matrices, while their parts are found.
#[derive(Default)]
struct Stacks(HashMap<String, Stack>);

struct Stack {
    /// Place of the stack among the mapped tensors.
    place: usize,
    /// Places of the experts' tensors in the model.
    experts: BTreeMap<u32, usize>,
}

impl Stacks {
    /// Notes where a stack will be; `false` if it is known already.
    fn begin(&mut self, name: &str, place: usize) -> bool {
        let new = !self.0.contains_key(name);
        if new {
            let experts = BTreeMap::new();
            self.0.insert(name.to_owned(), Stack { place, experts });
        }
        new
    }

    fn add(&mut self, name: &str, expert: u32, source: usize) {
        if let Some(stack) = self.0.get_mut(name) {
            stack.experts.insert(expert, source);
        }
    }

    /// Gives each stack its parts, all of which are there.
    fn complete(self, tensors: &mut [MappedTensor]) {
        for stack in self.0.into_values() {
            if let Some(tensor) = tensors.get_mut(stack.place) {
                tensor.sources = stack.experts.into_values().collect();
            }
        }
    }
}

fn generated(model: &Hyperparameters) -> Vec<GeneratedTensor> {
    let RopeScaling::Llama3(scaling) = &model.rope.scaling else {
        return Vec::new();
    };
    let values = rope_factors(scaling, model.rope.theta, model.head_dim);
    vec![GeneratedTensor {
        name: ROPE_FREQS.to_owned(),
        dims: vec![values.len() as u64],
        values,
    }]
}

/// The dimensions in ggml's order, once the tensor's shape and type are found right.
fn checked_dims(
    tensor: &TensorInfo,
    place: Place,
    model: &Hyperparameters,
    format: &str,
) -> Result<Vec<u64>> {
    let name = &tensor.name;
    let mut expected = place.rule.shape(model);
    if tensor.shape != expected {
        return Err(Error::corrupt(format!(
            "the tensor \"{name}\" has the shape {:?}, but config.json says {expected:?}",
            tensor.shape
        )));
    }
    // Readers of other formats give their own types and decode them.
    if format == "hf" && ElementType::from_dtype(&tensor.dtype).is_none() {
        return Err(Error::unsupported(format!(
            "the tensor \"{name}\" has the type {}, which is not supported",
            tensor.dtype
        ))
        .suggest("supported types are F32, F16 and BF16"));
    }
    expected.reverse();
    Ok(expected)
}

fn unknown_tensors(family: &Family, names: &[&str], config: &Value) -> Error {
    let error = Error::unsupported(format!(
        "{} tensors are not part of a {} model in GGUF: {}",
        names.len(),
        family.name,
        listed(names)
    ));
    let quantized = config
        .get("quantization_config")
        .is_some_and(|q| !q.is_null());
    error.suggest(match quantized {
        true => {
            "config.json has a \"quantization_config\": take the original model, or a format \
             that a plugin reads"
        }
        false => "adapters, drafting heads and other additions cannot be converted",
    })
}

#[cfg(test)]
mod tests;
