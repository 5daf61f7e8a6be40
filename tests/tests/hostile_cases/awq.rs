//! AWQ folders: what they say about themselves, and layers whose parts do not fit.

use std::fs;
use std::path::Path;

use llm_quantize_fuzz::tiny;
use llm_quantize_tests::edit_json;
use llm_quantize_tests::safetensors::Tensor;
use serde_json::{Value, json};

use super::layered::{self, CONFIG, LAYER, SECTION, edit_part, edit_tensors, remove_part, say};
use super::{CORRUPT, Case, UNSUPPORTED};

fn check_folders(cases: &[Case]) {
    layered::check_folders(|| tiny::seed("awq", "4bit"), cases);
}

/// Says it in another file, and nothing in the configuration.
fn say_elsewhere(folder: &Path, name: &str, section: &Value) {
    edit_json(&folder.join(CONFIG), |config| config[SECTION] = json!(null));
    fs::write(folder.join(name), section.to_string()).unwrap();
}

#[test]
fn what_a_folder_says_about_itself() {
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "8 bits",
            |folder| say(folder, "bits", json!(8)),
            UNSUPPORTED,
            "8 bits; only 4 bits",
        ),
        (
            "bits that are no number",
            |folder| say(folder, "bits", json!([4])),
            CORRUPT,
            "\\\"bits\\\"",
        ),
        (
            "no bits",
            |folder| {
                edit_json(&folder.join(CONFIG), |config| {
                    config[SECTION].as_object_mut().unwrap().remove("bits");
                });
            },
            CORRUPT,
            "has no \\\"bits\\\"",
        ),
        (
            "groups of 0",
            |folder| say(folder, "group_size", json!(0)),
            CORRUPT,
            "\\\"group_size\\\" is 0",
        ),
        (
            "groups of 2^40",
            |folder| say(folder, "group_size", json!(1u64 << 40)),
            CORRUPT,
            "\\\"group_size\\\" is 1099511627776",
        ),
        // The tensors' shapes count.
        (
            "larger groups than the layers",
            |folder| say(folder, "group_size", json!(0x7FFF_FFFF)),
            0,
            "success",
        ),
        (
            "an arrangement that nobody has",
            |folder| say(folder, "version", json!("marlin")),
            UNSUPPORTED,
            "\\\"marlin\\\"; only gemm, gemv, gemv_fast",
        ),
        (
            "an arrangement that is no word",
            |folder| say(folder, "version", json!(["gemm"])),
            CORRUPT,
            "\\\"version\\\"",
        ),
        (
            "another arrangement than the tensors",
            |folder| say(folder, "version", json!("gemv")),
            CORRUPT,
            "do not fit each other as gemv",
        ),
        (
            "another program's arrangement",
            |folder| say(folder, "backend", json!("llm-awq")),
            UNSUPPORTED,
            "llm-awq",
        ),
        (
            "words of another size",
            |folder| say(folder, "pack_dtype", json!("int8")),
            UNSUPPORTED,
            "int8",
        ),
        (
            "only another file",
            |folder| {
                let section = json!({"w_bit": 4, "q_group_size": 32, "version": "GEMM"});
                say_elsewhere(folder, "quant_config.json", &section);
            },
            0,
            "success",
        ),
        (
            "only another file, with nonsense",
            |folder| {
                let section = json!({"w_bit": -1, "q_group_size": 32});
                say_elsewhere(folder, "quant_config.json", &section);
            },
            CORRUPT,
            "\\\"w_bit\\\"",
        ),
        (
            "no word about it",
            |folder| edit_json(&folder.join(CONFIG), |config| config[SECTION] = json!(null)),
            UNSUPPORTED,
            "qweight",
        ),
        (
            "a section that is a list",
            |folder| edit_json(&folder.join(CONFIG), |config| config[SECTION] = json!([1])),
            UNSUPPORTED,
            "qweight",
        ),
    ];
    check_folders(cases);
}

