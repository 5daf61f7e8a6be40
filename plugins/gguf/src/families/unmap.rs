//! From GGUF's tensors back to a Hugging Face model's.

use llm_quantize_plugin_api::{Error, Result};

use super::ledger::{Ledger, Side, listed};
use super::rules::Presence;
use super::{Family, Hyperparameters, ROPE_FREQS, Transform};

/// Ends of the names of tensors that old GGUF files hold and nobody needs.
const SKIPPED: [&str; 2] = [".attn_rot_embd.weight", ".attn_rot_embd"];

/// A tensor of a GGUF file, as far as its place in the model goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedTensor<'a> {
    /// GGUF name.
    pub name: &'a str,
    /// Dimensions in ggml's order: the row length first.
    pub dims: &'a [u64],
}

/// A tensor of the Hugging Face model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HfTensor {
    /// Hugging Face name.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<u64>,
    /// Place in the list of GGUF tensors.
    pub source: usize,
    /// The first of its rows there; not 0 where it is one of several experts.
    pub first_row: u64,
    /// What was done with the rows and is to be undone.
    pub transform: Transform,
    /// The layer, for tensors that belong to one.
    pub layer: Option<u32>,
}

/// A GGUF file's tensors in Hugging Face's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmappedModel {
    /// The tensors in the order of their names, as transformers writes them.
    pub tensors: Vec<HfTensor>,
    /// Place of `rope_freqs.weight` in the list of GGUF tensors, if it is there.
    pub rope_freqs: Option<usize>,
    /// Whether the embeddings serve as output head.
    pub tied: bool,
    /// Keys of the configuration that are true because of tensors that are there
    /// (`attention_bias`), and those that could be but are not.
    pub flags: Vec<(&'static str, bool)>,
}

/// Maps a GGUF file's tensors to Hugging Face names, shapes and row order.
///
/// # Errors
/// If a tensor is missing, unknown, or of another shape than the keys say.
pub fn unmap_tensors(
    family: &'static Family,
    model: &Hyperparameters,
    tensors: &[NamedTensor<'_>],
) -> Result<UnmappedModel> {
    let mut ledger = Ledger::new(family, model, Side::Gguf);
    let mut found = Vec::with_capacity(tensors.len());
    let mut rope_freqs = None;
    let mut unknown = Vec::new();
    for (source, tensor) in tensors.iter().enumerate() {
        if tensor.name == ROPE_FREQS {
            rope_freqs = Some(source);
            continue;
        }
        if SKIPPED.iter().any(|end| tensor.name.ends_with(end)) {
            continue;
        }
        let Some(place) = ledger.place(tensor.name) else {
            unknown.push(tensor.name);
            continue;
        };
        ledger.note(place, tensor.name)?;
        let shape = place.rule.shape(model);
        let experts = model.experts.filter(|_| place.rule.per_expert());
        let stack = experts.map(|experts| experts.count);
        let stored: Vec<u64> = stack.into_iter().chain(shape.iter().copied()).collect();
        check_dims(tensor, &stored)?;
        let rows = shape.first().copied().unwrap_or(1);
        for expert in 0..stack.unwrap_or(1) {
            found.push(HfTensor {
                // There are not that many.
                name: place.rule.hf_name(place.layer.unwrap_or(0), expert as u32),
                shape: shape.clone(),
                source,
                first_row: expert * rows,
                transform: ledger.transform(place.rule),
                layer: place.layer,
            });
        }
    }
    if !unknown.is_empty() {
        return Err(unknown_tensors(family, &unknown));
    }
    let flags = ledger.flags();
    ledger.complete(|presence| match presence {
        Presence::Required => true,
        Presence::UnlessTied => false,
        Presence::Flag(key) => flags.contains(&(key, true)),
    })?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(UnmappedModel {
        tensors: found,
        rope_freqs,
        tied: ledger.tied(),
        flags,
    })
}

fn check_dims(tensor: &NamedTensor<'_>, shape: &[u64]) -> Result<()> {
    if tensor.dims.iter().eq(shape.iter().rev()) {
        return Ok(());
    }
    let expected: Vec<u64> = shape.iter().rev().copied().collect();
    Err(Error::corrupt(format!(
        "the tensor \"{}\" has the dimensions {:?}, but the file's metadata says {expected:?}",
        tensor.name, tensor.dims
    )))
}

fn unknown_tensors(family: &Family, names: &[&str]) -> Error {
    Error::unsupported(format!(
        "{} tensors are not part of a {} model: {}",
        names.len(),
        family.name,
        listed(names)
    ))
    .suggest("adapters, drafting heads and other additions cannot be converted back")
}

#[cfg(test)]
mod tests;
