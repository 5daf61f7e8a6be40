//! What a model computes, as data: its sizes and, block by block, the order of operations.
//!
//! A [`Graph`] names tensors by their place in the model's description and has all numbers of
//! `config.json` worked out, so that whoever runs it needs no family's name. Linear layers that
//! read the same input form a *site*: that is where statistics are taken.
//!
//! What sets one architecture apart from another is data, too: see [`families`].

mod build;
pub mod families;
mod layers;
mod rotary;
mod sites;
#[cfg(test)]
mod testing;

use llm_quantize_plugin_api::ModelDescription;

use crate::error::Result;

pub use sites::sites_of;

/// A causal language model, ready to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The family's name, for people.
    pub family: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Number of tokens.
    pub vocabulary: usize,
    /// Longest sequence that the positions allow.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f32,
    /// The rotary embedding.
    pub rotary: Rotary,
    /// Token embeddings: `vocabulary × hidden`.
    pub embedding: usize,
    /// What the embeddings are multiplied with.
    pub embedding_scale: f32,
    /// The transformer blocks, in order.
    pub blocks: Vec<Block>,
    /// Norm of the last block's output.
    pub final_norm: Norm,
    /// Output head; its weight is the embeddings' where they are tied.
    pub head: Linear,
}

/// A rotary embedding, worked out for a head.
///
/// Pair `i` of a head is its elements `i` and `i + head_dim / 2`; at position `p` it is turned
/// by `p · frequencies[i]` radians.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Radians per position, for each of `head_dim / 2` pairs.
    pub frequencies: Vec<f32>,
    /// What sines and cosines are multiplied with (YaRN's attention factor; else 1).
    pub magnitude: f32,
}

/// A transformer block: a norm of the residual stream, then stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The norm whose output the first stage reads.
    pub norm: Norm,
    /// The stages, in order. The last one ends with [`Then::Add`].
    pub stages: Vec<Stage>,
}

/// Linear layers that read the same input (a *site*), and what is done with their outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Name for people, e.g. `attention input`.
    pub name: &'static str,
    /// The layers; all have the same number of inputs.
    pub linears: Vec<Linear>,
    /// What follows them.
    pub then: Then,
}

/// A linear layer: `y = W x + b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Hugging Face name of the weight.
    pub name: String,
    /// The weight: `outputs × inputs`.
    pub weight: usize,
    /// The bias, if there is one: `outputs`.
    pub bias: Option<usize>,
    /// Length of a row of the weight.
    pub inputs: usize,
    /// Rows of the weight.
    pub outputs: usize,
}

/// A root-mean-square norm with a weight for each channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Norm {
    /// The weight.
    pub weight: usize,
    /// Whether one plus the weight is what channels are multiplied with.
    pub plus_one: bool,
}

/// What is done with the outputs of a stage's layers.
#[derive(Debug, Clone, PartialEq)]
pub enum Then {
    /// They are queries, keys and values; the next stage reads what attention gathers.
    Attention(Attention),
    /// The only one is added to the residual stream; the next stage reads its norm.
    AddAndNorm(Norm),
    /// The next stage reads the activation of the first times the second.
    Gate(Activation),
    /// The only one is added to the residual stream; the block ends.
    Add,
}

/// Causal attention with grouped queries; scores are divided by √head_dim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// Norm of each query head.
    pub q_norm: Option<Norm>,
    /// Norm of each key head.
    pub k_norm: Option<Norm>,
    /// Whether queries and keys are turned by their positions.
    pub rotary: bool,
    /// How many tokens a token sees, itself included; all before it if `None`.
    pub window: Option<usize>,
}

/// An activation function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// `x · Φ(x)`, by the error function.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
}

impl Stage {
    /// Channels that its layers read.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.linears.first().map_or(0, |linear| linear.inputs)
    }
}

/// Where a linear layer stands: layers of one site read the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// In a block.
    Block {
        /// Place of the block.
        block: usize,
        /// Place of the stage in it.
        stage: usize,
    },
    /// It is the output head.
    Head,
}

impl Graph {
    /// The graph of a model in the Hugging Face view.
    ///
    /// # Errors
    /// [`UnsupportedConversion`](crate::ExitCode::UnsupportedConversion) if the architecture,
    /// or something that its configuration asks for, cannot be run, with what can;
    /// [`Validation`](crate::ExitCode::Validation) if the configuration is no possible one, or
    /// a tensor is missing or of another shape.
    pub fn of(model: &ModelDescription) -> Result<Self> {
        build::build(model)
    }

    /// The site of a weight by its Hugging Face name; `None` if it is no linear layer's.
    ///
    /// Embeddings that are the output head as well are at [`Site::Head`].
    #[must_use]
    pub fn site_of(&self, weight_name: &str) -> Option<Site> {
        if self.head.name == weight_name {
            return Some(Site::Head);
        }
        let blocks = self.blocks.iter().enumerate();
        let mut stages = blocks.flat_map(|(block, graph)| {
            let stages = graph.stages.iter().enumerate();
            stages.map(move |(stage, graph)| (Site::Block { block, stage }, graph))
        });
        let found = stages.find(|(_, stage)| stage.linears.iter().any(|l| l.name == weight_name));
        found.map(|(site, _)| site)
    }
}
