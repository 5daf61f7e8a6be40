//! Comparison with llama.cpp's own vocabulary files and converter output.
//!
//! The files are too large for the repository. `LLAMA_CPP_MODELS` names llama.cpp's `models`
//! folder, `SMOLLM2_HF` a Hugging Face folder of SmolLM2-135M-Instruct and `SMOLLM2_GGUF` what
//! `convert_hf_to_gguf.py` makes of it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::testing::{Gguf, PAGE, encode, fixture, read_folder, tokenizer, written};
use super::*;

fn from_env(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("set {name}")))
}

/// Texts of an `.inp` file.
fn inputs(text: &str) -> Vec<&str> {
    text.split("\n__ggml_vocab_test__\n").collect()
}

#[test]
#[ignore = "needs llama.cpp's models folder in LLAMA_CPP_MODELS"]
fn written_tokenizers_encode_as_the_original_models_do() {
    let models = from_env("LLAMA_CPP_MODELS");
    let names = [
        "command-r",
        "deepseek-coder",
        "deepseek-llm",
        "falcon",
        "gpt-2",
        "llama-bpe",
        "mpt",
        "qwen2",
        "qwen35",
        "refact",
        "starcoder",
        "llama-spm",
        "phi-3",
        "gemma-4",
    ];
    let mut failures = Vec::new();
    for name in names {
        let path = models.join(format!("ggml-vocab-{name}.gguf"));
        let gguf = Gguf::read(&path);
        let architecture = gguf.string("general.architecture").map(str::to_owned);
        let options = ToHfOptions {
            architecture: architecture.as_deref(),
            context_length: Some(4096),
        };
        let original = gguf.tokenizer().unwrap();
        let out = to_hf(&original, options).unwrap();
        let files = written(&out, &json!({}), original.tokens.len());
        let tokenizer = tokenizer(&files);
        let expected = std::fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let texts = std::fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        for (text, line) in inputs(&texts).into_iter().zip(expected.lines()) {
            let ids: Vec<u32> = line
                .split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect();
            let ours = encode(&tokenizer, text);
            if ours != ids {
                failures.push(format!("{name}: {text:?}\n  ours {ours:?}\n  hf   {ids:?}"));
            }
        }
        eprintln!("{name}: {:?}", out.warnings);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
#[ignore = "needs llama.cpp's models folder in LLAMA_CPP_MODELS"]
fn metadata_survives_the_way_there_and_back() {
    let models = from_env("LLAMA_CPP_MODELS");
    let names = [
        ("command-r", "CohereForCausalLM"),
        ("deepseek-coder", "LlamaForCausalLM"),
        ("deepseek-llm", "LlamaForCausalLM"),
        ("falcon", "FalconForCausalLM"),
        ("gpt-2", "GPT2LMHeadModel"),
        ("llama-bpe", "LlamaForCausalLM"),
        ("mpt", "MPTForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("refact", "GPTRefactForCausalLM"),
        ("starcoder", "Starcoder2ForCausalLM"),
        ("llama-spm", "LlamaForCausalLM"),
        ("phi-3", "Phi3ForCausalLM"),
        ("gemma-4", "Gemma4ForCausalLM"),
    ];
    for (name, class) in names {
        let gguf = Gguf::read(&models.join(format!("ggml-vocab-{name}.gguf")));
        let options = ToHfOptions {
            architecture: gguf.string("general.architecture"),
            context_length: None,
        };
        let first = gguf.tokenizer().unwrap();
        let config = json!({"architectures": [class]});
        let hf = written(
            &to_hf(&first, options).unwrap(),
            &config,
            first.tokens.len(),
        );
        let second = from_hf(&hf).unwrap();
        let hf = to_hf(&second.tokenizer, options).unwrap();
        let hf = written(&hf, &config, first.tokens.len());
        let third = from_hf(&hf).unwrap();
        compare(name, &first, &second.tokenizer);
        assert_eq!(second.tokenizer, third.tokenizer, "{name}");
        eprintln!("{name}: {:?}", second.warnings);
    }
}

/// Reports what the first way changed: the files were written by converters of all ages.
fn compare(name: &str, a: &GgufTokenizer, b: &GgufTokenizer) {
    assert_eq!((a.kind, a.tokens.len()), (b.kind, b.tokens.len()), "{name}");
    assert!(a.merges == b.merges, "{name}: merges");
    let ids = 0..a.tokens.len();
    let texts: Vec<_> = ids
        .clone()
        .filter(|id| a.tokens[*id] != b.tokens[*id])
        .collect();
    let types: Vec<_> = ids
        .filter(|id| a.token_types[*id] != b.token_types[*id])
        .collect();
    if let (Some(x), Some(y)) = (&a.scores, &b.scores) {
        let scores = x.iter().zip(y).filter(|(x, y)| x != y).count();
        eprintln!("{name}: {scores} scores differ");
    }
    eprintln!(
        "{name}: {} texts differ, {} types, pre {:?} {:?}",
        texts.len(),
        types.len(),
        a.pre,
        b.pre
    );
    for id in texts.iter().chain(&types).take(5) {
        eprintln!(
            "  {id} {:?} {:?}",
            (&a.tokens[*id], a.token_types[*id]),
            (&b.tokens[*id], b.token_types[*id])
        );
    }
    let (x, y): (Vec<_>, Vec<_>) = (a.all_settings().collect(), b.all_settings().collect());
    if x != y {
        let short = |list: &[&Setting]| -> Vec<String> {
            list.iter()
                .map(|s| format!("{s:?}").chars().take(45).collect())
                .collect()
        };
        eprintln!("  settings\n  {:?}\n  {:?}", short(&x), short(&y));
    }
}

#[test]
#[ignore = "needs SmolLM2 in SMOLLM2_HF and its reference conversion in SMOLLM2_GGUF"]
fn smollm2_is_converted_as_the_reference_does() {
    let files = read_folder(&from_env("SMOLLM2_HF"));
    let converted = from_hf(&files).unwrap();
    assert_eq!(converted.warnings, Vec::<String>::new());
    let entries = converted.tokenizer.entries();
    let reference = Gguf::read(&from_env("SMOLLM2_GGUF"));
    let keys: Vec<&String> = reference
        .0
        .keys()
        .filter(|key| key.starts_with("tokenizer."))
        .collect();
    assert_eq!(entries.len(), keys.len());
    for (key, value) in &entries {
        assert!(reference.0[key] == *value, "{key} differs");
    }
    expected_file(&entries);
    round_trip(&files, &converted.tokenizer);
}

/// Compares order, types and (abridged) values with the fixture.
fn expected_file(entries: &[(String, TokenizerValue)]) {
    let expected = std::fs::read(fixture("smollm2-gguf-expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let kv = expected["kv"].as_object().unwrap();
    let keys: Vec<&str> = kv
        .keys()
        .map(String::as_str)
        .filter(|key| key.starts_with("tokenizer."))
        .collect();
    let ours: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(ours, keys);
    for (key, value) in entries {
        let (types, json) = match value {
            TokenizerValue::U32(v) => (json!(["UINT32"]), json!(v)),
            TokenizerValue::Bool(v) => (json!(["BOOL"]), json!(v)),
            TokenizerValue::String(v) => (json!(["STRING"]), json!(v)),
            TokenizerValue::Strings(v) => (json!(["ARRAY", "STRING"]), abridged(v)),
            TokenizerValue::F32s(v) => (json!(["ARRAY", "FLOAT32"]), abridged(v)),
            TokenizerValue::I32s(v) => (json!(["ARRAY", "INT32"]), abridged(v)),
        };
        assert_eq!(kv[key]["type"], types, "{key}");
        assert_eq!(kv[key]["value"], json, "{key}");
    }
}

fn abridged<T: serde::Serialize>(list: &[T]) -> Value {
    json!({"length": list.len(), "first": &list[..20], "last": &list[list.len() - 20..]})
}

fn round_trip(files: &testing::Files, converted: &GgufTokenizer) {
    let config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    let options = ToHfOptions {
        architecture: Some("llama"),
        context_length: Some(8192),
    };
    let again = written(
        &to_hf(converted, options).unwrap(),
        &config,
        converted.tokens.len(),
    );
    assert_eq!(from_hf(&again).unwrap().tokenizer, *converted);
    assert_eq!(
        encode(&tokenizer(&again), PAGE),
        encode(&tokenizer(files), PAGE)
    );
}
