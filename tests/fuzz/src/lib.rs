//! One function for each reader of files that anyone may have written. A function hands the bytes
//! to the reader and uses what comes out as the program would; any bytes must lead to a result or
//! an error, never to a panic, an abort, an endless loop or an allocation that the bytes do not
//! justify.
//!
//! The fuzz targets call these functions, and so does `tests/readers.rs` with the seeds and
//! mutations of them. The reader of a format whose plugin cannot be linked beside the one for GGUF,
//! as a program has one plugin's root module only, is fuzzed in a folder of that plugin.

// What cannot be had here is a finding.
#![allow(clippy::expect_used)]

pub mod seeds;
pub mod tiny;

use std::collections::BTreeMap;
use std::path::Path;

use llm_quantize::{source, text};
use llm_quantize_fuzz_kit::{MemoryModel, Target, bundle, host, look_at, tensors};
use llm_quantize_gguf::imatrix::Imatrix;
use llm_quantize_gguf::quantize::GgufQuantizer;
use llm_quantize_gguf::read::GgufConverter;
use llm_quantize_gguf::tokenizer::{self, GgufTokenizer, ToHfOptions};
use llm_quantize_plugin_api::hf_folder::parse_header;
use llm_quantize_plugin_api::{Converter, ModelView, PlanRequest, metadata};

/// All readers. The names are those of the fuzz targets and of the folders of seeds.
pub const TARGETS: [Target; 8] = [
    ("safetensors", safetensors),
    ("index", index),
    ("gguf", gguf),
    ("imatrix", imatrix),
    ("tokenizer", tokenizer),
    ("config", config),
    ("plugin_metadata", plugin_metadata),
    ("corpus", corpus),
];

/// Plans as a user would for llama.cpp.
fn plan(model: &MemoryModel) {
    let request = PlanRequest {
        format: "gguf".into(),
        level: "Q4_K_M".into(),
        ..PlanRequest::default()
    };
    llm_quantize_fuzz_kit::plan(&GgufQuantizer::new(host()), model, request);
}

/// The header of a safetensors file: the tensors must lie one after the other in the file.
pub fn safetensors(data: &[u8]) {
    let Ok(tensors) = parse_header(data) else {
        return;
    };
    let mut end = tensors.first().map_or(0, |(_, range)| range.start);
    for (info, range) in &tensors {
        assert_eq!(range.start, end, "{}", info.name);
        assert_eq!(range.end - range.start, info.bytes, "{}", info.name);
        end = range.end;
    }
    assert!(tensors.is_empty() || end == data.len() as u64);
}

/// The index of a model in shards: no shard may lie outside the folder.
pub fn index(data: &[u8]) {
    let Ok(shards) = source::parse_index(data) else {
        return;
    };
    for shard in shards.values() {
        assert!(
            !shard.contains(['/', '\\', '\0']) && !shard.starts_with('.'),
            "{shard:?}"
        );
    }
}

/// GGUF, one file or shards: both views, rebuilt files, some rows, and a plan to quantize it.
pub fn gguf(data: &[u8]) {
    let files = bundle::split(data, "model.gguf");
    let views = bundle::views(&files);
    let converter = GgufConverter::new(host());
    converter.detect(&views);
    for view in [ModelView::Native, ModelView::HuggingFace] {
        let Ok(reader) = converter.open(&views, view) else {
            continue;
        };
        look_at(&*reader, &views);
        if view == ModelView::Native {
            let files = files.iter();
            let files = files.map(|(name, bytes)| (name.clone(), bytes.to_vec()));
            plan(&MemoryModel::new(reader.model().clone(), files.collect()));
        }
    }
}

/// An importance matrix in either layout.
pub fn imatrix(data: &[u8]) {
    let Ok(matrix) = Imatrix::parse(data) else {
        return;
    };
    for (name, entry) in matrix.iter() {
        assert!(
            entry.weights.iter().all(|weight| weight.is_finite()),
            "{name}"
        );
        let columns = entry.weights.len() as u64;
        assert!(matrix.weights_for(name, &[columns]).is_ok());
        let _ = matrix.weights_for(name, &[columns / 2, 1, 2]);
        let _ = matrix.weights_for(name, &[u64::MAX, 1, u64::MAX]);
    }
    let mut metadata = llm_quantize_gguf::container::Metadata::new();
    matrix.record(&mut metadata, "file");
}

/// A Hugging Face tokenizer, to GGUF and back.
pub fn tokenizer(data: &[u8]) {
    let files: BTreeMap<String, &[u8]> =
        bundle::split(data, "tokenizer.json").into_iter().collect();
    let Ok(found) = tokenizer::from_hf(&files) else {
        return;
    };
    let entries: BTreeMap<_, _> = found.tokenizer.entries().into_iter().collect();
    let Ok(back) = GgufTokenizer::from_metadata(&|key| entries.get(key).cloned()) else {
        return;
    };
    let _ = tokenizer::to_hf(&back, ToHfOptions::default());
}

/// A config.json up to a plan, with the tensors of a small Llama or those that the input lists as
/// `[[name, dtype, shape], …]`, and with other files of the input, such as a model card.
pub fn config(data: &[u8]) {
    let files = bundle::split(data, "config.json");
    let file = |name| {
        files
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, bytes)| *bytes)
    };
    let Some(Ok(config)) = file("config.json").map(llm_quantize_plugin_api::json::from_slice)
    else {
        return;
    };
    use_config(&config);
    let mut model = MemoryModel::tiny_llama();
    if let Some(tensors) = file("tensors.json").and_then(tensors) {
        model.set_tensors(tensors);
    }
    for (name, bytes) in &files {
        if name != "config.json" {
            model.add_file(name, bytes);
        }
    }
    model.set_config(config);
    plan(&model);
}

fn use_config(config: &serde_json::Value) {
    use source::config as host;
    for read in [
        host::hidden_size,
        host::num_layers,
        host::num_heads,
        host::num_kv_heads,
        host::vocab_size,
        host::context_length,
    ] {
        let _ = read(config);
    }
    let _ = (
        host::architecture(config),
        host::dtype(config),
        host::quantization_method(config),
    );
}

/// The identity inside a plugin's library.
pub fn plugin_metadata(data: &[u8]) {
    if let Ok(found) = metadata::read(data) {
        for name in found.formats.iter().chain([&found.id]) {
            assert!(!name.contains(['/', '\\', '\0']), "{name:?}");
        }
    }
}

/// Text of the user's, in every form: whatever is found has something to read in it.
pub fn corpus(data: &[u8]) {
    for name in ["a.txt", "a.json", "a.jsonl"] {
        let name = Path::new(name);
        let kind = text::Kind::of(name).expect("a known extension");
        if let Ok(found) = text::documents(kind, data.to_vec(), name) {
            assert!(!found.is_empty());
            assert!(found.iter().all(|document| !document.trim().is_empty()));
        }
    }
}
