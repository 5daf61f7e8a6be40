//! Models of a few kilobytes in the formats that are fuzzed here.

use llm_quantize_fuzz_kit::host;
pub use llm_quantize_fuzz_kit::tiny::*;
use llm_quantize_gguf::imatrix::{Collected, write};
use llm_quantize_gguf::quantize::GgufQuantizer;
use llm_quantize_plugin_api::PlanRequest;
use llm_quantize_plugin_api::testing::{BuiltFile, build};

/// The model as GGUF, in one file or, with `split`, in several.
pub fn gguf(width: u64, level: &str, split: Option<&str>, spm: bool) -> Vec<BuiltFile> {
    let mut model = model(width);
    match spm {
        true => model.add_file("tokenizer.model", sentencepiece()),
        false => model.add_file("tokenizer.json", bpe().to_string().into_bytes()),
    }
    let config = tokenizer_config().to_string();
    model.add_file("tokenizer_config.json", config.into_bytes());
    let options = split.map(|size| ("split-max-size".to_owned(), size.to_owned()));
    let request = PlanRequest {
        format: "gguf".into(),
        level: level.into(),
        output_name: Some("model".into()),
        options: options.into_iter().collect(),
        ..PlanRequest::default()
    };
    let quantizer = GgufQuantizer::new(host());
    let (_, files) = build(&quantizer, &model, &request, 9, 0).expect("the model can be written");
    files
}

/// An importance matrix of the model in llama.cpp's GGUF layout.
pub fn imatrix(width: u64) -> Vec<u8> {
    let sums: Vec<f32> = (1..=width).map(|column| column as f32).collect();
    let entries = ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"].map(|name| Collected {
        name,
        sums: &sums,
        counts: &[7],
    });
    write(&entries, &["text.txt"], 3, 512).expect("the matrix can be written")
}

/// The same in the older layout.
pub fn legacy_imatrix(width: u64) -> Vec<u8> {
    let mut out = 2i32.to_le_bytes().to_vec();
    for name in ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"] {
        out.extend((name.len() as i32).to_le_bytes());
        out.extend(name.bytes());
        out.extend(7i32.to_le_bytes());
        out.extend((width as i32).to_le_bytes());
        out.extend((1..=width).flat_map(|column| (column as f32).to_le_bytes()));
    }
    out.extend(3i32.to_le_bytes());
    out.extend(8i32.to_le_bytes());
    out.extend(b"text.txt");
    out
}
