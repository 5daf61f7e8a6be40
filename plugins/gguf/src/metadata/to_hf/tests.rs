use super::*;
use crate::container::Value as Stored;
use crate::families::testdata::{case, cases, description};
use crate::families::{MappedModel, map_model};
use crate::metadata::{Sources, build};

/// What the converter's GGUF file of a model holds, without the tokenizer.
struct File {
    metadata: Metadata,
    mapped: MappedModel,
}

impl File {
    fn of(case: &Value) -> Self {
        let model = description(case);
        let mapped = map_model(&model).unwrap();
        let mut metadata = build(&Sources {
            model: &model,
            mapped: &mapped,
            generation_config: None,
            model_card: None,
            file_type: 1,
        })
        .metadata;
        let count = usize::try_from(mapped.hyperparameters.vocabulary).unwrap();
        let tokens: crate::container::StringArray = vec!["x"; count].into_iter().collect();
        metadata.set("tokenizer.ggml.tokens", tokens);
        Self { metadata, mapped }
    }

    fn describe(&self) -> Result<HfModel> {
        let generated = self.mapped.generated.iter().map(|t| (&t.name, &t.dims));
        let tensors = self.mapped.tensors.iter().map(|t| (&t.name, &t.dims));
        let named: Vec<NamedTensor<'_>> = generated
            .chain(tensors)
            .map(|(name, dims)| NamedTensor { name, dims })
            .collect();
        describe(&GgufModel {
            metadata: &self.metadata,
            tensors: &named,
            rope_freqs: self.mapped.generated.first().map(|t| t.values.as_slice()),
            dtype: "bfloat16",
        })
    }
}

#[test]
fn a_configuration_survives_gguf() {
    for case in cases() {
        let file = File::of(case);
        let hf = file.describe().unwrap();
        let again = Hyperparameters::from_config(hf.family, &hf.config).unwrap();
        let mut original = file.mapped.hyperparameters.clone();
        // GGUF keeps neither of these.
        original.sliding_window = None;
        if original.rope.scaling == RopeScaling::Dynamic {
            original.rope.scaling = RopeScaling::None;
        }
        assert_eq!(again, original, "{}", case["folder"]);
        assert_eq!(hf.tied, file.mapped.tied);
        assert_eq!(hf.config["tie_word_embeddings"], json!(file.mapped.tied));
        // The class is found again, but for Mistral, which becomes a Llama.
        let class = &case["config"]["architectures"][0];
        if class != "MistralForCausalLM" {
            assert_eq!(&hf.config["architectures"][0], class);
        }
    }
}

#[test]
fn the_tiny_model_comes_back_as_it_was() {
    let hf = File::of(case("Llama-3.2-1B-Instruct")).describe().unwrap();
    let expected = json!({
        "architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": null, "eos_token_id": null, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 96,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "pad_token_id": null, "rms_norm_eps": 1e-5,
        "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        "rope_theta": 500_000.0, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
        "use_cache": true, "vocab_size": 128,
    });
    assert_eq!(hf.config, expected);
    let sorted: Vec<&String> = hf.config.as_object().unwrap().keys().collect();
    assert!(sorted.is_sorted());
}

#[test]
fn token_ids_and_sampling_are_kept() {
    let mut file = File::of(case("qwen-yarn"));
    for (key, id) in [
        ("bos", 1u32),
        ("eos", 2),
        ("padding", 3),
        ("eot", 4),
        ("eom", 2),
    ] {
        file.metadata
            .set(&format!("tokenizer.ggml.{key}_token_id"), id);
    }
    file.metadata.set("general.sampling.temp", 0.7f32);
    let hf = file.describe().unwrap();
    let ids = ["bos_token_id", "eos_token_id", "pad_token_id"].map(|key| hf.config[key].as_u64());
    assert_eq!(ids, [Some(1), Some(2), Some(3)]);
    let expected = json!({"_from_model_config": true, "bos_token_id": 1, "do_sample": true,
        "eos_token_id": [2, 4], "pad_token_id": 3, "temperature": 0.7});
    assert_eq!(hf.generation_config, expected);
}

