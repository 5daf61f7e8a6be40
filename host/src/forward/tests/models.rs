//! Small models with random weights, and the graph of a Llama.

use std::path::Path;

use llm_quantize_plugin_api::{Inputs as _, ModelView};

use crate::graph::{Activation, Attention, Block, Graph, Linear, Norm, Rotary, Stage, Then};
use crate::source::SourceModel;
use crate::source::fixtures::{Tensor, write_llama, write_safetensors};

/// What a model is made of.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) feed_forward: usize,
    pub(super) vocabulary: usize,
    pub(super) blocks: usize,
    pub(super) bias: bool,
    pub(super) head_norms: bool,
    pub(super) rotary: bool,
    pub(super) window: Option<usize>,
    pub(super) activation: Activation,
    pub(super) theta: f32,
}

impl Shape {
    /// Grouped queries, and sizes that fill no vector.
    pub(super) fn small() -> Self {
        Self {
            hidden: 36,
            heads: 6,
            kv_heads: 2,
            head_dim: 10,
            feed_forward: 50,
            vocabulary: 31,
            blocks: 2,
            bias: false,
            head_norms: false,
            rotary: true,
            window: None,
            activation: Activation::Silu,
            theta: 1000.0,
        }
    }

    /// The graph; `tensor` says which tensor has a name, and its shape.
    pub(super) fn graph(&self, tensor: &mut dyn FnMut(&str, &[usize]) -> usize) -> Graph {
        let (hidden, dim) = (self.hidden, self.head_dim);
        let blocks = (0..self.blocks).map(|block| self.block(block, tensor));
        let blocks = blocks.collect();
        Graph {
            family: "test",
            hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: dim,
            vocabulary: self.vocabulary,
            context: 512,
            norm_epsilon: 1e-5,
            rotary: Rotary {
                frequencies: (0..dim / 2)
                    .map(|i| self.theta.powf(-2.0 * i as f32 / dim as f32))
                    .collect(),
                magnitude: 1.0,
            },
            embedding: tensor("model.embed_tokens.weight", &[self.vocabulary, hidden]),
            embedding_scale: 1.0,
            blocks,
            final_norm: Norm {
                weight: tensor("model.norm.weight", &[hidden]),
                plus_one: false,
            },
            head: linear("lm_head", hidden, self.vocabulary, false, tensor),
        }
    }

    fn block(&self, block: usize, tensor: &mut dyn FnMut(&str, &[usize]) -> usize) -> Block {
        let name = |part: &str| format!("model.layers.{block}.{part}");
        let norm = |part: &str, size, tensor: &mut dyn FnMut(&str, &[usize]) -> usize| Norm {
            weight: tensor(&format!("{}.weight", name(part)), &[size]),
            plus_one: false,
        };
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut layers = |parts: &[(&str, usize)], inputs| -> Vec<Linear> {
            let layer = |(part, outputs): &(&str, usize)| {
                linear(&name(part), inputs, *outputs, self.bias, tensor)
            };
            parts.iter().map(layer).collect()
        };
        let attention_in = [
            ("self_attn.q_proj", queries),
            ("self_attn.k_proj", keys),
            ("self_attn.v_proj", keys),
        ];
        let attention_in = layers(&attention_in, self.hidden);
        let attention_out = layers(&[("self_attn.o_proj", self.hidden)], queries);
        let wide = self.feed_forward;
        let gates = layers(
            &[("mlp.gate_proj", wide), ("mlp.up_proj", wide)],
            self.hidden,
        );
        let down = layers(&[("mlp.down_proj", self.hidden)], wide);
        let mut head_norm = |part| {
            let norm = |part| norm(part, self.head_dim, tensor);
            self.head_norms.then_some(part).map(norm)
        };
        let attention = Attention {
            q_norm: head_norm("self_attn.q_norm"),
            k_norm: head_norm("self_attn.k_norm"),
            rotary: self.rotary,
            window: self.window,
        };
        let after = norm("post_attention_layernorm", self.hidden, tensor);
        let stage = |name, linears, then| Stage {
            name,
            linears,
            then,
        };
        Block {
            norm: norm("input_layernorm", self.hidden, tensor),
            stages: vec![
                stage("attention input", attention_in, Then::Attention(attention)),
                stage("attention output", attention_out, Then::AddAndNorm(after)),
                stage("feed-forward input", gates, Then::Gate(self.activation)),
                stage("feed-forward output", down, Then::Add),
            ],
        }
    }

    /// A model with random weights, written to a folder.
    pub(super) fn write(&self, folder: &Path) -> (Graph, SourceModel) {
        let mut tensors = Vec::new();
        let mut seed = 1;
        let graph = self.graph(&mut |name, shape| {
            let count: usize = shape.iter().product();
            let (spread, middle) = match (name.contains("norm"), shape) {
                (true, _) => (0.5, 1.0),
                (false, [_, inputs]) => (2.0 / (*inputs as f32).sqrt(), 0.0),
                (false, _) => (0.5, 0.0),
            };
            let numbers: Vec<f32> = (0..count)
                .map(|_| middle + spread * random(&mut seed))
                .collect();
            tensors.push(Tensor::f32(name, shape, &numbers));
            tensors.len() - 1
        });
        write_llama(folder);
        write_safetensors(&folder.join("model.safetensors"), &tensors);
        let source = SourceModel::open(folder.to_str().unwrap(), &[], ModelView::HuggingFace);
        (graph, source.unwrap())
    }
}

fn linear(
    name: &str,
    inputs: usize,
    outputs: usize,
    bias: bool,
    tensor: &mut dyn FnMut(&str, &[usize]) -> usize,
) -> Linear {
    let name_of = |part: &str| format!("{name}.{part}");
    Linear {
        name: name_of("weight"),
        weight: tensor(&name_of("weight"), &[outputs, inputs]),
        bias: bias.then(|| tensor(&name_of("bias"), &[outputs])),
        inputs,
        outputs,
    }
}

/// A number between -1 and 1.
pub(super) fn random(seed: &mut u64) -> f32 {
    *seed = seed
        .wrapping_mul(6364136223846793005)
        .wrapping_add(1442695040888963407);
    (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The model that comes with the tests.
pub(super) fn tiny_llama() -> (Graph, SourceModel) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-llama");
    let source = SourceModel::open(path.to_str().unwrap(), &[], ModelView::HuggingFace).unwrap();
    let shape = Shape {
        hidden: 256,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        feed_forward: 768,
        vocabulary: 2048,
        blocks: 4,
        theta: 10000.0,
        ..Shape::small()
    };
    let graph = shape.graph(&mut |name, _| source.model().tensor_index(name).unwrap());
    (graph, source)
}
