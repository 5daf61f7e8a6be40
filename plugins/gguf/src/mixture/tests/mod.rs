//! The rules one by one; `golden` has whole models.

mod golden;

use super::*;
use crate::container::{Metadata, type_layout};

fn dense(layers: u32) -> ModelFacts {
    ModelFacts {
        architecture: "llama".to_owned(),
        layers,
        heads: 8,
        kv_heads: 8,
        experts: 0,
    }
}

/// Tensors of one name in every layer, then others, all of 512 columns in F32.
fn tensors(name: &str, layers: u32, others: &[&str]) -> Vec<String> {
    let layers = (0..layers).map(|layer| format!("blk.{layer}.{name}"));
    layers.chain(others.iter().map(|&n| n.to_owned())).collect()
}

fn choose(
    names: &[String],
    level: &str,
    facts: &ModelFacts,
    options: &MixtureOptions,
) -> Result<Vec<Choice>, MixtureError> {
    let sources: Vec<_> = names.iter().map(|name| source(name, &[512, 512])).collect();
    choose_types(&sources, Level::find(level).unwrap(), facts, options)
}

fn source<'a>(name: &'a str, dims: &'a [u64]) -> SourceTensor<'a> {
    let ty = type_layout(BlockType::F32);
    SourceTensor { name, dims, ty }
}

fn types(
    names: &[String],
    level: &str,
    facts: &ModelFacts,
    options: &MixtureOptions,
) -> Vec<&'static str> {
    let choices = choose(names, level, facts, options).unwrap();
    choices
        .iter()
        .map(|choice| type_name(choice.target))
        .collect()
}

fn type_name(target: Target) -> &'static str {
    match target {
        Target::Keep => "keep",
        Target::Encode(ty) => ty.name(),
    }
}

#[test]
fn an_imatrix_gives_the_first_ffn_down_of_the_old_types_offsets() {
    let names = tensors("ffn_down.weight", 16, &[]);
    let with = MixtureOptions {
        imatrix: true,
        ..MixtureOptions::default()
    };
    let without = MixtureOptions::default();
    for (level, offset) in [("Q4_0", "Q4_1"), ("Q5_0", "Q5_1")] {
        let chosen = types(&names, level, &dense(16), &with);
        assert_eq!(chosen[..2], [offset; 2]);
        assert_eq!(chosen[2..], [level; 14]);
        assert_eq!(types(&names, level, &dense(16), &without), [level; 16]);
    }
    let chosen = types(&names, "Q4_1", &dense(16), &with);
    assert_eq!(chosen, ["Q4_1"; 16]);
}

#[test]
fn an_imatrix_spares_the_uneven_types_their_larger_ffn_down() {
    let names = tensors("ffn_down.weight", 16, &[]);
    let with = MixtureOptions {
        imatrix: true,
        ..MixtureOptions::default()
    };
    for level in ["IQ4_NL", "IQ4_XS"] {
        let chosen = types(&names, level, &dense(16), &MixtureOptions::default());
        assert_eq!(chosen[..2], ["Q5_K"; 2]);
        assert_eq!(chosen[2..], [level; 14]);
        assert_eq!(types(&names, level, &dense(16), &with), [level; 16]);
    }
}

#[test]
fn only_experts_are_mxfp4() {
    let chosen = |architecture: &str, name: &str, dims: &[u64]| {
        let facts = ModelFacts {
            architecture: architecture.to_owned(),
            experts: 4,
            ..dense(1)
        };
        let level = Level::find("MXFP4_MOE").unwrap();
        let options = MixtureOptions::default();
        let choices = choose_types(&[source(name, dims)], level, &facts, &options).unwrap();
        type_name(choices[0].target)
    };
    let stack = [512, 512, 4];
    assert_eq!(chosen("llama", "blk.0.ffn_up_exps.weight", &stack), "MXFP4");
    assert_eq!(chosen("llama", "blk.0.ffn_up.weight", &stack[..2]), "Q8_0");
    assert_eq!(
        chosen("llama", "blk.0.ffn_up.weight", &[512, 512, 1]),
        "Q8_0"
    );
    assert_eq!(chosen("llama", "output.weight", &stack), "Q8_0");
    // No layer number is needed for it.
    assert_eq!(chosen("llama", "ffn_up_exps.weight", &stack), "MXFP4");
    // Latent attention's projections are stacks, too.
    for (architecture, expected) in [("deepseek2", "MXFP4"), ("bailingmoe3", "Q8_0")] {
        assert_eq!(
            chosen(architecture, "blk.0.attn_k_b.weight", &stack),
            expected
        );
        let down = "blk.0.ffn_down_exps.weight";
        assert_eq!(chosen(architecture, down, &stack), "MXFP4");
    }
}

