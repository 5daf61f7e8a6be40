//! The seeds: small folders of this program, and one as older programs write them.

use llm_quantize_fuzz_kit::{Seed, bundle, host, tiny};
use llm_quantize_gptq::quantize::GptqQuantizer;
use llm_quantize_plugin_api::hf_folder::{SINGLE, write_header};
use llm_quantize_plugin_api::testing::build;
use llm_quantize_plugin_api::{PlanRequest, TensorInfo};
use serde_json::json;

/// The name of the first seed: 4 bits, symmetric.
pub const FIRST: &str = "4bit";

/// All seeds that are generated. Those that a fuzzer found lie beside them.
pub fn all() -> Vec<Seed> {
    let asymmetric = [("sym", "false"), ("format", "gptq_v2")];
    [
        (FIRST, written(FIRST, 32, &[])),
        ("asymmetric", written("2bit", -1, &asymmetric)),
        // Two layers are too narrow, and stay as they are.
        ("3bit", written("3bit", 32, &[("unfit", "keep")])),
        ("8bit", written("8bit", 32, &[])),
        ("autogptq", autogptq()),
    ]
    .map(|(name, data)| ("gptq", name, data))
    .to_vec()
}

/// A request that needs no calibration.
pub fn request(level: &str, group_size: i64, options: &[(&str, &str)]) -> PlanRequest {
    let fixed = [("method", "rtn"), ("allow-requantize", "true")];
    let options = fixed.iter().chain(options);
    PlanRequest {
        format: "gptq".into(),
        level: level.into(),
        group_size: Some(group_size),
        output_name: Some("model".into()),
        options: options
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..PlanRequest::default()
    }
}

fn written(level: &str, group_size: i64, options: &[(&str, &str)]) -> Vec<u8> {
    let quantizer = GptqQuantizer::new(host());
    let request = request(level, group_size, options);
    let built = build(&quantizer, &tiny::model(tiny::WIDTH), &request, 9, 0);
    let (_, files) = built.expect("the model can be quantized");
    bundle::join(files.iter().map(|file| (&*file.name, &*file.bytes)))
}

/// One layer of 16 inputs and 8 outputs, with groups in the order of activations, and a
/// configuration of its own.
fn autogptq() -> Vec<u8> {
    let quantization = json!({"bits": 4, "group_size": 8, "damp_percent": 0.01, "desc_act": true,
        "static_groups": false, "sym": false, "true_sequential": true});
    let tensors: [(&str, &str, &[u64], u64); 5] = [
        ("fc.g_idx", "I32", &[16], 64),
        ("fc.qweight", "I32", &[2, 8], 64),
        ("fc.qzeros", "I32", &[2, 1], 8),
        ("fc.scales", "F16", &[2, 8], 32),
        ("fc.bias", "F16", &[8], 16),
    ];
    let tensors = tensors.map(|(name, dtype, shape, bytes)| TensorInfo {
        name: name.into(),
        dtype: dtype.into(),
        shape: shape.to_vec(),
        bytes,
    });
    let mut weights = write_header(&tensors).expect("a header");
    weights.extend((0..16u32).flat_map(|input| (input % 2).to_le_bytes()));
    weights.extend((0..72).map(|byte: u8| byte.wrapping_mul(37)));
    weights.extend([0, 0x3C].repeat(24));
    bundle::join([
        ("config.json", &b"{\"model_type\": \"llama\"}"[..]),
        ("quantize_config.json", quantization.to_string().as_bytes()),
        (SINGLE, &weights),
    ])
}
