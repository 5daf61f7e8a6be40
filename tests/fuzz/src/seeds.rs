//! The seeds: small valid inputs of every reader, and bad ones that take the program far.

use llm_quantize_fuzz_kit::{Seed, bundle};
use llm_quantize_gguf::blocks::BlockType;
use llm_quantize_gguf::container::{self, Metadata, TensorSpec};
use serde_json::{Value, json};

use crate::tiny;
use crate::tiny::{NARROW, WIDTH};

/// All seeds that are generated. Those that a fuzzer found lie beside them.
pub fn all() -> Vec<Seed> {
    [
        safetensors(),
        index(),
        gguf(),
        imatrix(),
        tokenizer(),
        config(),
        plugins(),
        corpora(),
    ]
    .concat()
}

fn safetensors() -> Vec<Seed> {
    let header = |text: &str, data: usize| {
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.bytes());
        out.resize(out.len() + data, 0);
        out
    };
    let two = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"I64","shape":[1,0],"data_offsets":[8,8]}}"#;
    vec![
        (
            "safetensors",
            "model",
            tiny::safetensors(&tiny::tensors(NARROW)),
        ),
        ("safetensors", "two", header(two, 8)),
        (
            "safetensors",
            "doubled",
            header(&two.replacen("\"b\"", "\"a\"", 1), 8),
        ),
        (
            "safetensors",
            "huge",
            header(&two.replacen("[2]", "[4294967296,4294967296,2]", 1), 8),
        ),
        ("safetensors", "empty", header("{}", 0)),
    ]
}

fn index() -> Vec<Seed> {
    let files = tiny::sharded_folder(NARROW);
    let index = files
        .into_iter()
        .find(|(name, _)| name.ends_with("index.json"));
    vec![
        (
            "index",
            "model",
            index.map(|(_, bytes)| bytes).unwrap_or_default(),
        ),
        (
            "index",
            "outside",
            br#"{"weight_map":{"a":"../x.safetensors"}}"#.to_vec(),
        ),
        (
            "index",
            "mark",
            b"\xef\xbb\xbf{\"weight_map\":{\"a\":\"x.safetensors\"}}".to_vec(),
        ),
    ]
}

fn gguf() -> Vec<Seed> {
    let one = |width, level, spm| tiny::gguf(width, level, None, spm).remove(0).bytes;
    let shards = tiny::gguf(NARROW, "F16", Some("600"), false);
    let shards = bundle::join(shards.iter().map(|file| (&*file.name, &*file.bytes)));
    vec![
        ("gguf", "f16", one(NARROW, "F16", false)),
        ("gguf", "sentencepiece", one(NARROW, "BF16", true)),
        ("gguf", "q8_0", one(WIDTH, "Q8_0", false)),
        ("gguf", "shards", shards),
        ("gguf", "types", every_type()),
        ("gguf", "values", every_value()),
    ]
}

/// A tensor of every type, with one block of zeros.
fn every_type() -> Vec<u8> {
    let types: Vec<BlockType> = BlockType::all().collect();
    let dims: Vec<[u64; 1]> = types.iter().map(|ty| [ty.block_weights() as u64]).collect();
    let specs: Vec<TensorSpec<'_>> = types
        .iter()
        .zip(&dims)
        .map(|(ty, dims)| TensorSpec::new(ty.name(), dims, *ty))
        .collect();
    file(&Metadata::new(), &specs)
}

/// A key of every type.
fn every_value() -> Vec<u8> {
    let mut metadata = Metadata::new();
    metadata.set("general.alignment", 64u32);
    metadata.set("general.architecture", "llama");
    metadata.set("u8", 1u8);
    metadata.set("i8", -1i8);
    metadata.set("u16", 1u16);
    metadata.set("i16", -1i16);
    metadata.set("i32", -1i32);
    metadata.set("f32", f32::NAN);
    metadata.set("bool", true);
    metadata.set("u64", u64::MAX);
    metadata.set("i64", i64::MIN);
    metadata.set("f64", f64::INFINITY);
    metadata.set("numbers", vec![1u16, 2]);
    metadata.set("flags", vec![true, false]);
    let texts: container::StringArray = ["a", ""].into_iter().collect();
    metadata.set("texts", texts);
    file(&metadata, &[TensorSpec::new("t", &[3, 2], BlockType::F16)])
}

