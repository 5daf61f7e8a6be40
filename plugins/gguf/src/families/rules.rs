//! Tensor rules: what a tensor is called on both sides, and what shape it has.

use super::Hyperparameters;

/// Stands for the number of the layer in the patterns of a rule.
const LAYER: &str = "{layer}";
/// Stands for the number of the expert, in Hugging Face names only: GGUF stacks the experts of a
/// layer in one tensor.
const EXPERT: &str = "{expert}";

/// A dimension of a tensor, as a size that the configuration gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// `hidden_size`.
    Hidden,
    /// `vocab_size`.
    Vocabulary,
    /// `intermediate_size`.
    FeedForward,
    /// All query heads: heads × head dimension.
    Queries,
    /// All key (or value) heads: key/value heads × head dimension.
    Keys,
    /// One head.
    Head,
    /// All query, key and value heads, one after the other.
    QueriesKeysValues,
    /// Twice `intermediate_size`: what is gated after what gates.
    GateAndUp,
    /// Number of experts.
    Experts,
    /// Width of an expert.
    ExpertFeedForward,
}

impl Axis {
    /// The size in a model.
    #[must_use]
    pub fn size(self, model: &Hyperparameters) -> u64 {
        match self {
            Self::Hidden => model.hidden,
            Self::Vocabulary => model.vocabulary,
            Self::FeedForward => model.feed_forward,
            // Checked against overflow where the hyperparameters are made.
            Self::Queries => model.heads * model.head_dim,
            Self::Keys => model.kv_heads * model.head_dim,
            Self::Head => model.head_dim,
            Self::QueriesKeysValues => (model.heads + 2 * model.kv_heads) * model.head_dim,
            Self::GateAndUp => 2 * model.feed_forward,
            Self::Experts => model.experts.map_or(0, |experts| experts.count),
            Self::ExpertFeedForward => model.experts.map_or(0, |experts| experts.feed_forward),
        }
    }
}

/// One tensor of a family, or one of each layer.
#[derive(Debug, Clone, Copy)]
pub struct TensorRule {
    /// Hugging Face name; `{layer}` stands for the number of the layer, `{expert}` for that of the
    /// expert.
    pub hf: &'static str,
    /// GGUF name, likewise.
    pub gguf: &'static str,
    /// Shape, outermost dimension first, as in PyTorch; of one expert.
    pub shape: &'static [Axis],
    /// Whether the rows belong to heads that rotary embeddings turn, so that families
    /// with interleaved pairs permute them.
    pub rotary: bool,
}

impl TensorRule {
    /// Whether there is one of these in each layer.
    #[must_use]
    pub fn per_layer(&self) -> bool {
        self.hf.contains(LAYER)
    }

    /// Whether there is one of these for each expert, all of which are one tensor in GGUF.
    #[must_use]
    pub fn per_expert(&self) -> bool {
        self.hf.contains(EXPERT)
    }

    /// The Hugging Face name in a layer, of an expert (any number for a tensor outside the layers,
    /// or of no expert).
    #[must_use]
    pub fn hf_name(&self, layer: u32, expert: u32) -> String {
        self.hf
            .replace(LAYER, &layer.to_string())
            .replace(EXPERT, &expert.to_string())
    }

    /// The GGUF name in a layer (any number for a tensor outside the layers).
    #[must_use]
    pub fn gguf_name(&self, layer: u32) -> String {
        self.gguf.replace(LAYER, &layer.to_string())
    }

    /// The shape in a model, outermost dimension first.
    #[must_use]
    pub fn shape(&self, model: &Hyperparameters) -> Vec<u64> {
        self.shape.iter().map(|axis| axis.size(model)).collect()
    }
}

/// The numbers in a name that fits a pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The layer, if the pattern has one.
    pub layer: Option<u32>,
    /// The expert, if the pattern has one.
    pub expert: Option<u32>,
}

/// The numbers in a name; `None` if it does not fit a pattern.
pub(super) fn fit(pattern: &str, name: &str) -> Option<Numbers> {
    let Some((before, after)) = pattern.split_once(LAYER) else {
        return (pattern == name).then(Numbers::default);
    };
    let (layer, rest) = leading_number(name.strip_prefix(before)?)?;
    let expert = match after.split_once(EXPERT) {
        None if rest == after => None,
        None => return None,
        Some((between, end)) => {
            let (expert, rest) = leading_number(rest.strip_prefix(between)?)?;
            Some((rest == end).then_some(expert)?)
        }
    };
    Some(Numbers {
        layer: Some(layer),
        expert,
    })
}

/// The number that a text begins with, written as numbers are, and the rest.
fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(end);
    let canonical = digits.len() == 1 || !digits.starts_with('0');
    let number = digits.parse().ok()?;
    canonical.then_some((number, rest))
}

