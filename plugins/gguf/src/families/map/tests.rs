use super::*;
use crate::families::FAMILIES;
use crate::families::testdata::{case, cases, description, golden};
use llm_quantize_plugin_api::hf_config::Llama3Scaling;
use serde_json::json;

fn names_and_dims(mapped: &MappedModel) -> Vec<(String, Vec<u64>)> {
    let generated = mapped
        .generated
        .iter()
        .map(|t| (t.name.clone(), t.dims.clone()));
    let tensors = mapped
        .tensors
        .iter()
        .map(|t| (t.name.clone(), t.dims.clone()));
    generated.chain(tensors).collect()
}

#[test]
fn names_dimensions_and_order_are_the_converters() {
    for case in cases() {
        let mapped = map_model(&description(case)).unwrap();
        let expected: Vec<(String, Vec<u64>)> =
            serde_json::from_value(case["tensors"].clone()).unwrap();
        assert_eq!(names_and_dims(&mapped), expected, "{}", case["folder"]);
    }
}

#[test]
fn rope_factors_have_the_converters_bits() {
    for entry in golden()["rope"].as_array().unwrap() {
        let number = |at: usize| entry[0][at].as_f64().unwrap();
        let scaling = Llama3Scaling {
            factor: number(2),
            low_freq_factor: number(3),
            high_freq_factor: number(4),
            original_context: number(5),
        };
        let factors = rope_factors(&scaling, number(0), number(1) as u64);
        let bits: Vec<u32> = factors.iter().map(|factor| factor.to_bits()).collect();
        let expected: Vec<u32> = serde_json::from_value(entry[1].clone()).unwrap();
        assert_eq!(bits, expected, "{}", entry[0]);
    }
}

#[test]
fn only_interleaved_families_permute_queries_and_keys() {
    let transforms = |folder: &str, part: &str| {
        let mapped = map_model(&description(case(folder))).unwrap();
        let wanted = mapped.tensors.iter().filter(|t| t.name.contains(part));
        wanted.map(|t| t.transform).collect::<Vec<_>>()
    };
    let query = Transform::PermuteRows {
        heads: 4,
        head_rows: 64,
    };
    let key = Transform::PermuteRows {
        heads: 2,
        head_rows: 64,
    };
    assert_eq!(transforms("Llama-3.2-1B-Instruct", "attn_q."), [query; 2]);
    assert_eq!(transforms("Llama-3.2-1B-Instruct", "attn_k."), [key; 2]);
    assert_eq!(
        transforms("Llama-3.2-1B-Instruct", "attn_v."),
        [Transform::None; 2]
    );
    // Weights and biases of two layers.
    let permuted = transforms("My_Model-v1.5-7b1-chat", "attn_k.");
    assert_eq!(permuted.len(), 4);
    assert!(
        permuted
            .iter()
            .all(|transform| *transform != Transform::None)
    );
    for folder in ["Qwen2.5-0.5B-Instruct", "Qwen3-0.6B"] {
        assert!(
            transforms(folder, "attn_")
                .iter()
                .all(|t| *t == Transform::None)
        );
    }
}

#[test]
fn sources_and_layers_are_those_of_the_tensors() {
    let model = description(case("My_Model-v1.5-7b1-chat"));
    let mapped = map_model(&model).unwrap();
    assert!(
        mapped.tensors.len() < model.tensors.len(),
        "inv_freq is skipped"
    );
    for tensor in &mapped.tensors {
        let source = &model.tensors[tensor.sources[0]].name;
        match tensor.layer {
            Some(layer) => {
                assert!(source.contains(&format!("layers.{layer}.")), "{source}");
                assert!(tensor.name.starts_with(&format!("blk.{layer}.")));
            }
            None => assert!(!source.contains("layers.")),
        }
    }
}

#[test]
fn parameters_count_the_generated_ones() {
    let mapped = map_model(&description(case("Llama-3.2-1B-Instruct"))).unwrap();
    let sum: u64 = mapped
        .tensors
        .iter()
        .map(|t| t.dims.iter().product::<u64>())
        .sum();
    assert_eq!(mapped.parameters(), sum + 32);
    assert!(mapped.tied);
}

