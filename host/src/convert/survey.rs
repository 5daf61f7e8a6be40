//! Finds out what a plugin must know of quantized weights to take them over.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::regroup::Survey;
use llm_quantize_plugin_api::{ElementType, GroupFacts, Inputs, TensorInfo};

use crate::error::{Error, Result};
use crate::job::{CancelFlag, Threads};
use crate::source::SourceModel;

/// Weights that are looked at in one go.
const PIECE: u64 = 1 << 20;

/// Whether a tensor holds codes instead of numbers.
#[must_use]
pub fn is_quantized(tensor: &TensorInfo) -> bool {
    ElementType::from_dtype(&tensor.dtype).is_none() && tensor.dtype != "F64"
}

/// Goes through the groups of all quantized weights, on all threads, and through the vectors that
/// are stored in single precision; notes what it found in the model's description.
///
/// # Errors
/// The reader's, and on an interrupt.
pub fn survey(source: &mut SourceModel, threads: &Threads, cancel: &CancelFlag) -> Result<()> {
    let facts = groups(source, threads, cancel)?;
    let narrow = narrow(source)?;
    source.set_groups(facts, narrow);
    Ok(())
}

fn groups(
    source: &SourceModel,
    threads: &Threads,
    cancel: &CancelFlag,
) -> Result<BTreeMap<usize, GroupFacts>> {
    let pieces = pieces(source)?;
    let found: Mutex<BTreeMap<usize, Survey>> = Mutex::default();
    let failure: Mutex<Option<Error>> = Mutex::default();
    threads.parallel_for(pieces.len(), &|index| {
        let (tensor, rows) = &pieces[index];
        if lock(&failure).is_some() {
            return;
        }
        match piece(source, *tensor, rows.clone(), cancel) {
            Ok(Some(part)) => {
                let mut found = lock(&found);
                let joined = match found.remove(tensor) {
                    Some(other) => other.join(part),
                    None => part,
                };
                found.insert(*tensor, joined);
            }
            Ok(None) => {}
            Err(error) => drop(lock(&failure).get_or_insert(error)),
        }
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    source.release();
    let found = std::mem::take(&mut *lock(&found));
    let facts = found.into_iter();
    Ok(facts
        .map(|(tensor, survey)| (tensor, survey.facts()))
        .collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

/// The rows of all weights that have groups, in pieces.
fn pieces(source: &SourceModel) -> Result<Vec<(usize, Range<u64>)>> {
    let mut pieces = Vec::new();
    for (tensor, info) in source.model().tensors.iter().enumerate() {
        let rows = info.rows().unwrap_or(0);
        // No rows at all: what is left is whether there are groups.
        if !is_quantized(info) || source.groups(tensor, 0..0)?.is_none() {
            continue;
        }
        let step = (PIECE / info.cols().max(1)).max(1);
        let mut start = 0;
        while start < rows {
            let end = start.saturating_add(step).min(rows);
            pieces.push((tensor, start..end));
            start = end;
        }
    }
    Ok(pieces)
}

fn piece(
    source: &SourceModel,
    tensor: usize,
    rows: Range<u64>,
    cancel: &CancelFlag,
) -> Result<Option<Survey>> {
    cancel.check()?;
    let cols = source.model().tensors[tensor].cols();
    let cols = usize::try_from(cols).map_err(|_| Error::other("a row is too long"))?;
    let groups = source.groups(tensor, rows)?;
    Ok(groups.map(|groups| Survey::of(&groups, cols)))
}

/// The 16-bit type that holds all vectors which a reader gives in single precision, if there are
/// some: formats that keep norms so have widened them. The configuration's type comes first.
fn narrow(source: &SourceModel) -> Result<Option<String>> {
    let model = source.model();
    let vectors = model.tensors.iter().enumerate();
    let vectors = vectors.filter(|(_, info)| info.dtype == "F32" && info.shape.len() == 1);
    let mut types = vec!["BF16", "F16"];
    let named = |key: &str| model.config.get(key).and_then(serde_json::Value::as_str);
    if named("dtype").or_else(|| named("torch_dtype")) == Some("float16") {
        types.reverse();
    }
    let mut any = false;
    for (tensor, info) in vectors.filter(|_| source.plugin().is_some()) {
        any = true;
        let count = usize::try_from(info.cols()).map_err(|_| Error::other("a row is too long"))?;
        let mut numbers = vec![0.0; count];
        source.decode_rows(tensor, 0..1, &mut numbers)?;
        types.retain(|name| holds(name, &numbers));
    }
    let first = types.first().filter(|_| any);
    Ok(first.map(|name| (*name).to_owned()))
}

/// Whether numbers of a type are exactly these.
fn holds(name: &str, numbers: &[f32]) -> bool {
    let Some(element) = ElementType::from_dtype(name) else {
        return false;
    };
    let mut stored = vec![0; numbers.len() * element.bytes()];
    let mut back = vec![0.0; numbers.len()];
    let kept = convert::from_f32(element, numbers, &mut stored)
        .and_then(|()| convert::to_f32(element, &stored, &mut back));
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
    kept.is_ok() && numbers.iter().zip(&back).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_hold_their_own_numbers() {
        assert!(holds("BF16", &[1.0, -2.5, 0.0]) && holds("F16", &[1.0, -2.5]));
        let (fine, wide) = (1.0 + 1.0 / 1024.0, 1e20);
        assert!(holds("F16", &[fine]) && !holds("BF16", &[fine]));
        assert!(holds("BF16", &[2f32.powi(66)]));
        assert!(!holds("F16", &[wide]) && !holds("I8", &[1.0]));
    }
}
