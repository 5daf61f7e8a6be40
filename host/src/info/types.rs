//! Stored types: how many tensors and bits, and which kinds of tensors have which.

use std::collections::BTreeMap;

use llm_quantize_plugin_api::{ModelDescription, TensorInfo};
use serde::Serialize;

use crate::source::config;

/// How the weights of a quantized model are stored.
#[derive(Debug, Clone, Serialize)]
pub struct Quantization {
    /// The format, or the method that the config names.
    pub method: String,
    /// Stored bits over all numbers.
    pub bits_per_weight: f64,
    /// Which kinds of tensors have which types.
    pub kinds: Vec<KindCount>,
}

/// All tensors of one type.
#[derive(Debug, Clone, Serialize)]
pub struct TypeCount {
    /// The type, as the format calls it.
    #[serde(rename = "type")]
    pub name: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Numbers in them.
    pub parameters: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Tensors that are the same but for the number of their layer or expert.
#[derive(Debug, Clone, Serialize)]
pub struct KindCount {
    /// Their name with `*` for each number.
    pub kind: String,
    /// How many have which type.
    pub types: BTreeMap<String, u64>,
}

/// Stored types, those with most bytes first.
pub fn types(tensors: &[TensorInfo]) -> Vec<TypeCount> {
    let mut by_type: BTreeMap<&str, TypeCount> = BTreeMap::new();
    for tensor in tensors {
        let entry = by_type.entry(&tensor.dtype).or_insert_with(|| TypeCount {
            name: tensor.dtype.clone(),
            tensors: 0,
            parameters: 0,
            bytes: 0,
        });
        entry.tensors += 1;
        let elements = tensor.elements().unwrap_or(0);
        entry.parameters = entry.parameters.saturating_add(elements);
        entry.bytes = entry.bytes.saturating_add(tensor.bytes);
    }
    let mut types: Vec<TypeCount> = by_type.into_values().collect();
    types.sort_by_key(|entry| std::cmp::Reverse(entry.bytes));
    types
}

/// `None` if all tensors are plain floats.
pub fn quantization(model: &ModelDescription, bytes: u64) -> Option<Quantization> {
    let method = config::quantization_method(&model.config);
    if method.is_none() && model.tensors.iter().all(|tensor| is_plain(&tensor.dtype)) {
        return None;
    }
    let numbers = model.tensors.iter().filter_map(TensorInfo::elements);
    let numbers = numbers.fold(0, u64::saturating_add);
    let bits = bytes as f64 * 8.0 / numbers.max(1) as f64;
    Some(Quantization {
        method: method.unwrap_or(&model.format).to_owned(),
        bits_per_weight: (bits * 1000.0).round() / 1000.0,
        kinds: kinds(&model.tensors),
    })
}

fn kinds(tensors: &[TensorInfo]) -> Vec<KindCount> {
    let mut kinds: Vec<KindCount> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for tensor in tensors {
        let kind = kind_of(&tensor.name);
        let place = *places.entry(kind.clone()).or_insert(kinds.len());
        if place == kinds.len() {
            kinds.push(KindCount {
                kind,
                types: BTreeMap::new(),
            });
        }
        *kinds[place].types.entry(tensor.dtype.clone()).or_default() += 1;
    }
    kinds
}

fn kind_of(name: &str) -> String {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = name
        .split('.')
        .map(|part| if is_number(part) { "*" } else { part });
    parts.collect::<Vec<&str>>().join(".")
}

fn is_plain(dtype: &str) -> bool {
    matches!(dtype, "F64" | "F32" | "F16" | "BF16")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, dtype: &str, bytes: u64) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            dtype: dtype.into(),
            shape: vec![4],
            bytes,
        }
    }

    #[test]
    fn layers_are_taken_together() {
        let tensors = [
            tensor("blk.0.attn_v.weight", "Q6_K", 3),
            tensor("blk.1.attn_v.weight", "Q4_K", 2),
            tensor("blk.10.attn_v.weight", "Q4_K", 2),
            tensor("norm", "F32", 16),
        ];
        let model = ModelDescription {
            format: "gguf".into(),
            tensors: tensors.to_vec(),
            ..ModelDescription::default()
        };
        let quantization = quantization(&model, 23).unwrap();
        assert_eq!(quantization.method, "gguf");
        assert_eq!(quantization.bits_per_weight, 11.5);
        let first = &quantization.kinds[0];
        assert_eq!(first.kind, "blk.*.attn_v.weight");
        assert_eq!((first.types["Q4_K"], first.types["Q6_K"]), (2, 1));
        let names: Vec<_> = types(&tensors).into_iter().map(|t| t.name).collect();
        assert_eq!(names, ["F32", "Q4_K", "Q6_K"]);
    }

    #[test]
    fn plain_floats_are_not_quantized() {
        let model = ModelDescription {
            tensors: vec![tensor("a", "BF16", 8), tensor("b", "F32", 16)],
            ..ModelDescription::default()
        };
        assert!(quantization(&model, 24).is_none());
    }
}
