//! The seeds: small folders of this program, and some as AutoAWQ's versions write them.

use llm_quantize_awq::quantize::AwqQuantizer;
use llm_quantize_fuzz_kit::{Seed, bundle, host, tiny};
use llm_quantize_plugin_api::hf_folder::{SINGLE, write_header};
use llm_quantize_plugin_api::testing::build;
use llm_quantize_plugin_api::{CalibrationText, PlanRequest, TensorInfo};
use serde_json::{Value, json};

/// The name of the first seed: groups of 32, rounded to the nearest.
pub const FIRST: &str = "4bit";

/// All seeds that are generated. Those that a fuzzer found lie beside them.
pub fn all() -> Vec<Seed> {
    [
        (FIRST, written(&rounding(32))),
        ("rows", written(&searching(-1))),
        ("autoawq", autoawq()),
        ("gemv", other_version("gemv")),
        ("gemv_fast", other_version("gemv_fast")),
    ]
    .map(|(name, data)| ("awq", name, data))
    .to_vec()
}

/// A request that needs no calibration.
pub fn rounding(group_size: i64) -> PlanRequest {
    PlanRequest {
        calibration: None,
        options: options(&[("method", "rtn"), ("unfit", "keep")]),
        ..searching(group_size)
    }
}

/// A request for a search.
pub fn searching(group_size: i64) -> PlanRequest {
    PlanRequest {
        format: "awq".into(),
        level: "4bit".into(),
        group_size: Some(group_size),
        output_name: Some("model".into()),
        options: options(&[("grid", "2")]),
        calibration: Some(CalibrationText {
            samples: 1,
            length: 8,
            ..CalibrationText::default()
        }),
        ..PlanRequest::default()
    }
}

fn options(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let fixed = [("allow-requantize", "true")];
    let all = fixed.iter().chain(more);
    all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn written(request: &PlanRequest) -> Vec<u8> {
    let quantizer = AwqQuantizer::new(host());
    let built = build(&quantizer, &tiny::model(tiny::WIDTH), request, 9, 0);
    let (_, files) = built.expect("the model can be quantized");
    bundle::join(files.iter().map(|file| (&*file.name, &*file.bytes)))
}

/// A tensor's ending, type, shape and bytes.
type Part<'a> = (&'a str, &'a str, &'a [u64], u64);

/// One layer `fc` of 8 outputs.
fn layer(parts: &[Part<'_>], config: &Value, more: &[(&str, &Value)]) -> Vec<u8> {
    let tensors = parts
        .iter()
        .map(|(ending, dtype, shape, bytes)| TensorInfo {
            name: format!("fc.{ending}"),
            dtype: (*dtype).into(),
            shape: shape.to_vec(),
            bytes: *bytes,
        });
    let tensors: Vec<TensorInfo> = tensors.collect();
    let mut weights = write_header(&tensors).expect("a header");
    for (ending, _, _, bytes) in parts {
        match *ending {
            // Half precision: one.
            "scales" | "bias" => weights.extend([0, 0x3C].repeat(*bytes as usize / 2)),
            _ => weights.extend((0..*bytes).map(|byte| (byte as u8).wrapping_mul(37) & 0x3F)),
        }
    }
    let config = config.to_string();
    let more: Vec<(&str, String)> = more.iter().map(|(n, v)| (*n, v.to_string())).collect();
    let more = more.iter().map(|(name, text)| (*name, text.as_bytes()));
    let files = [("config.json", config.as_bytes()), (SINGLE, &*weights)];
    bundle::join(more.chain(files))
}

/// Of 16 inputs, with a configuration of its own, as its first versions wrote.
fn autoawq() -> Vec<u8> {
    let parts: [Part<'_>; 4] = [
        ("qweight", "I32", &[16, 1], 64),
        ("qzeros", "I32", &[2, 1], 8),
        ("scales", "F16", &[2, 8], 32),
        ("bias", "F16", &[8], 16),
    ];
    let alone = json!({"zero_point": true, "q_group_size": 8, "w_bit": 4, "version": "GEMM"});
    let config = json!({"model_type": "llama"});
    layer(&parts, &config, &[("quant_config.json", &alone)])
}

/// Of 64 inputs in one group, in another arrangement.
fn other_version(version: &str) -> Vec<u8> {
    let parts: [Part<'_>; 3] = match version {
        "gemv" => [
            ("qweight", "I32", &[8, 8], 256),
            ("qzeros", "I32", &[8, 2], 64),
            ("scales", "F16", &[8, 16], 256),
        ],
        _ => [
            ("qweight", "I16", &[2, 64], 256),
            ("qzeros", "F16", &[16, 8], 256),
            ("scales", "F16", &[16, 8], 256),
        ],
    };
    let config = json!({"model_type": "llama", "quantization_config": {"bits": 4, "group_size": 64,
        "quant_method": "awq", "version": version, "zero_point": true}});
    layer(&parts, &config, &[])
}
