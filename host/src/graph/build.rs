//! From a model's description to its graph.

use std::collections::HashMap;

use llm_quantize_plugin_api::ModelDescription;
use llm_quantize_plugin_api::hf_config::{Config, Rope, experts_key, rotary_part};

use super::families::{Family, LAYER, Names};
use super::layers::{Rotated, Windows};
use super::{Activation, Attention, Block, Graph, Linear, Norm, Stage, Then, rotary};
use crate::error::{Error, Result};

/// Builds the graph of a model in the Hugging Face view.
///
/// # Errors
/// [`UnsupportedConversion`](crate::ExitCode::UnsupportedConversion) if the architecture, or
/// something that the configuration asks for, cannot be run;
/// [`Validation`](crate::ExitCode::Validation) if the configuration is no possible one, or a
/// tensor is missing or of another shape.
pub fn build(model: &ModelDescription) -> Result<Graph> {
    let config = Config::new(&model.config, "config.json");
    let family = Family::of(&config)?;
    refuse_other_computations(&config)?;
    let sizes = Sizes::read(family, &config)?;
    let tensors = Tensors::new(model);
    let blocks = Blocks::new(family, &config, &sizes, &tensors)?;
    let (names, hidden) = (family.names, sizes.hidden);
    let embedding = tensors.weight(names.embedding, &[sizes.vocabulary, hidden])?;
    let rope = Rope::from_config(&config, sizes.context as u64, family.defaults.rope_theta)?;
    let blocks = (0..sizes.layers)
        .map(|layer| blocks.block(layer))
        .collect::<Result<_>>()?;
    Ok(Graph {
        family: family.name,
        hidden,
        heads: sizes.heads,
        kv_heads: sizes.kv_heads,
        head_dim: sizes.head_dim,
        vocabulary: sizes.vocabulary,
        context: sizes.context,
        norm_epsilon: sizes.norm_epsilon,
        // After the blocks, whose shapes say that heads of this size are no mere claim.
        rotary: rotary::rotary(&rope, sizes.head_dim)?,
        embedding,
        embedding_scale: match family.scaled_embeddings {
            true => (hidden as f32).sqrt(),
            false => 1.0,
        },
        blocks,
        final_norm: Norm {
            weight: tensors.weight(names.final_norm, &[hidden])?,
            plus_one: family.norms_plus_one,
        },
        head: head(family, &config, &sizes, &tensors)?,
    })
}

/// The head of its own if there is one, else the embeddings, where they are tied. As in
/// transformers, a head that is there counts, whatever the configuration says.
fn head(
    family: &Family,
    config: &Config<'_>,
    sizes: &Sizes,
    tensors: &Tensors<'_>,
) -> Result<Linear> {
    let names = family.names;
    let tied = config.flag("tie_word_embeddings")?;
    let own = tensors.find(&weight(names.head)).is_some();
    let name = match tied.unwrap_or(family.defaults.tied) && !own {
        true => names.embedding,
        false => names.head,
    };
    tensors.linear(name, sizes.hidden, sizes.vocabulary, false)
}

/// Refuses what the graph has no words for.
fn refuse_other_computations(config: &Config<'_>) -> Result<()> {
    if let Some(key) = experts_key(config)? {
        return Err(Error::unsupported(format!(
            "config.json: \"{key}\" says that this is a mixture of experts, which cannot be \
             run by this program"
        )));
    }
    if rotary_part(config)?.is_some_and(|part| part != 1.0) {
        return Err(Error::unsupported(
            "config.json: \"partial_rotary_factor\" is not 1; only models that rotate whole \
             heads can be run",
        ));
    }
    if config.flag("use_bidirectional_attention")? == Some(true) {
        return Err(Error::unsupported(
            "config.json: \"use_bidirectional_attention\" is true; only models that look back can \
             be run",
        ));
    }
    if config.flag("is_causal")? == Some(false) {
        return Err(Error::unsupported(
            "config.json: \"is_causal\" is false; only models that look back can be run",
        ));
    }
    Ok(())
}

