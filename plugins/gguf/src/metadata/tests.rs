use super::*;
use crate::container::{Array, Value};
use crate::families::map_model;
use crate::families::testdata::{cases, description};
use llm_quantize_plugin_api::TensorInfo;
use serde_json::{Value as Json, json};

/// A key as the converter's dump has it: name, type, value.
fn expected(entry: &Json) -> (String, Value) {
    let value = &entry[2];
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let read = match entry[1].as_str().unwrap() {
        "STRING" => text(value).into(),
        "UINT32" => u32::try_from(value.as_u64().unwrap()).unwrap().into(),
        "INT32" => i32::try_from(value.as_i64().unwrap()).unwrap().into(),
        "FLOAT32" => (value.as_f64().unwrap() as f32).into(),
        "BOOL" => value.as_bool().unwrap().into(),
        "ARRAY:STRING" => {
            let items = value.as_array().unwrap().iter();
            Value::Array(Array::String(items.map(text).collect()))
        }
        other => panic!("unexpected type {other}"),
    };
    (entry[0].as_str().unwrap().to_owned(), read)
}

fn assert_keys(found: &Metadata, expected_keys: &Json, what: &str) {
    let found: Vec<_> = found
        .iter()
        .map(|(k, v)| (k.to_owned(), v.clone()))
        .collect();
    let keys = expected_keys.as_array().unwrap();
    let expected: Vec<_> = keys.iter().map(expected).collect();
    assert_eq!(found, expected, "{what}");
}

#[test]
fn keys_types_values_and_order_are_the_converters() {
    for case in cases() {
        let model = description(case);
        let mapped = map_model(&model).unwrap();
        let generation = &case["generation_config"];
        let generation = (!generation.is_null()).then(|| generation.to_string());
        let built = build(&Sources {
            model: &model,
            mapped: &mapped,
            generation_config: generation.as_ref().map(|text| text.as_bytes()),
            model_card: case["model_card"].as_str(),
            file_type: u32::try_from(case["file_type"].as_u64().unwrap()).unwrap(),
        });
        assert_keys(
            &built.metadata,
            &case["kv"],
            case["folder"].as_str().unwrap(),
        );
        assert_eq!(built.warnings, Vec::<String>::new());
    }
}

/// SmolLM2-135M-Instruct as a Hugging Face folder has it.
fn smollm2() -> ModelDescription {
    let config = json!({"architectures": ["LlamaForCausalLM"], "hidden_size": 576,
        "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 100_000, "tie_word_embeddings": true});
    let family = crate::families::Family::for_architecture(&config).unwrap();
    let numbers = crate::families::Hyperparameters::from_config(family, &config).unwrap();
    let mut tensors = Vec::new();
    for group in family.tensors {
        if group.presence != crate::families::rules::Presence::Required {
            continue;
        }
        for rule in group.rules {
            let layers = if rule.per_layer() { 30 } else { 1 };
            tensors.extend((0..layers).map(|layer| TensorInfo {
                name: rule.hf_name(layer, 0),
                dtype: "BF16".into(),
                shape: rule.shape(&numbers),
                bytes: 0,
            }));
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    ModelDescription {
        name: "smollm2-135m".into(),
        format: "hf".into(),
        config,
        tensors,
        ..ModelDescription::default()
    }
}

#[test]
fn smollm2_is_as_the_converter_writes_it() {
    let expected: Json = serde_json::from_str(include_str!("testdata/smollm2.json")).unwrap();
    let model = smollm2();
    let mapped = map_model(&model).unwrap();
    let tensors: Vec<_> = mapped
        .tensors
        .iter()
        .map(|t| json!([t.name, t.dims]))
        .collect();
    assert_eq!(json!(tensors), expected["tensors"]);
    let built = build(&Sources {
        model: &model,
        mapped: &mapped,
        generation_config: None,
        model_card: None,
        file_type: 32,
    });
    assert_keys(&built.metadata, &expected["kv"], "SmolLM2");
}

#[test]
fn a_card_that_cannot_be_read_is_a_warning() {
    let model = smollm2();
    let mapped = map_model(&model).unwrap();
    let mut sources = Sources {
        model: &model,
        mapped: &mapped,
        generation_config: Some(b"no JSON"),
        model_card: Some("---\na: [b\n---\n"),
        file_type: 2,
    };
    let built = build(&sources);
    assert_eq!(built.warnings.len(), 1);
    assert!(built.warnings[0].contains("README.md"));
    sources.model_card = None;
    assert_eq!(build(&sources).metadata, built.metadata);
}

#[test]
fn the_shortest_double_reads_like_the_single() {
    assert_eq!(shortest(1e-5), Some(1e-5));
    assert_eq!(shortest(0.9), Some(0.9));
    assert_eq!(shortest(5e5), Some(500_000.0));
    assert_eq!(shortest(f32::NAN), None);
    assert_eq!(shortest(f32::INFINITY), None);
}
