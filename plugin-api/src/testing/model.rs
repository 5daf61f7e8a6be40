//! A small model in memory, complete enough for every format.

use std::collections::BTreeMap;

use half::bf16;
use serde_json::{Value, json};

use super::statistics::MadeUp;
use crate::interface::{
    AffineGroups, ElementType, FileView, Fold, Inputs, ModelDescription, Reader, Result, Site,
    StatisticRequest, TensorInfo,
};
use crate::regroup::Survey;

/// A model in memory.
#[derive(Debug, Clone, Default)]
pub struct TestModel {
    description: ModelDescription,
    tensors: Vec<Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
    attachments: BTreeMap<String, Vec<u8>>,
    pub(super) statistics: Vec<(StatisticRequest, MadeUp)>,
    pub(super) groups: BTreeMap<usize, AffineGroups>,
}

const HIDDEN: u64 = 256;
const MLP: u64 = 512;
const LAYERS: u64 = 2;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const HEAD: u64 = HIDDEN / HEADS;
const VOCAB: u64 = 264;

impl TestModel {
    /// A Llama of two layers, 256 wide, in bf16, with a byte-level BPE tokenizer of
    /// 264 tokens. Its weights are pseudo-random and always the same.
    pub fn tiny_llama() -> Self {
        let mut model = Self::default();
        model.description.name = "tiny-llama-test".into();
        model.description.format = "hf".into();
        model.description.config = config();
        for (name, shape) in tensors() {
            model.add_bf16(&name, &shape);
        }
        model.description.sites = sites(&model.description);
        model.add_file("config.json", config().to_string().into_bytes());
        model.add_file("tokenizer.json", tokenizer().to_string().into_bytes());
        model.add_file(
            "tokenizer_config.json",
            json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"})
                .to_string()
                .into_bytes(),
        );
        model
    }

    /// The same with an MLP that is so much narrower: the first numbers of each weight.
    pub fn narrow_llama(width: u64) -> Self {
        let mut model = Self::tiny_llama();
        let tensors = model.description.tensors.iter_mut().zip(&mut model.tensors);
        for (info, bytes) in tensors {
            for dim in info.shape.iter_mut().filter(|dim| **dim == MLP) {
                *dim = width.min(MLP);
            }
            info.bytes = info.shape.iter().product::<u64>() * 2;
            bytes.truncate(info.bytes as usize);
        }
        let mut config = config();
        config["intermediate_size"] = width.min(MLP).into();
        model.set_config(config);
        model
    }

    /// The model that a reader presents, with the tensors' stored bytes as far as the reader
    /// gives them, and its files.
    ///
    /// # Errors
    /// The reader's.
    pub fn of_reader(reader: &dyn Reader, files: &[FileView<'_>]) -> Result<Self> {
        let mut model = Self {
            description: reader.model().clone(),
            ..Self::default()
        };
        for index in 0..model.description.tensors.len() {
            let stored = reader.stored(index).and_then(|(file, range)| {
                let bytes = files.get(file)?.bytes;
                bytes.get(range.start as usize..range.end as usize)
            });
            model.tensors.push(stored.unwrap_or_default().to_vec());
        }
        for name in &reader.model().files {
            if let Some(bytes) = reader.file(files, name)? {
                model.files.insert(name.clone(), bytes);
            }
        }
        Ok(model)
    }

    /// Adds a file beside the tensors.
    pub fn add_file(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.into(), bytes);
        self.description.files = self.files.keys().cloned().collect();
    }

    /// Adds an attachment such as `imatrix`.
    pub fn add_attachment(&mut self, kind: &str, bytes: Vec<u8>) {
        self.attachments.insert(kind.into(), bytes);
    }

    /// Replaces the config.
    pub fn set_config(&mut self, config: Value) {
        self.add_file("config.json", config.to_string().into_bytes());
        self.description.config = config;
    }

    /// Takes the groups that a reader has of its model's quantized weights, as a host does that
    /// wants them to be repacked.
    ///
    /// # Errors
    /// The reader's, and if groups are not as many as the weights.
    pub fn take_groups(&mut self, reader: &dyn Reader, files: &[FileView<'_>]) -> Result<()> {
        for (place, tensor) in reader.model().tensors.iter().enumerate() {
            let rows = tensor.rows().unwrap_or(0);
            if ElementType::from_dtype(&tensor.dtype).is_some() {
                continue;
            }
            let Some(groups) = reader.groups(files, place, 0..rows)? else {
                continue;
            };
            let cols = tensor.cols() as usize;
            groups.check(rows as usize, cols)?;
            let facts = Survey::of(&groups, cols).facts();
            self.description.groups.insert(place, facts);
            self.groups.insert(place, groups);
        }
        Ok(())
    }

    /// Replaces the sites.
    pub fn set_sites(&mut self, sites: Vec<Site>) {
        self.description.sites = sites;
    }

    /// Adds a tensor with its stored bytes.
    pub fn add_tensor(&mut self, name: &str, dtype: &str, shape: &[u64], bytes: Vec<u8>) {
        self.description.tensors.push(TensorInfo {
            name: name.into(),
            dtype: dtype.into(),
            shape: shape.to_vec(),
            bytes: bytes.len() as u64,
        });
        self.tensors.push(bytes);
    }

    /// The stored bytes of a tensor.
    pub fn tensor_bytes(&self, tensor: usize) -> &[u8] {
        &self.tensors[tensor]
    }

    fn add_bf16(&mut self, name: &str, shape: &[u64]) {
        let count: u64 = shape.iter().product();
        let mut state = 0x9E37_79B9_7F4A_7C15u64 ^ (self.tensors.len() as u64);
        let bytes = (0..count)
            .flat_map(|_| {
                let uniform = |state: &mut u64| {
                    *state ^= *state << 13;
                    *state ^= *state >> 7;
                    *state ^= *state << 17;
                    (*state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
                };
                // The product of two uniforms has heavier tails than either.
                let weight = uniform(&mut state) * uniform(&mut state);
                bf16::from_f32(weight).to_le_bytes()
            })
            .collect();
        self.add_tensor(name, "BF16", shape, bytes);
    }
}

impl Inputs for TestModel {
    fn model(&self) -> &ModelDescription {
        &self.description
    }

    fn file(&self, name: &str) -> Result<Option<&[u8]>> {
        Ok(self.files.get(name).map(Vec::as_slice))
    }

    fn attachment(&self, kind: &str) -> Option<FileView<'_>> {
        let (name, bytes) = self.attachments.get_key_value(kind)?;
        Some(FileView { name, bytes })
    }
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
        "vocab_size": VOCAB, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu",
        "bos_token_id": 256, "eos_token_id": 257,
    })
}

fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN])];
    for layer in 0..LAYERS {
        let parts: [(&str, &[u64]); 9] = [
            ("input_layernorm", &[HIDDEN]),
            ("self_attn.q_proj", &[HEADS * HEAD, HIDDEN]),
            ("self_attn.k_proj", &[KV_HEADS * HEAD, HIDDEN]),
            ("self_attn.v_proj", &[KV_HEADS * HEAD, HIDDEN]),
            ("self_attn.o_proj", &[HIDDEN, HEADS * HEAD]),
            ("post_attention_layernorm", &[HIDDEN]),
            ("mlp.gate_proj", &[MLP, HIDDEN]),
            ("mlp.up_proj", &[MLP, HIDDEN]),
            ("mlp.down_proj", &[HIDDEN, MLP]),
        ];
        for (part, shape) in parts {
            all.push((
                format!("model.layers.{layer}.{part}.weight"),
                shape.to_vec(),
            ));
        }
    }
    all.push(("model.norm.weight".into(), vec![HIDDEN]));
    all.push(("lm_head.weight".into(), vec![VOCAB, HIDDEN]));
    all
}

/// The sites of the model, as the host describes them.
fn sites(model: &ModelDescription) -> Vec<Site> {
    let place = |name: &str| {
        let name = format!("{name}.weight");
        model.tensor_index(&name).unwrap_or(usize::MAX)
    };
    let norm = |name: &str| Fold::Norm {
        weight: place(name),
    };
    let site = |name: &str, block, layers: Vec<usize>, fold| Site {
        name: name.into(),
        block,
        layers,
        fold,
    };
    let mut all = Vec::new();
    for layer in 0..LAYERS as u32 {
        let full = |part: &str| format!("model.layers.{layer}.{part}");
        let named = |parts: &[&str]| parts.iter().map(|part| place(&full(part))).collect();
        let values = Fold::Values {
            weight: place(&full("self_attn.v_proj")),
            bias: None,
            head_dim: HEAD as usize,
            shared_by: (HEADS / KV_HEADS) as usize,
        };
        let up = Fold::Rows {
            weight: place(&full("mlp.up_proj")),
            bias: None,
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let wide = ["mlp.gate_proj", "mlp.up_proj"];
        let norms = ["input_layernorm", "post_attention_layernorm"].map(|part| norm(&full(part)));
        all.extend([
            site("attention input", Some(layer), named(&qkv), norms[0]),
            site(
                "attention output",
                Some(layer),
                named(&["self_attn.o_proj"]),
                values,
            ),
            site("MLP input", Some(layer), named(&wide), norms[1]),
            site("MLP output", Some(layer), named(&["mlp.down_proj"]), up),
        ]);
    }
    let head = vec![place("lm_head")];
    all.push(site("output head", None, head, norm("model.norm")));
    all
}

/// Byte-level BPE: the 256 bytes, two special tokens and six merges.
fn tokenizer() -> Value {
    let letters = byte_letters();
    let mut vocab = serde_json::Map::new();
    for (id, letter) in letters.iter().enumerate() {
        vocab.insert(letter.to_string(), json!(id));
    }
    let specials = ["<|begin|>", "<|end|>"];
    for (index, special) in specials.iter().enumerate() {
        vocab.insert((*special).into(), json!(256 + index));
    }
    let merges = [
        ["Ġ", "t"],
        ["h", "e"],
        ["i", "n"],
        ["r", "e"],
        ["Ġt", "he"],
        ["Ġ", "a"],
    ];
    for (index, [left, right]) in merges.iter().enumerate() {
        vocab.insert(format!("{left}{right}"), json!(258 + index));
    }
    let added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(index, content)| {
            json!({"id": 256 + index, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false,
                  "merges": merges.map(|[l, r]| format!("{l} {r}")), "vocab": vocab},
    })
}

/// The letters that stand for the 256 bytes in GPT-2's byte-level BPE: printable
/// Latin-1 stands for itself, the rest for the letters from U+0100 on.
fn byte_letters() -> Vec<char> {
    let mut next = 0x100u32;
    (0u8..=255)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or(' ')
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_complete_and_always_the_same() {
        let model = TestModel::tiny_llama();
        assert_eq!(model.model().tensors.len(), 2 + 1 + 9 * LAYERS as usize);
        let again = TestModel::tiny_llama();
        assert!((0..21).all(|i| model.tensor_bytes(i) == again.tensor_bytes(i)));
        let vocab = &tokenizer()["model"]["vocab"];
        assert_eq!(vocab.as_object().unwrap().len() as u64, VOCAB);
        assert_eq!(vocab["Ġ"], 32);
    }
}
