//! Tensor rules: what a tensor is called on both sides, and what shape it has.

use super::Hyperparameters;

/// Stands for the number of the layer in the patterns of a rule.
const LAYER: &str = "{layer}";

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
        }
    }
}

/// One tensor of a family, or one of each layer.
#[derive(Debug, Clone, Copy)]
pub struct TensorRule {
    /// Hugging Face name; `{layer}` stands for the number of the layer.
    pub hf: &'static str,
    /// GGUF name, likewise.
    pub gguf: &'static str,
    /// Shape, outermost dimension first, as in PyTorch.
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

    /// The Hugging Face name in a layer (any number for a tensor outside the layers).
    #[must_use]
    pub fn hf_name(&self, layer: u32) -> String {
        self.hf.replace(LAYER, &layer.to_string())
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

/// Whether a name fits a pattern: `Some(None)` outside the layers, `Some(Some(n))` in
/// layer `n`, `None` if it does not fit.
pub(super) fn fit(pattern: &str, name: &str) -> Option<Option<u32>> {
    let Some((before, after)) = pattern.split_once(LAYER) else {
        return (pattern == name).then_some(None);
    };
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    let number = digits.parse().ok()?;
    canonical.then_some(Some(number))
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

/// The block that all these families share: norms before attention and MLP, grouped
/// queries, a gated MLP.
pub const BLOCK: TensorGroup = TensorGroup {
    presence: Presence::Required,
    rules: &[
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
        assert_eq!(fit("model.norm.weight", "model.norm.weight"), Some(None));
        assert_eq!(fit("blk.{layer}.x", "blk.12.x"), Some(Some(12)));
        assert_eq!(fit("blk.{layer}.x", "blk.0.x"), Some(Some(0)));
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
