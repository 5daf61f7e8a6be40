//! Models of a few kilobytes: what the seeds and the mutation tests start from.

use llm_quantize_plugin_api::testing::TestModel;
use llm_quantize_plugin_api::{Fold, Inputs, ModelDescription, Site, TensorInfo};
use serde_json::{Value, json};

/// Width of the smallest model: neither a group nor a block of quantized weights fits.
pub const NARROW: u64 = 8;
/// Width that formats quantize: a row is one block of 32, or one group.
pub const WIDTH: u64 = 32;
/// Tokens of the tokenizers.
const VOCABULARY: u64 = 8;

/// A file's name and content.
pub type File = (String, Vec<u8>);

/// config.json of a Llama with one layer; `width` is a multiple of 4.
pub fn config(width: u64) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    })
}

/// Names and shapes of its tensors.
pub fn tensors(width: u64) -> Vec<(String, Vec<u64>)> {
    let parts: [(&str, &[u64]); 9] = [
        ("input_layernorm", &[width]),
        ("self_attn.q_proj", &[width, width]),
        ("self_attn.k_proj", &[width / 2, width]),
        ("self_attn.v_proj", &[width / 2, width]),
        ("self_attn.o_proj", &[width, width]),
        ("post_attention_layernorm", &[width]),
        ("mlp.gate_proj", &[width, width]),
        ("mlp.up_proj", &[width, width]),
        ("mlp.down_proj", &[width, width]),
    ];
    let layer =
        parts.map(|(part, shape)| (format!("model.layers.0.{part}.weight"), shape.to_vec()));
    let embeddings = (
        "model.embed_tokens.weight".to_owned(),
        vec![VOCABULARY, width],
    );
    let norm = ("model.norm.weight".to_owned(), vec![width]);
    [embeddings]
        .into_iter()
        .chain(layer)
        .chain([norm])
        .collect()
}

/// The model in memory, without a tokenizer.
pub fn model(width: u64) -> TestModel {
    let mut model = TestModel::default();
    model.set_config(config(width));
    for (name, shape) in tensors(width) {
        let bytes = numbers(shape.iter().product());
        model.add_tensor(&name, "BF16", &shape, bytes);
    }
    model.set_sites(sites(model.model()));
    model
}

/// The linear layers of a model by their names, each a site of its own.
pub fn sites(model: &ModelDescription) -> Vec<Site> {
    let tensors = model.tensors.iter().enumerate();
    let linear = tensors.filter(|(_, tensor)| tensor.name.ends_with("_proj.weight"));
    let site = |(place, tensor): (usize, &TensorInfo)| Site {
        name: tensor.name.clone(),
        block: Some(0),
        layers: vec![place],
        fold: Fold::Nowhere,
    };
    linear.map(site).collect()
}

/// tokenizer.json with byte-level BPE.
pub fn bpe() -> Value {
    let added = |id: u64, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": true})
    };
    let level = |prefix: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(1, "<s>"), added(2, "</s>")], "normalizer": null,
        "pre_tokenizer": level(false), "post_processor": null, "decoder": level(true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "merges": ["a b", "Ġ ab"],
                  "vocab": {"!": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "Ġ": 5, "ab": 6, "Ġab": 7}},
    })
}

/// tokenizer_config.json.
pub fn tokenizer_config() -> Value {
    json!({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
           "add_bos_token": true, "chat_template": "{{ messages }}",
           "added_tokens_decoder": {"1": {"content": "<s>", "special": true},
                                    "2": {"content": "</s>", "special": true}}})
}

/// tokenizer.model: SentencePiece's protocol buffer, written by hand.
pub fn sentencepiece() -> Vec<u8> {
    const PIECES: [(&str, u8); 8] = [
        ("<unk>", 2),
        ("<s>", 3),
        ("</s>", 3),
        ("<0x41>", 6),
        ("▁", 1),
        ("a", 1),
        ("b", 1),
        ("▁a", 1),
    ];
    let mut out = Vec::new();
    for (id, (text, kind)) in PIECES.iter().enumerate() {
        let mut piece = vec![0x0A, text.len() as u8];
        piece.extend(text.bytes());
        piece.push(0x15);
        piece.extend((-(id as f32)).to_le_bytes());
        piece.extend([0x18, *kind]);
        out.extend([0x0A, piece.len() as u8]);
        out.extend(piece);
    }
    // The trainer's kind (BPE) and number of pieces; the normalizer adds a space in front.
    out.extend([0x12, 4, 0x18, 2, 0x20, 8]);
    out.extend([0x1A, 2, 0x18, 1]);
    out
}

/// A file of safetensors with bf16 tensors of growing numbers.
pub fn safetensors<'a>(tensors: impl IntoIterator<Item = &'a (String, Vec<u64>)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        data.extend(numbers(shape.iter().product()));
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let mut header = Value::from(header).to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.bytes());
    out.extend(data);
    out
}

/// Numbers from -1 to 1 as bf16.
fn numbers(count: u64) -> Vec<u8> {
    let number = |i: u64| ((i * 37 % 101) as f32 / 50.0 - 1.0).to_bits();
    (0..count)
        .flat_map(|i| ((number(i) >> 16) as u16).to_le_bytes())
        .collect()
}

/// The files of the model's folder, in one file of weights.
pub fn folder(width: u64) -> Vec<File> {
    let mut files = small_files(width);
    files.push(("model.safetensors".into(), safetensors(&tensors(width))));
    files
}

/// The same with an index and two files of weights.
pub fn sharded_folder(width: u64) -> Vec<File> {
    let tensors = tensors(width);
    let halves = tensors.split_at(tensors.len() / 2);
    let mut files = small_files(width);
    let mut map = serde_json::Map::new();
    for (number, half) in [(1, halves.0), (2, halves.1)] {
        let name = format!("model-{number:05}-of-00002.safetensors");
        map.extend(half.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
        files.push((name, safetensors(half)));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    files.push((
        "model.safetensors.index.json".into(),
        index.to_string().into_bytes(),
    ));
    files
}

/// The files beside the weights.
pub fn small_files(width: u64) -> Vec<File> {
    [
        ("config.json", config(width)),
        ("tokenizer.json", bpe()),
        ("tokenizer_config.json", tokenizer_config()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_string().into_bytes()))
    .into()
}

/// The folder in a seed of a plugin's fuzz crate, with a tokenizer.
pub fn seed(plugin: &str, name: &str) -> Vec<File> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins");
    let seed = std::fs::read(format!("{root}/{plugin}/fuzz/seeds/{plugin}/{name}"));
    let seed = seed.expect("a seed");
    let files = crate::bundle::split(&seed, "").into_iter();
    let mut files: Vec<File> = files.map(|(name, bytes)| (name, bytes.to_vec())).collect();
    let more = small_files(WIDTH).into_iter();
    files.extend(more.filter(|(name, _)| name.starts_with("tokenizer")));
    files
}
