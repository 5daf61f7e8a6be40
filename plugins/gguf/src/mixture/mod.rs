//! Which tensor gets which type: llama-quantize's mixtures.
//!
//! A level has a base type, but some tensors deserve more bits and some shapes need other blocks.
//! The choices here are those of llama.cpp (`src/llama-quant.cpp`), tensor by tensor, so that a
//! file of the same level has the same types. The levels' own exceptions are rows of
//! [`crate::levels::LEVELS`]; what holds at all levels is in this module.

mod facts;
mod fallback;
mod overrides;
mod roles;
pub mod rules;

#[cfg(test)]
mod tests;

pub use facts::ModelFacts;
pub use fallback::ShapeNote;
pub use overrides::{OverrideError, TypeOverride};
pub use roles::{Role, is_quantized, layer_of, walking_order};

use crate::blocks::{BlockType, TypeLayout};
use crate::levels::Level;
use rules::{Situation, first_match};

/// A tensor of the model to be quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceTensor<'a> {
    /// Its GGUF name.
    pub name: &'a str,
    /// Dimensions in ggml's order: `dims[0]` is the row length.
    pub dims: &'a [u64],
    /// How it is stored now.
    pub ty: TypeLayout,
}

/// What to do with a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Copy it as it is: it is not to be quantized, or has the right type already.
    Keep,
    /// Store it as this type.
    Encode(BlockType),
}

/// The choice for one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What to do with the tensor.
    pub target: Target,
    /// Set if the tensor's shape demanded another type.
    pub note: Option<ShapeNote>,
}

/// The user's wishes beyond the level.
#[derive(Debug, Clone, Default)]
pub struct MixtureOptions {
    /// The type for `output.weight`, or for token embeddings that also serve as output.
    pub output_type: Option<BlockType>,
    /// The type for token embeddings.
    pub token_embedding_type: Option<BlockType>,
    /// Types for tensors by name; the first pattern that matches counts. Levels without
    /// quantization (F32, F16, BF16) ignore them, as llama-quantize does.
    pub tensor_types: Vec<TypeOverride>,
    /// No mixture: the base type for every tensor that is quantized.
    pub pure: bool,
    /// Leave `output.weight` as it is.
    pub keep_output: bool,
    /// Whether an importance matrix will be used; some mixtures differ then.
    pub imatrix: bool,
}

/// Why no types could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages name the fields
pub enum MixtureError {
    #[error(
        "tensor \"{name}\" is part of a model with experts, but its name has no layer number (blk.N.)"
    )]
    NoLayer { name: String },
    #[error("tensor \"{name}\" is in layer {layer}, but the model has {layers} layers only")]
    BadLayer {
        name: String,
        layer: u32,
        layers: u32,
    },
    #[error(
        "tensor \"{name}\" cannot be {ty}: its rows of {columns} weights are not whole blocks of {block_weights}; ask for a type with smaller blocks"
    )]
    Shape {
        name: String,
        ty: &'static str,
        columns: u64,
        block_weights: usize,
    },
}

/// Chooses a type for every tensor of a model; the choices are in the order of `tensors`.
///
/// Pass all tensors of the model at once: positions are counted in [`walking_order`], and a model
/// without `output.weight` uses its embeddings twice, which gives them the type of an output.
///
/// # Errors
/// [`MixtureError`] if a wish does not fit a tensor's shape, or a layer cannot be told.
pub fn choose_types(
    tensors: &[SourceTensor<'_>],
    level: &Level,
    facts: &ModelFacts,
    options: &MixtureOptions,
) -> Result<Vec<Choice>, MixtureError> {
    let keep = Choice {
        target: Target::Keep,
        note: None,
    };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| walking_order(tensors[a].name, tensors[b].name));
    let mut walk = Walk::new(tensors, level, facts, options);
    let mut choices = vec![keep; tensors.len()];
    for index in order {
        let tensor = &tensors[index];
        let Some((ty, note)) = walk.visit(tensor)? else {
            continue;
        };
        let target = match ty.id() == tensor.ty.id {
            true => Target::Keep,
            false => Target::Encode(ty),
        };
        choices[index] = Choice { target, note };
    }
    Ok(choices)
}

/// The state of a walk over all tensors.
struct Walk<'a> {
    level: &'a Level,
    facts: &'a ModelFacts,
    options: &'a MixtureOptions,
    tied: bool,
    /// Tensors of role [`Role::AttnV`], whether they are quantized or not.
    attn_v_total: u32,
    attn_v_seen: u32,
    ffn_down_seen: u32,
}