fn file(metadata: &Metadata, tensors: &[TensorSpec<'_>]) -> Vec<u8> {
    let layout = container::layout(metadata, tensors).expect("a file that can be written");
    let mut out = layout.header;
    out.resize(layout.file_size as usize, 0);
    out
}

fn imatrix() -> Vec<Seed> {
    vec![
        ("imatrix", "gguf", tiny::imatrix(NARROW)),
        ("imatrix", "legacy", tiny::legacy_imatrix(NARROW)),
    ]
}

fn tokenizer() -> Vec<Seed> {
    let config = tiny::config(NARROW).to_string();
    let bpe = tiny::bpe().to_string();
    let settings = tiny::tokenizer_config().to_string();
    let model = tiny::sentencepiece();
    let with = |more: &[(&str, &[u8])]| {
        let common: [(&str, &[u8]); 2] = [
            ("config.json", config.as_bytes()),
            ("tokenizer_config.json", settings.as_bytes()),
        ];
        bundle::join(common.into_iter().chain(more.iter().copied()))
    };
    let vocab = tiny::bpe()["model"]["vocab"].to_string();
    let slow = [
        ("vocab.json", vocab.as_bytes()),
        ("merges.txt", &b"#version: 0.2\na b\n\xc4\xa0 ab\n"[..]),
        ("special_tokens_map.json", br#"{"unk_token":"!"}"#),
        ("added_tokens.json", br#"{"<pad>":8}"#),
    ];
    let gpt2 = br#"{"tokenizer_class":"GPT2Tokenizer"}"#;
    let slow = bundle::join(
        [("tokenizer_config.json", &gpt2[..])]
            .into_iter()
            .chain(slow),
    );
    vec![
        (
            "tokenizer",
            "bpe",
            with(&[("tokenizer.json", bpe.as_bytes())]),
        ),
        (
            "tokenizer",
            "sentencepiece",
            with(&[("tokenizer.model", &model)]),
        ),
        (
            "tokenizer",
            "llama-bpe",
            with(&[("tokenizer.json", llama_bpe().to_string().as_bytes())]),
        ),
        ("tokenizer", "slow", slow),
        (
            "tokenizer",
            "huge-id",
            with(&[(
                "tokenizer.json",
                bpe.replacen("\"ab\":6", "\"ab\":4294967295", 1).as_bytes(),
            )]),
        ),
    ]
}

/// SentencePiece in the clothes of BPE.
fn llama_bpe() -> Value {
    let mut json = tiny::bpe();
    json["model"]["byte_fallback"] = json!(true);
    json["model"]["unk_token"] = json!("!");
    json["model"]["vocab"] =
        json!({"!": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "▁": 5, "ab": 6, "<0x41>": 7});
    json["model"]["merges"] = json!([["a", "b"]]);
    json["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    json["pre_tokenizer"] = json!(null);
    json["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}]});
    json["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
    json
}

fn config() -> Vec<Seed> {
    let config = tiny::config(NARROW);
    let tensors: Vec<_> = tiny::tensors(NARROW);
    let table: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| json!([name, "BF16", shape]))
        .collect();
    let table = json!(table).to_string();
    let with = |config: &Value| {
        let config = config.to_string();
        bundle::join([
            ("config.json", config.as_bytes()),
            ("tensors.json", table.as_bytes()),
        ])
    };
    let mut scaled = config.clone();
    scaled["rope_scaling"] = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8});
    let mut nested = json!({"text_config": config});
    nested["architectures"] = json!(["Qwen3ForCausalLM"]);
    let mut smollm3 = config.clone();
    smollm3["architectures"] = json!(["SmolLM3ForCausalLM"]);
    smollm3["no_rope_layers"] = json!([1]);
    let mut quantized = config.clone();
    quantized["quantization_config"] = json!({"quant_method": "awq", "bits": 4});
    let card =
        b"---\nlicense: mit\nlanguage: [en, de]\nbase_model:\n- a/b\ndatasets: c\n---\n# x\n";
    let generation = br#"{"temperature": 0.6, "top_k": 20, "eos_token_id": [2, 1]}"#;
    let text = config.to_string();
    let card = bundle::join([
        ("config.json", text.as_bytes()),
        ("README.md", &card[..]),
        ("generation_config.json", &generation[..]),
    ]);
    let configs = [
        ("llama", config),
        ("llama3-scaling", scaled),
        ("nested", nested),
        ("smollm3", smollm3),
        ("quantized", quantized),
    ]
    .map(|(name, config)| ("config", name, with(&config)));
    configs
        .into_iter()
        .chain([("config", "card", card)])
        .collect()
}

fn corpora() -> Vec<Seed> {
    let lines = "\u{feff}{\"text\": \"one\", \"id\": [1, {}]}\r\n\n\"t\\u0077o \u{1F600}\"\n";
    [
        ("list", r#"["one", {"id": 1, "text": "two\n"}, ""]"#),
        (
            "object",
            r#"{"source": null, "text": ["one", "\ud83d\ude00"]}"#,
        ),
        ("lines", lines),
    ]
    .map(|(name, text)| ("corpus", name, text.as_bytes().to_vec()))
    .to_vec()
}

fn plugins() -> Vec<Seed> {
    let text = "id=demo\nversion=1.2.3\ninterface=1.0\nformats=demo\nlicence=MIT\n";
    let mut block = b"LLMQ-PLUGIN-META".to_vec();
    block.extend((text.len() as u32).to_le_bytes());
    block.extend(text.bytes());
    vec![("plugin_metadata", "library", library(&block))]
}

/// A shared library for this machine with the section of a plugin's identity and nothing else.
fn library(section: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const NAMES: &[u8] = b"\0.llmqplg\0.shstrtab\0";
    let machine: u16 = if cfg!(target_arch = "aarch64") {
        183
    } else {
        62
    };
    let names_at = HEADER + section.len() as u64;
    let table_at = (names_at + NAMES.len() as u64).next_multiple_of(8);
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(16, 0);
    out.extend(3u16.to_le_bytes()); // a shared library
    out.extend(machine.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend([0; 16]); // neither entry nor program headers
    out.extend(table_at.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 0, 64, 3, 2] {
        out.extend(half.to_le_bytes());
    }
    out.extend(section);
    out.extend(NAMES);
    out.resize(table_at as usize, 0);
    out.extend([0; 64]);
    let mut entry = |name: u32, kind: u32, at: u64, len: u64| {
        out.extend(name.to_le_bytes());
        out.extend(kind.to_le_bytes());
        // Flags, address, place, length, link and info in one, alignment, entry size.
        for word in [0, 0, at, len, 0, 1, 0] {
            out.extend(u64::to_le_bytes(word));
        }
    };
    entry(1, 1, HEADER, section.len() as u64);
    entry(11, 3, names_at, NAMES.len() as u64);
    out
}