/// When the tensors of a group are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Always.
    Required,
    /// If this key of the configuration is true. The converter takes them without it as
    /// well, so they may be there in any case, but then in every layer.
    Flag(&'static str),
    /// Always, unless `tie_word_embeddings` says that the embeddings serve instead.
    UnlessTied,
}

/// Tensors that are there under the same condition.
#[derive(Debug, Clone, Copy)]
pub struct TensorGroup {
    /// The condition.
    pub presence: Presence,
    /// The tensors.
    pub rules: &'static [TensorRule],
}

const fn rule(hf: &'static str, gguf: &'static str, shape: &'static [Axis]) -> TensorRule {
    TensorRule {
        hf,
        gguf,
        shape,
        rotary: false,
    }
}

const fn rotary(hf: &'static str, gguf: &'static str, shape: &'static [Axis]) -> TensorRule {
    TensorRule {
        hf,
        gguf,
        shape,
        rotary: true,
    }
}

/// Token embeddings and the last norm.
pub const EMBEDDINGS: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &[
        rule(
            "model.embed_tokens.weight",
            "token_embd.weight",
            &[Axis::Vocabulary, Axis::Hidden],
        ),
        rule("model.norm.weight", "output_norm.weight", &[Axis::Hidden]),
    ],
};

/// The output head.
pub const HEAD: TensorGroup = TensorGroup {
    presence: Presence::UnlessTied,
    rules: &[rule(
        "lm_head.weight",
        "output.weight",
        &[Axis::Vocabulary, Axis::Hidden],
    )],
};

/// A block with norms before attention and MLP, grouped queries, and a gated MLP, which comes
/// last.
const BLOCK_RULES: [TensorRule; 9] = [
    rule(
        "model.layers.{layer}.input_layernorm.weight",
        "blk.{layer}.attn_norm.weight",
        &[Axis::Hidden],
    ),
    rotary(
        "model.layers.{layer}.self_attn.q_proj.weight",
        "blk.{layer}.attn_q.weight",
        &[Axis::Queries, Axis::Hidden],
    ),
    rotary(
        "model.layers.{layer}.self_attn.k_proj.weight",
        "blk.{layer}.attn_k.weight",
        &[Axis::Keys, Axis::Hidden],
    ),
    rule(
        "model.layers.{layer}.self_attn.v_proj.weight",
        "blk.{layer}.attn_v.weight",
        &[Axis::Keys, Axis::Hidden],
    ),
    rule(
        "model.layers.{layer}.self_attn.o_proj.weight",
        "blk.{layer}.attn_output.weight",
        &[Axis::Hidden, Axis::Queries],
    ),
    rule(
        "model.layers.{layer}.post_attention_layernorm.weight",
        "blk.{layer}.ffn_norm.weight",
        &[Axis::Hidden],
    ),
    rule(
        "model.layers.{layer}.mlp.gate_proj.weight",
        "blk.{layer}.ffn_gate.weight",
        &[Axis::FeedForward, Axis::Hidden],
    ),
    rule(
        "model.layers.{layer}.mlp.up_proj.weight",
        "blk.{layer}.ffn_up.weight",
        &[Axis::FeedForward, Axis::Hidden],
    ),
    rule(
        "model.layers.{layer}.mlp.down_proj.weight",
        "blk.{layer}.ffn_down.weight",
        &[Axis::Hidden, Axis::FeedForward],
    ),
];

/// The block that most families share.
pub const BLOCK: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &BLOCK_RULES,
};

/// The same without its MLP.
pub const BLOCK_WITHOUT_MLP: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: BLOCK_RULES.split_at(6).0,
};

/// A block of which the layers that read the same are one.
pub const FUSED_BLOCK: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &[
        BLOCK_RULES[0],
        rule(
            "model.layers.{layer}.self_attn.qkv_proj.weight",
            "blk.{layer}.attn_qkv.weight",
            &[Axis::QueriesKeysValues, Axis::Hidden],
        ),
        BLOCK_RULES[4],
        BLOCK_RULES[5],
        rule(
            "model.layers.{layer}.mlp.gate_up_proj.weight",
            "blk.{layer}.ffn_up.weight",
            &[Axis::GateAndUp, Axis::Hidden],
        ),
        BLOCK_RULES[8],
    ],
};