impl<'a> Walk<'a> {
    fn new(
        tensors: &[SourceTensor<'_>],
        level: &'a Level,
        facts: &'a ModelFacts,
        options: &'a MixtureOptions,
    ) -> Self {
        let roles = || tensors.iter().map(|tensor| Role::of(tensor.name));
        let attn_v = roles().filter(|&role| role == Role::AttnV).count();
        Self {
            level,
            facts,
            options,
            tied: !roles().any(|role| role == Role::Output),
            attn_v_total: u32::try_from(attn_v).unwrap_or(u32::MAX),
            attn_v_seen: 0,
            ffn_down_seen: 0,
        }
    }

    /// The type of the next tensor in walking order; `None` if it stays as it is.
    fn visit(
        &mut self,
        tensor: &SourceTensor<'_>,
    ) -> Result<Option<(BlockType, Option<ShapeNote>)>, MixtureError> {
        let role = Role::of(tensor.name);
        let left_out = self.options.keep_output && role == Role::Output;
        if left_out || !is_quantized(&self.facts.architecture, tensor.name, tensor.dims) {
            return Ok(None);
        }
        if let Some(ty) = self.wish_for(role, tensor.name) {
            return check_shape(tensor, ty).map(|ty| Some((ty, None)));
        }
        let base = self.level.base;
        if base.block_weights() == 1 {
            return Ok(Some((base, None))); // F32, F16, BF16
        }
        let wanted = match self.override_for(tensor.name) {
            Some(ty) => ty,
            None if self.options.pure => base,
            None => self.mixed(role, tensor)?,
        };
        Ok(Some(fallback::fallback(wanted, columns(tensor))))
    }

    /// A type asked for by role. It is taken literally: there is no fallback for odd shapes.
    fn wish_for(&self, role: Role, name: &str) -> Option<BlockType> {
        match role {
            // The per-layer table follows the wish for embeddings unless an override names it.
            Role::TokenEmbd
                if name == roles::PER_LAYER_TOKEN_EMBD && self.override_for(name).is_some() =>
            {
                None
            }
            Role::TokenEmbd => self.options.token_embedding_type,
            Role::Output => self.options.output_type,
            _ => None,
        }
    }

    fn override_for(&self, name: &str) -> Option<BlockType> {
        let mut wishes = self.options.tensor_types.iter();
        wishes.find(|wish| wish.matches(name)).map(|wish| wish.ty)
    }

    /// The level's mixture. Tensors that an override has settled do not get here, and so do not
    /// count for the positions of the others; that is llama-quantize's way.
    fn mixed(&mut self, role: Role, tensor: &SourceTensor<'_>) -> Result<BlockType, MixtureError> {
        let base = self.level.base;
        if roles::needs_eight_bits(&self.facts.architecture, tensor.name) {
            return Ok(BlockType::Q8_0);
        }
        let is_output = role == Role::Output || (self.tied && role == Role::TokenEmbd);
        if is_output {
            return Ok(self.output_type(tensor));
        }
        let experts = self.facts.is_experts(role, tensor.dims);
        if let Some(ty) = first_match(self.level.rules, None, &self.situation(0, 0, experts)) {
            return Ok(ty);
        }
        Ok(match role {
            Role::AttnV => self.attn_v_type(),
            Role::AttnK if self.facts.has_eight_experts() => BlockType::Q8_0,
            Role::AttnOutput | Role::TokenEmbd => self.by_rule(role, 0, 0),
            Role::FfnDown => {
                let layer = self.ffn_layer(tensor.name, self.ffn_down_seen)?;
                self.ffn_down_seen += 1;
                self.by_rule(role, layer, self.facts.layers)
            }
            Role::FfnUp | Role::FfnGate => {
                // No level treats these specially, but a wrong layer is an error for them, too.
                self.ffn_layer(tensor.name, 0)?;
                base
            }
            Role::Output | Role::AttnK | Role::Other => base,
        })
    }

    /// What the level's rules say about the tensor at `position` of `positions`.
    fn by_rule(&self, role: Role, position: u32, positions: u32) -> BlockType {
        let at = self.situation(position, positions, false);
        first_match(self.level.rules, Some(role), &at).unwrap_or(self.level.base)
    }

    fn situation(&self, position: u32, positions: u32, experts: bool) -> Situation {
        Situation {
            position,
            positions,
            grouped_query: self.facts.grouped_query(),
            imatrix: self.options.imatrix,
            falcon: self.facts.is_falcon(),
            eight_experts: self.facts.has_eight_experts(),
            experts,
        }
    }

    /// The output is worth six bits at least; Q8_0 where six do not fit, or the level has eight.
    fn output_type(&self, tensor: &SourceTensor<'_>) -> BlockType {
        let base = self.level.base;
        let at = self.situation(0, 0, false);
        let by_rule = first_match(self.level.rules, Some(Role::Output), &at);
        if let Some(ty) = self.options.output_type.or(by_rule) {
            ty
        } else if self.facts.is_falcon() || !fallback::fits(base, columns(tensor)) {
            BlockType::Q8_0
        } else if base == BlockType::Q8_0 {
            base
        } else {
            BlockType::Q6_K
        }
    }

    fn attn_v_type(&mut self) -> BlockType {
        let ty = self.by_rule(Role::AttnV, self.attn_v_seen, self.attn_v_total);
        self.attn_v_seen += 1;
        match ty {
            // A tiny part of a model with eight experts.
            _ if self.facts.has_eight_experts() => BlockType::Q8_0,
            BlockType::Q3_K | BlockType::Q4_K if self.facts.is_70b() => BlockType::Q5_K,
            _ => ty,
        }
    }

    /// The layer of a feed-forward tensor: counted, or read from the name in models with experts,
    /// whose layers have several such tensors.
    fn ffn_layer(&self, name: &str, counted: u32) -> Result<u32, MixtureError> {
        if self.facts.experts <= 1 {
            return Ok(counted);
        }
        let Some(layer) = layer_of(name) else {
            let name = name.to_owned();
            return Err(MixtureError::NoLayer { name });
        };
        let layers = self.facts.layers;
        if layer >= layers {
            let name = name.to_owned();
            return Err(MixtureError::BadLayer {
                name,
                layer,
                layers,
            });
        }
        Ok(layer)
    }
}

fn columns(tensor: &SourceTensor<'_>) -> u64 {
    tensor.dims.first().copied().unwrap_or(1)
}

fn check_shape(tensor: &SourceTensor<'_>, ty: BlockType) -> Result<BlockType, MixtureError> {
    let columns = columns(tensor);
    if fallback::fits(ty, columns) {
        return Ok(ty);
    }
    Err(MixtureError::Shape {
        name: tensor.name.to_owned(),
        ty: ty.name(),
        columns,
        block_weights: ty.block_weights(),
    })
}