#[test]
fn models_of_70b_lift_values_by_architecture_and_layers() {
    let lifted = |architecture: &str, layers: u32, heads, kv_heads, experts| {
        let facts = ModelFacts {
            architecture: architecture.to_owned(),
            layers,
            heads,
            kv_heads,
            experts,
        };
        let names = tensors("attn_v.weight", 9, &["output.weight"]);
        types(&names, "Q3_K_S", &facts, &MixtureOptions::default())[0]
    };
    assert_eq!(lifted("llama", 80, 64, 8, 0), "Q5_K");
    assert_eq!(lifted("llama-embed", 80, 64, 8, 0), "Q5_K");
    assert_eq!(lifted("llama", 80, 64, 64, 0), "Q3_K");
    assert_eq!(lifted("llama", 79, 64, 8, 0), "Q3_K");
    assert_eq!(lifted("llama", 80, 64, 8, 8), "Q8_0");
    assert_eq!(lifted("qwen2", 80, 64, 64, 0), "Q5_K");
    assert_eq!(lifted("deci", 80, 64, 8, 0), "Q5_K");
    assert_eq!(lifted("olmo", 80, 64, 64, 0), "Q5_K");
    assert_eq!(lifted("jais2", 68, 64, 64, 0), "Q5_K");
    assert_eq!(lifted("qwen3", 80, 64, 8, 0), "Q3_K");
}

#[test]
fn glm5_next_keeps_more_and_lifts_some() {
    let facts = ModelFacts {
        architecture: "glm5-next".to_owned(),
        ..dense(1)
    };
    let names = [
        "attn_k_b.weight",
        "attn_q_a.weight",
        "nextn.eh_proj.weight",
        "attn_q.weight",
    ]
    .map(|name| format!("blk.0.{name}"));
    let options = MixtureOptions::default();
    assert_eq!(
        types(&names, "Q4_K_M", &facts, &options),
        ["keep", "Q8_0", "Q8_0", "Q4_K"]
    );
    assert_eq!(
        types(&names, "F16", &facts, &options),
        ["keep", "F16", "F16", "F16"]
    );
    assert_eq!(types(&names, "Q4_K_M", &dense(1), &options), ["Q4_K"; 4]);
}

#[test]
fn choices_come_in_the_order_asked_for_but_positions_in_walking_order() {
    let mut names = tensors("attn_v.weight", 12, &["output.weight", "token_embd.weight"]);
    let forwards = types(&names, "Q4_K_S", &dense(12), &MixtureOptions::default());
    names.reverse();
    let mut backwards = types(&names, "Q4_K_S", &dense(12), &MixtureOptions::default());
    backwards.reverse();
    assert_eq!(forwards, backwards);
    assert_eq!(forwards[..5], ["Q5_K", "Q5_K", "Q5_K", "Q5_K", "Q4_K"]);
    assert_eq!(forwards[12..], ["Q6_K", "Q4_K"]);
}

#[test]
fn the_walk_goes_by_layer_number_then_name() {
    let mut names = [
        "blk.10.a",
        "token_embd",
        "blk.2.b",
        "blk.2.a",
        "output",
        "blk.x",
        "v.blk.0",
    ];
    names.sort_by(|a, b| walking_order(a, b));
    let expected = [
        "blk.x",
        "output",
        "token_embd",
        "v.blk.0",
        "blk.2.a",
        "blk.2.b",
        "blk.10.a",
    ];
    assert_eq!(names, expected);
    assert_eq!(layer_of("blk.12.ffn_up.weight"), Some(12));
    assert_eq!(layer_of("blk..ffn_up"), None);
    assert_eq!(layer_of("blk.99999999999.x"), None);
}

#[test]
fn tensors_that_have_the_type_already_are_kept() {
    let tensor = SourceTensor {
        ty: type_layout(BlockType::BF16),
        ..source("blk.0.attn_q.weight", &[512, 512])
    };
    let level = |name| Level::find(name).unwrap();
    let options = MixtureOptions::default();
    let target =
        |name| choose_types(&[tensor], level(name), &dense(1), &options).unwrap()[0].target;
    assert_eq!(target("BF16"), Target::Keep);
    assert_eq!(target("F16"), Target::Encode(BlockType::F16));
}