#[test]
fn a_window_makes_a_mistral() {
    let mut file = File::of(case("Mistral-7B-Instruct-v0.3"));
    assert_eq!(file.describe().unwrap().family.name, "Llama");
    file.metadata.set("llama.attention.sliding_window", 4096u32);
    let hf = file.describe().unwrap();
    assert_eq!(hf.config["architectures"], json!(["MistralForCausalLM"]));
    assert_eq!(hf.config["sliding_window"], json!(4096));
    assert_eq!(hf.config.get("mlp_bias"), None);
}

#[test]
fn files_of_other_writers_are_understood() {
    let mut file = File::of(case("all-defaults"));
    // One count for each layer, another width, no vocabulary size, an old scaling key.
    file.metadata
        .set("llama.attention.head_count", vec![4i32; 2]);
    file.metadata
        .set("llama.feed_forward_length", vec![96u32; 2]);
    file.metadata.set("llama.block_count", 2u64);
    file.metadata.set("llama.rope.freq_base", 10_000.0f64);
    file.metadata.set("llama.rope.scale_linear", 4.0f32);
    file.metadata.remove("llama.vocab_size");
    file.metadata.remove("llama.attention.head_count_kv");
    let hf = file.describe().unwrap();
    assert_eq!(hf.config["num_key_value_heads"], json!(4));
    assert_eq!(hf.config["vocab_size"], json!(128));
    assert_eq!(hf.config["rope_scaling"]["factor"], json!(4.0));
}

/// The message for a file with a key changed, or removed.
fn refused(key: &str, value: Option<Stored>) -> String {
    let mut file = File::of(case("all-defaults"));
    match value {
        Some(value) => file.metadata.set(key, value),
        None => {
            file.metadata.remove(key);
        }
    }
    file.describe().unwrap_err().message
}

#[test]
fn impossible_files_are_refused_with_the_key() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let message = refused(key, None);
        assert!(message.contains(key), "{key}: {message}");
    }
    let cases: [(&str, Stored, &str); 16] = [
        ("general.architecture", 7u32.into(), "has type u32"),
        ("general.architecture", "gemma3".into(), "\"gemma3\""),
        ("llama.block_count", 0u32.into(), "zero"),
        (
            "llama.block_count",
            1_000_000_000_000u64.into(),
            "impossibly large",
        ),
        (
            "llama.block_count",
            1_000_000u32.into(),
            "more than llama.cpp loads",
        ),
        ("llama.block_count", "2".into(), "has type string"),
        ("llama.attention.head_count", (-1i32).into(), "negative"),
        ("llama.attention.head_count", 0u32.into(), "zero"),
        (
            "llama.attention.head_count",
            vec![4u32, 2].into(),
            "differs between layers",
        ),
        ("llama.attention.head_count_kv", 3u32.into(), "cannot share"),
        (
            "llama.attention.value_length",
            8u32.into(),
            "size of a head",
        ),
        ("llama.rope.dimension_count", 8u32.into(), "size of a head"),
        (
            "llama.rope.freq_base",
            f32::NAN.into(),
            "no possible number",
        ),
        (
            "llama.rope.freq_base",
            (-1.0f32).into(),
            "no possible number",
        ),
        ("llama.rope.scaling.type", "longrope".into(), "\"longrope\""),
        ("llama.expert_count", 8u32.into(), "expert_used_count"),
    ];
    for (key, value, part) in cases {
        let message = refused(key, Some(value));
        assert!(message.contains(part), "{key}: {message}");
    }
}

#[test]
fn tensors_must_fit_the_keys() {
    let message = refused("llama.embedding_length", Some(128u32.into()));
    assert!(message.contains("has the dimensions"), "{message}");
    let message = refused("llama.vocab_size", Some(127u32.into()));
    assert!(message.contains("token_embd.weight") || message.contains("output.weight"));
}

#[test]
fn factors_and_keys_of_scaling_exclude_each_other() {
    let mut file = File::of(case("Llama-3.2-1B-Instruct"));
    file.metadata.set("llama.rope.scaling.type", "linear");
    file.metadata.set("llama.rope.scaling.factor", 2.0f32);
    assert!(file.describe().unwrap_err().message.contains("only one"));
}
