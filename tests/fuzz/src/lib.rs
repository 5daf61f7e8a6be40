//! One function for each reader of files that anyone may have written. A function hands the bytes
//! to the reader and uses what comes out as the program would; any bytes must lead to a result or
//! an error, never to a panic, an abort, an endless loop or an allocation that the bytes do not
//! justify.
//!
//! The fuzz targets call these functions, and so does `tests/tests/readers.rs` with the seeds and
//! mutations of them.

// What cannot be had here is a finding.
#![allow(clippy::expect_used)]

pub mod bundle;
mod inputs;
pub mod mutate;
pub mod seeds;
pub mod tiny;

use std::collections::BTreeMap;
use std::path::Path;

use inputs::{MemoryModel, plan};
use llm_quantize::{source, text};
use llm_quantize_gguf::imatrix::Imatrix;
use llm_quantize_gguf::read::GgufConverter;
use llm_quantize_gguf::tokenizer::{self, GgufTokenizer, ToHfOptions};
use llm_quantize_gptq::read::GptqConverter;
use llm_quantize_plugin_api::hf_folder::parse_header;
use llm_quantize_plugin_api::{Converter, FileView, Host, InlineHost, ModelView, Reader, metadata};

/// A reader's name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All readers. The names are those of the fuzz targets and of the folders of seeds.
pub const TARGETS: [Target; 9] = [
    ("safetensors", safetensors),
    ("index", index),
    ("gguf", gguf),
    ("gptq", gptq),
    ("imatrix", imatrix),
    ("tokenizer", tokenizer),
    ("config", config),
    ("plugin_metadata", plugin_metadata),
    ("corpus", corpus),
];

/// Tensors of a model that are looked at.
const LOOKED_AT: usize = 64;
/// Numbers that are decoded at once.
const MAX_NUMBERS: u64 = 1 << 16;

fn host() -> Host {
    Host::new(InlineHost)
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
    let views: Vec<FileView<'_>> = files
        .iter()
        .map(|(name, bytes)| FileView { name, bytes })
        .collect();
    let converter = GgufConverter::new(host());
    converter.detect(&views);
    for view in [ModelView::Native, ModelView::HuggingFace] {
        let Ok(reader) = converter.open(&views, view) else {
            continue;
        };
        look_at(&*reader, &views);
        if view == ModelView::Native {
            let files = files
                .iter()
                .map(|(name, bytes)| (name.clone(), bytes.to_vec()));
            plan(
                &MemoryModel::new(reader.model().clone(), files.collect()),
                "Q4_K_M",
            );
        }
    }
}

/// A GPTQ folder: both views, its files, some rows and their groups.
pub fn gptq(data: &[u8]) {
    let files = bundle::split(data, "model.safetensors");
    let views: Vec<FileView<'_>> = files
        .iter()
        .map(|(name, bytes)| FileView { name, bytes })
        .collect();
    let converter = GptqConverter::new(host());
    converter.detect(&views);
    for view in [ModelView::Native, ModelView::HuggingFace] {
        let Ok(reader) = converter.open(&views, view) else {
            continue;
        };
        look_at(&*reader, &views);
        for index in 0..reader.model().tensors.len().min(LOOKED_AT) {
            let Ok(Some(groups)) = reader.groups(&views, index, 0..1) else {
                continue;
            };
            assert_eq!(groups.scales.len(), groups.zeros.len());
            assert_eq!(
                groups.codes.len() as u64,
                reader.model().tensors[index].cols()
            );
        }
    }
}

fn look_at(reader: &dyn Reader, files: &[FileView<'_>]) {
    let model = reader.model();
    for name in model
        .files
        .iter()
        .map(String::as_str)
        .chain(["config.json"])
    {
        let _ = reader.file(files, name);
    }
    for (index, tensor) in model.tensors.iter().enumerate().take(LOOKED_AT) {
        if let Some((file, range)) = reader.stored(index) {
            let file = files.get(file).expect("a file that was given");
            assert!(range.start <= range.end && range.end <= file.bytes.len() as u64);
        }
        let Some(count) = tensor.rows() else { continue };
        let ends = [0..count.min(1), count.saturating_sub(1)..count];
        for rows in ends.into_iter().filter(|_| tensor.cols() <= MAX_NUMBERS) {
            let len = (rows.end - rows.start) * tensor.cols();
            let mut out = vec![0.0; len as usize];
            let _ = reader.decode(files, index, rows, &mut out);
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
    if let Some(tensors) = file("tensors.json").and_then(inputs::tensors) {
        model.set_tensors(tensors);
    }
    for (name, bytes) in &files {
        if name != "config.json" {
            model.add_file(name, bytes);
        }
    }
    model.set_config(config);
    plan(&model, "Q4_K_M");
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