#[test]
fn names_map_one_to_one() {
    for family in FAMILIES {
        for side in [
            |r: &crate::families::rules::TensorRule| r.hf,
            |r: &crate::families::rules::TensorRule| r.gguf,
        ] {
            let mut names: Vec<&str> = family.rules().map(|(_, rule)| side(rule)).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", family.name);
        }
        for (_, rule) in family.rules() {
            assert_eq!(rule.hf.contains("{layer}"), rule.gguf.contains("{layer}"));
        }
    }
}

/// The first Qwen2 model, changed.
fn broken(change: impl FnOnce(&mut ModelDescription)) -> Error {
    let mut model = description(case("qwen-yarn"));
    change(&mut model);
    map_model(&model).unwrap_err()
}

fn tensor<'a>(model: &'a mut ModelDescription, name: &str) -> &'a mut TensorInfo {
    let index = model.tensor_index(name).unwrap();
    &mut model.tensors[index]
}

#[test]
fn broken_models_are_refused_with_names() {
    let bias = "model.layers.1.self_attn.q_proj.bias";
    let missing = broken(|model| model.tensors.retain(|tensor| tensor.name != bias));
    assert!(missing.message.contains(bias), "{missing}");
    let head = broken(|model| {
        model
            .tensors
            .retain(|tensor| tensor.name != "lm_head.weight")
    });
    assert!(head.message.contains("lm_head.weight"), "{head}");
    let shape = broken(|model| tensor(model, bias).shape = vec![63]);
    assert!(shape.message.contains(bias), "{shape}");
    assert!(
        shape.message.contains("[63]") && shape.message.contains("[64]"),
        "{shape}"
    );
    let vocabulary = broken(|model| model.config["vocab_size"] = json!(127));
    assert!(vocabulary.message.contains("[127, 64]"), "{vocabulary}");
    let dtype = broken(|model| tensor(model, bias).dtype = "F8_E4M3".into());
    assert!(dtype.message.contains("F8_E4M3"), "{dtype}");
    let unknown = broken(|model| tensor(model, bias).name = "model.layers.1.adapter".into());
    assert!(
        unknown.message.contains("\"model.layers.1.adapter\""),
        "{unknown}"
    );
    let beyond = broken(|model| model.config["num_hidden_layers"] = json!(1));
    assert!(
        beyond.message.contains("layers.1.") && beyond.message.contains("beyond"),
        "{beyond}"
    );
    let twice = broken(|model| model.tensors.push(model.tensors[0].clone()));
    assert!(twice.message.contains("twice"), "{twice}");
}

#[test]
fn many_missing_tensors_are_counted() {
    let error = broken(|model| model.tensors.clear());
    assert!(error.message.contains("27 of its tensors"), "{error}");
    assert!(error.message.contains("and 22 more"), "{error}");
}

#[test]
fn biases_need_not_be_announced_but_complete() {
    let mut model = description(case("My_Model-v1.5-7b1-chat"));
    model.config["mlp_bias"] = json!(false);
    let mapped = map_model(&model).unwrap();
    assert_eq!(mapped.warnings.len(), 1);
    let gone = "model.layers.1.mlp.up_proj.bias";
    model.tensors.retain(|tensor| tensor.name != gone);
    assert!(map_model(&model).unwrap_err().message.contains(gone));
    model
        .tensors
        .retain(|tensor| !tensor.name.ends_with(".bias"));
    let announced = map_model(&model).unwrap_err();
    assert!(
        announced.message.contains("8 of its tensors"),
        "{announced}"
    );
}

#[test]
fn other_formats_may_have_types_of_their_own() {
    let mut model = description(case("qwen-yarn"));
    model.format = "gptq".into();
    model
        .tensors
        .iter_mut()
        .for_each(|tensor| tensor.dtype = "I32".into());
    assert!(map_model(&model).is_ok());
}

#[test]
fn a_head_beside_tied_embeddings_is_kept() {
    let mut model = description(case("qwen-yarn"));
    model.config["tie_word_embeddings"] = json!(true);
    let mapped = map_model(&model).unwrap();
    assert!(!mapped.tied);
}