/// Experts as Qwen names them, and what chooses among them.
pub const EXPERTS: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &[
        rule(
            "model.layers.{layer}.mlp.gate.weight",
            "blk.{layer}.ffn_gate_inp.weight",
            &[Axis::Experts, Axis::Hidden],
        ),
        rule(
            "model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",
            "blk.{layer}.ffn_gate_exps.weight",
            &[Axis::ExpertFeedForward, Axis::Hidden],
        ),
        rule(
            "model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",
            "blk.{layer}.ffn_up_exps.weight",
            &[Axis::ExpertFeedForward, Axis::Hidden],
        ),
        rule(
            "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",
            "blk.{layer}.ffn_down_exps.weight",
            &[Axis::Hidden, Axis::ExpertFeedForward],
        ),
    ],
};

/// The same as Mixtral names them.
pub const MIXTRAL_EXPERTS: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &[
        rule(
            "model.layers.{layer}.block_sparse_moe.gate.weight",
            "blk.{layer}.ffn_gate_inp.weight",
            &[Axis::Experts, Axis::Hidden],
        ),
        rule(
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
            "blk.{layer}.ffn_gate_exps.weight",
            &[Axis::ExpertFeedForward, Axis::Hidden],
        ),
        rule(
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
            "blk.{layer}.ffn_up_exps.weight",
            &[Axis::ExpertFeedForward, Axis::Hidden],
        ),
        rule(
            "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
            "blk.{layer}.ffn_down_exps.weight",
            &[Axis::Hidden, Axis::ExpertFeedForward],
        ),
    ],
};

/// Biases of query, key and value, and of the attention's output after them.
const ATTENTION_BIAS_RULES: [TensorRule; 4] = [
    rotary(
        "model.layers.{layer}.self_attn.q_proj.bias",
        "blk.{layer}.attn_q.bias",
        &[Axis::Queries],
    ),
    rotary(
        "model.layers.{layer}.self_attn.k_proj.bias",
        "blk.{layer}.attn_k.bias",
        &[Axis::Keys],
    ),
    rule(
        "model.layers.{layer}.self_attn.v_proj.bias",
        "blk.{layer}.attn_v.bias",
        &[Axis::Keys],
    ),
    rule(
        "model.layers.{layer}.self_attn.o_proj.bias",
        "blk.{layer}.attn_output.bias",
        &[Axis::Hidden],
    ),
];

/// Biases of query, key and value, always.
pub const QKV_BIASES: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: ATTENTION_BIAS_RULES.split_at(3).0,
};

/// Biases of all four projections of the attention.
pub const ATTENTION_BIASES: TensorGroup = TensorGroup {
    presence: Presence::Flag("attention_bias"),
    rules: &ATTENTION_BIAS_RULES,
};

/// Biases of the MLP.
pub const MLP_BIASES: TensorGroup = TensorGroup {
    presence: Presence::Flag("mlp_bias"),
    rules: &[
        rule(
            "model.layers.{layer}.mlp.gate_proj.bias",
            "blk.{layer}.ffn_gate.bias",
            &[Axis::FeedForward],
        ),
        rule(
            "model.layers.{layer}.mlp.up_proj.bias",
            "blk.{layer}.ffn_up.bias",
            &[Axis::FeedForward],
        ),
        rule(
            "model.layers.{layer}.mlp.down_proj.bias",
            "blk.{layer}.ffn_down.bias",
            &[Axis::Hidden],
        ),
    ],
};

/// Norms of each query and key head.
pub const QK_NORMS: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &[
        rule(
            "model.layers.{layer}.self_attn.q_norm.weight",
            "blk.{layer}.attn_q_norm.weight",
            &[Axis::Head],
        ),
        rule(
            "model.layers.{layer}.self_attn.k_norm.weight",
            "blk.{layer}.attn_k_norm.weight",
            &[Axis::Head],
        ),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_exactly() {
        let numbers = |layer, expert| Some(Numbers { layer, expert });
        assert_eq!(
            fit("model.norm.weight", "model.norm.weight"),
            numbers(None, None)
        );
        assert_eq!(fit("blk.{layer}.x", "blk.12.x"), numbers(Some(12), None));
        assert_eq!(fit("blk.{layer}.x", "blk.0.x"), numbers(Some(0), None));
        let experts = "l.{layer}.experts.{expert}.w";
        assert_eq!(fit(experts, "l.3.experts.12.w"), numbers(Some(3), Some(12)));
        for name in [
            "l.3.experts.w",
            "l.3.experts.01.w",
            "l.3.experts.1.v",
            "l.3.experts.1.w.w",
        ] {
            assert_eq!(fit(experts, name), None, "{name}");
        }
        for name in [
            "blk.x",
            "blk..x",
            "blk.012.x",
            "blk.+1.x",
            "blk.1.y",
            "blk.1.2.x",
            "blk.99999999999.x",
            "a.blk.1.x",
        ] {
            assert_eq!(fit("blk.{layer}.x", name), None, "{name}");
        }
    }
}