/// The numbers of a configuration.
struct Sizes {
    layers: usize,
    hidden: usize,
    feed_forward: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: usize,
    context: usize,
    norm_epsilon: f32,
    activation: Activation,
}

impl Sizes {
    fn read(family: &Family, config: &Config<'_>) -> Result<Self> {
        let require = |key| Ok::<_, Error>(size(config.require_count(key)?));
        let optional = |key| Ok::<_, Error>(config.count(key)?.map(size));
        let (hidden, heads) = (require("hidden_size")?, require("num_attention_heads")?);
        let derived = || family.defaults.head_dim.map_or(hidden / heads, size);
        let epsilon = config.positive("rms_norm_eps")?.unwrap_or(1e-6);
        let sizes = Self {
            layers: require("num_hidden_layers")?,
            hidden,
            feed_forward: require("intermediate_size")?,
            heads,
            kv_heads: optional("num_key_value_heads")?.unwrap_or(heads),
            head_dim: optional("head_dim")?.unwrap_or_else(derived),
            vocabulary: require("vocab_size")?,
            context: optional("max_position_embeddings")?
                .unwrap_or_else(|| size(family.defaults.context)),
            norm_epsilon: epsilon as f32,
            activation: match family.activation {
                Some(activation) => activation,
                None => activation(config)?,
            },
        };
        sizes.check().map(|()| sizes)
    }

    fn check(&self) -> Result<()> {
        let (heads, head_dim) = (self.heads, self.head_dim);
        if !heads.is_multiple_of(self.kv_heads) {
            return Err(Error::validation(format!(
                "config.json: {heads} heads cannot share {} key/value heads",
                self.kv_heads
            )));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(Error::validation(format!(
                "config.json: a head of {head_dim} elements cannot be rotated: its size must be \
                 even"
            )));
        }
        match heads.checked_mul(head_dim) {
            Some(_) => Ok(()),
            None => Err(Error::validation(format!(
                "config.json: {heads} heads of {head_dim} elements are too many"
            ))),
        }
    }
}

fn activation(config: &Config<'_>) -> Result<Activation> {
    match config.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(Error::unsupported(format!(
            "config.json: the activation \"{other}\" cannot be run by this program"
        ))
        .suggest("supported: silu, swish, gelu, gelu_new, gelu_pytorch_tanh")),
    }
}

/// Counts fit into 32 bits.
fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// What is needed to describe any block.
struct Blocks<'a> {
    names: &'a Names,
    sizes: &'a Sizes,
    tensors: &'a Tensors<'a>,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    head_norms: bool,
    norms_plus_one: bool,
    rotated: Rotated<'a>,
    windows: Windows<'a>,
}

impl<'a> Blocks<'a> {
    fn new(
        family: &'a Family,
        config: &Config<'a>,
        sizes: &'a Sizes,
        tensors: &'a Tensors<'a>,
    ) -> Result<Self> {
        Ok(Self {
            names: family.names,
            sizes,
            tensors,
            qkv_bias: family.qkv_bias.is_there(config)?,
            output_bias: family.output_bias.is_there(config)?,
            mlp_bias: family.mlp_bias.is_there(config)?,
            head_norms: family.head_norms,
            norms_plus_one: family.norms_plus_one,
            rotated: Rotated::read(family.rotary, config, sizes.layers)?,
            windows: Windows::read(family.window, config, sizes.layers)?,
        })
    }

