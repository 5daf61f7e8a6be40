//! Small models for the unit tests.

use std::path::Path;

/// A tensor to write.
#[derive(Debug, Clone)]
pub struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Tensor {
    /// Single-precision numbers.
    pub fn f32(name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Self::raw(name, "F32", shape, bytes)
    }

    /// bfloat16 zeros.
    pub fn bf16_zeros(name: &str, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        Self::raw(name, "BF16", shape, vec![0; 2 * count])
    }

    /// Any bytes.
    pub fn raw(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        }
    }
}

/// Writes a safetensors file with the tensors in this order.
pub fn write_safetensors(path: &Path, tensors: &[Tensor]) {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let entry = serde_json::json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
        });
        header.insert(tensor.name.clone(), entry);
    }
    let header = serde_json::Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(path, bytes).unwrap();
}

/// Writes a folder with two layers of a Llama that is 4 wide.
pub fn write_llama(folder: &Path) {
    let mut tensors = vec![Tensor::bf16_zeros("model.embed_tokens.weight", &[8, 4])];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        tensors.push(Tensor::bf16_zeros(&name("self_attn.q_proj"), &[4, 4]));
        tensors.push(Tensor::f32(&name("input_layernorm"), &[4], &[1.0; 4]));
    }
    write_safetensors(&folder.join("model.safetensors"), &tensors);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 8, "max_position_embeddings": 16,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let tokenizer = r#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    std::fs::write(folder.join("tokenizer.json"), tokenizer).unwrap();
}