#[test]
fn odd_rows_come_with_a_note() {
    let tensor = source("blk.0.attn_q.weight", &[576, 576]);
    let level = Level::find("Q4_K_M").unwrap();
    let options = MixtureOptions::default();
    let choice = choose_types(&[tensor], level, &dense(1), &options).unwrap()[0];
    assert_eq!(choice.target, Target::Encode(BlockType::Q5_0));
    let note = choice.note.unwrap().to_string();
    assert_eq!(note, "576 is not a multiple of 256: Q4_K → Q5_0");
}

#[test]
fn a_wish_that_does_not_fit_is_an_error() {
    let embeddings = source("token_embd.weight", &[100, 512]);
    let output = source("output.weight", &[100, 512]);
    let level = Level::find("F16").unwrap();
    let wish = |output_type, token_embedding_type| {
        let options = MixtureOptions {
            output_type,
            token_embedding_type,
            ..MixtureOptions::default()
        };
        choose_types(&[embeddings, output], level, &dense(1), &options)
    };
    assert!(wish(None, Some(BlockType::BF16)).is_ok());
    let message = wish(None, Some(BlockType::Q8_0)).unwrap_err().to_string();
    assert!(
        message.starts_with("tensor \"token_embd.weight\" cannot be Q8_0"),
        "{message}"
    );
    let message = wish(Some(BlockType::Q6_K), None).unwrap_err().to_string();
    assert!(
        message.contains("output.weight") && message.contains("blocks of 256"),
        "{message}"
    );
}

#[test]
fn layers_of_models_with_experts_must_be_known() {
    let facts = ModelFacts {
        experts: 4,
        ..dense(2)
    };
    let options = MixtureOptions::default();
    for part in [
        "ffn_down_exps.weight",
        "ffn_up.weight",
        "ffn_gate_exps.weight",
    ] {
        let beyond = choose(&[format!("blk.2.{part}")], "Q4_K_M", &facts, &options);
        assert!(matches!(
            beyond,
            Err(MixtureError::BadLayer {
                layer: 2,
                layers: 2,
                ..
            })
        ));
        let nowhere = choose(&[part.to_owned()], "Q4_K_M", &facts, &options);
        assert!(matches!(nowhere, Err(MixtureError::NoLayer { .. })));
        // Without a mixture nobody asks.
        assert!(choose(&[part.to_owned()], "F16", &facts, &options).is_ok());
        assert!(choose(&[part.to_owned()], "Q4_K_M", &dense(2), &options).is_ok());
    }
}

#[test]
fn vectors_biases_and_exceptions_are_not_quantized() {
    let quantized = |name: &str, dims: &[u64]| is_quantized("llama", name, dims);
    assert!(quantized("blk.0.attn_q.weight", &[512, 2]));
    assert!(quantized("blk.0.ffn_up_exps.weight", &[512, 1, 2]));
    assert!(!quantized("blk.0.attn_q.weight", &[512]));
    assert!(!quantized("blk.0.attn_q.weight", &[512, 1, 1]));
    assert!(!quantized("blk.0.attn_q.bias", &[512, 2]));
    assert!(!quantized("blk.0.attn_norm.weight", &[512, 2]));
    assert!(!quantized("blk.0.ffn_gate_inp.weight", &[512, 8]));
    assert!(!quantized("position_embd.weight", &[512, 8]));
    assert!(!quantized("v.position_embd.weight", &[512, 8]));
}

#[test]
fn facts_are_read_from_metadata() {
    let mut m = Metadata::new();
    m.set("general.architecture", "qwen3");
    assert!(ModelFacts::from_metadata(&m).is_err());
    m.set("qwen3.block_count", 28u32);
    m.set("qwen3.attention.head_count", 16u32);
    let facts = ModelFacts::from_metadata(&m).unwrap();
    assert_eq!(
        (facts.layers, facts.heads, facts.kv_heads, facts.experts),
        (28, 16, 16, 0)
    );
    m.set("qwen3.attention.head_count", vec![12u32, 16]);
    m.set("qwen3.attention.head_count_kv", vec![3i32, 4]);
    m.set("qwen3.expert_count", 8u16);
    let facts = ModelFacts::from_metadata(&m).unwrap();
    assert_eq!((facts.heads, facts.kv_heads, facts.experts), (12, 3, 8));
    assert!(facts.grouped_query());
    m.set("qwen3.attention.head_count_kv", "four");
    let message = ModelFacts::from_metadata(&m).unwrap_err().to_string();
    assert!(
        message.contains("qwen3.attention.head_count_kv"),
        "{message}"
    );
}