#[test]
fn layers_whose_parts_do_not_fit() {
    let cases: &[Case] = &[
        (
            "no codes",
            |folder| remove_part(folder, "qweight"),
            CORRUPT,
            "q_proj\\\" has no tensor",
        ),
        (
            "no zeros",
            |folder| remove_part(folder, "qzeros"),
            CORRUPT,
            "q_proj.qzeros",
        ),
        (
            "no scales",
            |folder| remove_part(folder, "scales"),
            CORRUPT,
            "q_proj.scales",
        ),
        (
            "no part at all",
            |folder| {
                for part in ["qweight", "qzeros", "scales"] {
                    remove_part(folder, part);
                }
            },
            CORRUPT,
            "lacks 1 of its tensors",
        ),
        // A layer of 31 inputs, which would be one.
        (
            "a row of codes less",
            |folder| edit_part(folder, "qweight", |codes| codes.reshape("I32", &[31, 4])),
            CORRUPT,
            "has the shape [32, 31]",
        ),
        (
            "codes in one dimension",
            |folder| edit_part(folder, "qweight", |codes| codes.reshape("I32", &[128])),
            CORRUPT,
            "expected a matrix",
        ),
        (
            "no outputs",
            |folder| {
                edit_part(folder, "qweight", |codes| codes.reshape("I32", &[32, 0]));
                edit_part(folder, "qzeros", |zeros| zeros.reshape("I32", &[1, 0]));
                edit_part(folder, "scales", |scales| scales.reshape("F16", &[1, 0]));
            },
            CORRUPT,
            "do not fit each other",
        ),
        (
            "2^19 inputs without outputs",
            |folder| {
                edit_part(folder, "qweight", |codes| {
                    codes.reshape("I32", &[1 << 19, 0])
                });
            },
            CORRUPT,
            "do not fit each other",
        ),
        (
            "a row of zeros less",
            |folder| edit_part(folder, "qzeros", |zeros| zeros.reshape("I32", &[0, 4])),
            CORRUPT,
            "do not fit each other",
        ),
        (
            "three groups of 32 inputs",
            |folder| {
                edit_part(folder, "scales", |scales| scales.reshape("F16", &[3, 32]));
                edit_part(folder, "qzeros", |zeros| zeros.reshape("I32", &[3, 4]));
            },
            CORRUPT,
            "do not fit each other",
        ),
        (
            "scales that are integers",
            |folder| edit_part(folder, "scales", |scales| scales.reshape("I32", &[1, 32])),
            UNSUPPORTED,
            "is of type I32, expected F16, BF16 or F32",
        ),
        (
            "codes in half precision",
            |folder| edit_part(folder, "qweight", |codes| codes.reshape("F16", &[32, 4])),
            UNSUPPORTED,
            "is of type F16, expected I32",
        ),
        (
            "a scale that is no number",
            |folder| {
                edit_part(folder, "scales", |scales| scales.start_with(&[0x00, 0x7E]));
            },
            CORRUPT,
            "attn_q",
        ),
        (
            "a weight beside its codes",
            |folder| {
                edit_tensors(folder, |tensors| {
                    let mut weight = tensors[0].clone();
                    weight.name = format!("{LAYER}.weight");
                    tensors.push(weight);
                });
            },
            CORRUPT,
            "has both",
        ),
        (
            "an activation with scales",
            |folder| {
                edit_tensors(folder, |tensors| {
                    let norm = tensors.iter().find(|t| t.name == "model.norm.weight");
                    let mut scales = norm.unwrap().clone();
                    scales.name = "model.layers.0.mlp.act_fn.scales".into();
                    tensors.push(scales);
                });
            },
            UNSUPPORTED,
            "act_fn.scales\\\" scales an activation",
        ),
        (
            "a layer that the model has not",
            |folder| {
                edit_tensors(folder, |tensors| {
                    let parts = tensors.iter().filter(|t| t.name.starts_with(LAYER));
                    let more: Vec<Tensor> = parts.cloned().collect();
                    tensors.extend(more.into_iter().map(|mut tensor| {
                        tensor.name = tensor.name.replace("layers.0", "layers.7");
                        tensor
                    }));
                });
            },
            CORRUPT,
            "layers.7",
        ),
    ];
    check_folders(cases);
}
