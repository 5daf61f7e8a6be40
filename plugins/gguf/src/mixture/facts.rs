//! What the choice of types has to know about the model.

use super::roles::Role;
use crate::container::{Array, Metadata, MetadataError, Value};

/// Facts about a model, as in its GGUF metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// Number of layers (`block_count`), layers for multi-token prediction included.
    pub layers: u32,
    /// Query heads of the first layer (`attention.head_count`).
    pub heads: u32,
    /// Key-value heads of the first layer (`attention.head_count_kv`).
    pub kv_heads: u32,
    /// Experts per layer (`expert_count`); 0 for dense models.
    pub experts: u32,
}

impl ModelFacts {
    /// Reads the facts from a model's metadata.
    ///
    /// # Errors
    /// [`MetadataError`] if the architecture or number of layers is missing, or a key has a type
    /// that makes no sense.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, MetadataError> {
        let architecture = metadata.require::<&str>("general.architecture")?.to_owned();
        let key = |name: &str| format!("{architecture}.{name}");
        let layers = saturated(metadata.require_unsigned(&key("block_count"))?);
        let heads = first_of(metadata, &key("attention.head_count"))?.unwrap_or(0);
        let kv_heads = first_of(metadata, &key("attention.head_count_kv"))?.unwrap_or(heads);
        let experts = saturated(metadata.unsigned(&key("expert_count"))?.unwrap_or(0));
        Ok(Self {
            layers,
            heads,
            kv_heads,
            experts,
            architecture,
        })
    }

    /// Whether at least four query heads share a key-value head.
    pub(super) fn grouped_query(&self) -> bool {
        self.heads.checked_div(self.kv_heads).unwrap_or(0) >= 4
    }

    pub(super) fn is_falcon(&self) -> bool {
        self.architecture == "falcon"
    }

    pub(super) fn has_eight_experts(&self) -> bool {
        self.experts == 8
    }

    /// Whether a tensor is a stack of experts' matrices. One architecture also stacks its latent
    /// attention's projections, so that the role must agree.
    pub(super) fn is_experts(&self, role: Role, dims: &[u64]) -> bool {
        let feed_forward = matches!(role, Role::FfnUp | Role::FfnGate | Role::FfnDown);
        dims.get(2).is_some_and(|&count| count > 1)
            && (feed_forward || self.architecture != "bailingmoe3")
    }

    /// Whether llama.cpp counts the model among its 70B ones, by architecture and layers. Their
    /// value projections are an eighth of the query ones, so more bits cost little.
    pub(super) fn is_70b(&self) -> bool {
        match (self.architecture.as_str(), self.layers) {
            ("llama" | "llama-embed", 80) => {
                self.heads != self.kv_heads && !self.has_eight_experts()
            }
            ("qwen2" | "deci" | "olmo", 80) | ("jais2", 68) => true,
            _ => false,
        }
    }
}

/// A number, or the first of an array with one for each layer.
fn first_of(metadata: &Metadata, key: &str) -> Result<Option<u32>, MetadataError> {
    let first = match metadata.value(key) {
        Some(Value::Array(Array::U32(counts))) => counts.first().copied(),
        Some(Value::Array(Array::I32(counts))) => {
            counts.first().and_then(|&count| u32::try_from(count).ok())
        }
        _ => return Ok(metadata.unsigned(key)?.map(saturated)),
    };
    Ok(first)
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