    fn block(&self, layer: usize) -> Result<Block> {
        let (names, sizes) = (self.names, self.sizes);
        let (hidden, feed_forward) = (sizes.hidden, sizes.feed_forward);
        let queries = sizes.heads * sizes.head_dim;
        let keys = sizes.kv_heads * sizes.head_dim;
        let linear = |name, inputs, outputs, bias| {
            let name = self.name(layer, name);
            self.tensors.linear(&name, inputs, outputs, bias)
        };
        let stage = |name, linears, then| Stage {
            name,
            linears,
            then,
        };
        let qkv = match names.fused_attention {
            Some(name) => vec![linear(name, hidden, queries + 2 * keys, self.qkv_bias)?],
            None => vec![
                linear(names.query, hidden, queries, self.qkv_bias)?,
                linear(names.key, hidden, keys, self.qkv_bias)?,
                linear(names.value, hidden, keys, self.qkv_bias)?,
            ],
        };
        let output = vec![linear(names.output, queries, hidden, self.output_bias)?];
        let wide = match names.fused_gate {
            Some(name) => vec![linear(name, hidden, 2 * feed_forward, self.mlp_bias)?],
            None => vec![
                linear(names.gate, hidden, feed_forward, self.mlp_bias)?,
                linear(names.up, hidden, feed_forward, self.mlp_bias)?,
            ],
        };
        let down = vec![linear(names.down, feed_forward, hidden, self.mlp_bias)?];
        let attention = Then::Attention(self.attention(layer)?);
        let mlp_norm = Then::AddAndNorm(self.norm(layer, names.mlp_norm, hidden)?);
        Ok(Block {
            norm: self.norm(layer, names.attention_norm, hidden)?,
            stages: vec![
                stage("attention input", qkv, attention),
                stage("attention output", output, mlp_norm),
                stage("MLP input", wide, Then::Gate(sizes.activation)),
                stage("MLP output", down, Then::Add),
            ],
        })
    }

    fn attention(&self, layer: usize) -> Result<Attention> {
        let rotary = self.rotated.is_rotary(layer);
        let norm = |name| match self.head_norms {
            true => self.norm(layer, name, self.sizes.head_dim).map(Some),
            false => Ok(None),
        };
        Ok(Attention {
            q_norm: norm(self.names.query_norm)?,
            k_norm: norm(self.names.key_norm)?,
            rotary,
            window: self.windows.window(layer, rotary),
        })
    }

    fn norm(&self, layer: usize, name: &str, channels: usize) -> Result<Norm> {
        let weight = self.tensors.weight(&self.name(layer, name), &[channels])?;
        Ok(Norm {
            weight,
            plus_one: self.norms_plus_one,
        })
    }

    fn name(&self, layer: usize, name: &str) -> String {
        self.names.block.replace(LAYER, &layer.to_string()) + name
    }
}

/// The tensors of a model by their names.
struct Tensors<'a> {
    model: &'a ModelDescription,
    places: HashMap<&'a str, usize>,
}

impl<'a> Tensors<'a> {
    fn new(model: &'a ModelDescription) -> Self {
        let named = model.tensors.iter().enumerate();
        let places = named
            .map(|(place, tensor)| (tensor.name.as_str(), place))
            .collect();
        Self { model, places }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }

    /// The place of a tensor of this shape.
    fn require(&self, name: &str, shape: &[usize]) -> Result<usize> {
        let place = self.find(name).ok_or_else(|| {
            Error::validation(format!("the model has no tensor \"{name}\""))
                .suggest("check that the model's folder is complete")
        })?;
        let found = &self.model.tensors[place].shape;
        if found
            .iter()
            .copied()
            .eq(shape.iter().map(|&dim| dim as u64))
        {
            return Ok(place);
        }
        Err(Error::validation(format!(
            "the tensor \"{name}\" has the shape {found:?}, but config.json says {shape:?}"
        )))
    }

    fn weight(&self, name: &str, shape: &[usize]) -> Result<usize> {
        self.require(&weight(name), shape)
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        let bias = match bias {
            true => Some(self.require(&format!("{name}.bias"), &[outputs])?),
            false => None,
        };
        Ok(Linear {
            name: weight(name),
            weight: self.weight(name, &[outputs, inputs])?,
            bias,
            inputs,
            outputs,
        })
    }
}

fn weight(name: &str) -> String {
    format!("{name}.weight")
}

#[cfg(test)]
mod tests;
