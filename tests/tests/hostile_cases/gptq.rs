//! GPTQ folders: what they say about themselves, and layers whose parts do not fit.

use std::fs;

use llm_quantize_fuzz::tiny;
use llm_quantize_tests::edit_json;
use llm_quantize_tests::safetensors::Tensor;
use serde_json::json;

use super::layered::{self, CONFIG, LAYER, SECTION, edit_part, edit_tensors, remove_part, say};
use super::{CORRUPT, Case, UNSUPPORTED};

const ALONE: &str = "quantize_config.json";

fn check_folders(cases: &[Case]) {
    layered::check_folders(|| tiny::seed("gptq", "4bit"), cases);
}

#[test]
fn what_a_folder_says_about_itself() {
    let cases: &[Case] = &[
        ("unchanged", |_| {}, 0, "success"),
        (
            "5 bits",
            |folder| say(folder, "bits", json!(5)),
            UNSUPPORTED,
            "5 bits; only 2, 3, 4 and 8 bits",
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
            "groups of -5",
            |folder| say(folder, "group_size", json!(-5)),
            CORRUPT,
            "\\\"group_size\\\" is -5",
        ),
        (
            "groups of 2^40",
            |folder| say(folder, "group_size", json!(1u64 << 40)),
            CORRUPT,
            "\\\"group_size\\\" is 1099511627776",
        ),
        (
            "another layout",
            |folder| say(folder, "checkpoint_format", json!("bitblas")),
            UNSUPPORTED,
            "\\\"bitblas\\\"; only gptq and gptq_v2",
        ),
        (
            "an order that is no flag",
            |folder| say(folder, "desc_act", json!("yes")),
            CORRUPT,
            "\\\"desc_act\\\"",
        ),
        (
            "words of another size",
            |folder| say(folder, "pack_dtype", json!("int8")),
            UNSUPPORTED,
            "int8",
        ),
        // Layers may differ from what is said of all; their tensors' shapes count.
        (
            "other bits than the layers",
            |folder| say(folder, "bits", json!(8)),
            0,
            "success",
        ),
        (
            "larger groups than the layers",
            |folder| say(folder, "group_size", json!(0x7FFF_FFFF)),
            0,
            "success",
        ),
        // Every loader reads config.json first.
        (
            "a second file that contradicts",
            |folder| {
                edit_json(&folder.join(ALONE), |section| {
                    section["bits"] = json!(5);
                    section["checkpoint_format"] = json!("bitblas");
                });
            },
            0,
            "success",
        ),
        (
            "only a second file, with nonsense",
            |folder| {
                edit_json(&folder.join(CONFIG), |config| config[SECTION] = json!(null));
                edit_json(&folder.join(ALONE), |section| section["bits"] = json!(-1));
            },
            CORRUPT,
            "\\\"bits\\\"",
        ),
        (
            "no word about it",
            |folder| {
                edit_json(&folder.join(CONFIG), |config| config[SECTION] = json!(null));
                fs::remove_file(folder.join(ALONE)).unwrap();
            },
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
        // Then groups follow each other.
        (
            "no groups",
            |folder| remove_part(folder, "g_idx"),
            0,
            "success",
        ),
        (
            "no part at all",
            |folder| {
                for part in ["qweight", "qzeros", "scales", "g_idx"] {
                    remove_part(folder, part);
                }
            },
            CORRUPT,
            "lacks 1 of its tensors",
        ),
        (
            "a row of codes less",
            |folder| edit_part(folder, "qweight", |codes| codes.reshape("I32", &[3, 32])),
            CORRUPT,
            "do not fit each other: qweight [3, 32]",
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
                edit_part(folder, "qweight", |codes| codes.reshape("I32", &[4, 0]));
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
                remove_part(folder, "g_idx");
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
            "scales that are integers",
            |folder| edit_part(folder, "scales", |scales| scales.reshape("I32", &[1, 32])),
            UNSUPPORTED,
            "is of type I32, expected F16, BF16 or F32",
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
            "a scale that is no number",
            |folder| {
                edit_part(folder, "scales", |scales| scales.start_with(&[0x00, 0x7E]));
            },
            CORRUPT,
            "attn_q",
        ),
        (
            "groups of fewer inputs",
            |folder| edit_part(folder, "g_idx", |groups| groups.reshape("I32", &[31])),
            CORRUPT,
            "g_idx [31]",
        ),
        (
            "groups in half precision",
            |folder| edit_part(folder, "g_idx", |groups| groups.reshape("F16", &[32])),
            UNSUPPORTED,
            "is of type F16, expected I32",
        ),
        (
            "a group that there is not",
            |folder| edit_part(folder, "g_idx", |groups| groups.start_with(&[1])),
            CORRUPT,
            "puts input 0 into group 1, of 1",
        ),
        (
            "a negative group",
            |folder| edit_part(folder, "g_idx", |groups| groups.start_with(&[0xFF; 4])),
            CORRUPT,
            "puts input 0 into group -1, of 1",
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
            "a layer that the model has not",
            |folder| {
                edit_tensors(folder, |tensors| {
                    let parts = tensors
                        .iter()
                        .filter(|tensor| tensor.name.starts_with(LAYER));
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
        (
            // Found before the work: nothing is left behind.
            "a norm of integers",
            |folder| {
                edit_tensors(folder, |tensors| {
                    let norm = tensors.iter_mut().find(|t| t.name == "model.norm.weight");
                    norm.unwrap().reshape("I32", &[32]);
                });
            },
            UNSUPPORTED,
            "\\\"model.norm.weight\\\" is stored as I32",
        ),
    ];
    check_folders(cases);
}
