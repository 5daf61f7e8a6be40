//! What a tensor does in the model, read from its GGUF name; and which tensors are left alone.

use std::cmp::Ordering;

/// What the mixtures tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The output projection onto the vocabulary.
    Output,
    /// Token embeddings, the per-layer ones included.
    TokenEmbd,
    /// Anything that makes attention values: value, fused query-key-value and latent key-value
    /// projections. These are the most sensitive.
    AttnV,
    /// Key projections.
    AttnK,
    /// The attention's output projection.
    AttnOutput,
    /// Feed-forward up projections, expert ones included.
    FfnUp,
    /// Feed-forward gate projections, expert ones included.
    FfnGate,
    /// Feed-forward down projections, expert ones included.
    FfnDown,
    /// All others; query projections are among them, as no level treats them specially.
    Other,
}

/// Parts of names that tell the role; the first that occurs counts.
const PARTS: &[(&str, Role)] = &[
    ("attn_qkv.weight", Role::AttnV),
    ("attn_kv_b.weight", Role::AttnV),
    ("attn_v.weight", Role::AttnV),
    ("attn_k.weight", Role::AttnK),
    ("attn_q.weight", Role::Other),
    ("attn_output.weight", Role::AttnOutput),
    ("ffn_up", Role::FfnUp),
    ("ffn_gate", Role::FfnGate),
    ("ffn_down", Role::FfnDown),
];

impl Role {
    /// The role of the tensor with this GGUF name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | PER_LAYER_TOKEN_EMBD => Self::TokenEmbd,
            _ => PARTS
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Self::Other, |&(_, role)| role),
        }
    }
}

/// The table of per-layer embeddings (Gemma 3n), which a type override may name.
pub(super) const PER_LAYER_TOKEN_EMBD: &str = "per_layer_token_embd.weight";

/// The layer number after `blk.`, if there is one.
#[must_use]
pub fn layer_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("blk.")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest.get(..digits)?.parse().ok()
}

/// The order in which llama.cpp walks, and writes, a model's tensors: those outside of layers
/// first, then layer by layer; by the bytes of the name within.
#[must_use]
pub fn walking_order(a: &str, b: &str) -> Ordering {
    layer_of(a).cmp(&layer_of(b)).then_with(|| a.cmp(b))
}

/// Parts of names of tensors that stay as they are: small, or harmed by quantization.
const KEPT: &[&str] = &[
    // Norms, and the routers of mixtures of experts.
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    // Gemma 3n's small projections.
    "altup",
    "laurel",
    "per_layer_model_proj",
    // Convolutions of state-space models.
    "ssm_conv1d",
    "shortconv.conv.weight",
    // MiniMax's indexer.
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    // RWKV's low-rank and mixing weights.
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    // T5's relative position bias.
    "attn_rel_b.weight",
    // Image and audio encoders.
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Whole names of tensors that stay as they are: position and token type embeddings.
const KEPT_NAMES: &[&str] = &["position_embd.weight", "token_types.weight"];

/// Further parts of names that stay as they are in the GLM5-Next architecture.
const KEPT_GLM5_NEXT: &[&str] = &[
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Parts of names that GLM5-Next wants at eight bits at least.
const EIGHT_BIT_GLM5_NEXT: &[&str] = &["attn_q_a", "attn_q_b", "nextn.eh_proj"];

const GLM5_NEXT: &str = "glm5-next";

/// Whether a tensor is quantized at all: a matrix (or stack of matrices) named `…weight` that is
/// not one of the exceptions.
#[must_use]
pub fn is_quantized(architecture: &str, name: &str, dims: &[u64]) -> bool {
    let is_matrix = dims.iter().skip(1).any(|&d| d > 1);
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    is_matrix
        && name.ends_with("weight")
        && !has(KEPT)
        && !KEPT_NAMES.contains(&name)
        && !(architecture == GLM5_NEXT && has(KEPT_GLM5_NEXT))
}

/// Whether a tensor gets Q8_0 whatever the level, because its architecture needs it.
pub(super) fn needs_eight_bits(architecture: &str, name: &str) -> bool {
    architecture == GLM5_NEXT && EIGHT_BIT_GLM5_NEXT.iter().any(|part| name.contains(part))
}
