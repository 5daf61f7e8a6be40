//! `quantize` from a Hugging Face folder: results, refusals, and what is left behind.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::Path;

use llm_quantize_tests::safetensors::{read_safetensors, write_safetensors};
use llm_quantize_tests::{
    copy_folder, edit_json, names, quantize, run, run_json, sha256, text, tiny_llama,
};
use serde_json::json;

/// All levels that need no importance matrix.
const LEVELS: [&str; 22] = [
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "TQ1_0",
    "TQ2_0",
    "MXFP4_MOE",
];

fn quantize_args<'a>(model: &'a str, level: &'a str, folder: &'a str) -> Vec<&'a str> {
    vec!["quantize", model, "gguf", "-q", level, "-o", folder]
}

/// A copy of the built-in model that a test may spoil.
fn spoilt(spoil: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&tiny_llama(), dir.path());
    spoil(dir.path());
    dir
}

/// Exit code and error document of a quantization that must fail and leave nothing.
#[track_caller]
fn refusal(model: &Path, more: &[&str], code: i32) -> serde_json::Value {
    let out = tempfile::tempdir().unwrap();
    let (model, folder) = (text(model), text(out.path()));
    let level = if more.contains(&"-q") {
        &[][..]
    } else {
        &["-q", "Q4_K_M"]
    };
    let mut arguments = vec!["quantize", &model, "gguf", "-o", &folder];
    arguments.extend(level);
    arguments.extend(more);
    let error = run_json(&arguments).expect_code(code).json();
    assert_eq!(error["status"], "error");
    assert_eq!(error["error_code"], code);
    assert!(names(out.path()).is_empty(), "{:?}", names(out.path()));
    error
}

#[test]
fn every_level_gives_the_bytes_that_were_compared_with_ggml() {
    // Written by `tests/peers/check_bytes.py`'s authority: that check compares the same
    // files with llama.cpp's own quantizer; these hashes notice a change without it.
    let golden = include_str!("golden/tiny-llama.sha256");
    let dir = tempfile::tempdir().unwrap();
    for level in LEVELS {
        let path = quantize(&tiny_llama(), level, dir.path(), &[]);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(name, format!("tiny-llama-{level}.gguf"));
        let line = format!("{}  {name}", sha256(&path));
        assert!(golden.lines().any(|known| known == line), "{line}");
    }
}

#[test]
fn success_has_the_documented_fields() {
    let out = tempfile::tempdir().unwrap();
    let (model, folder) = (text(&tiny_llama()), text(out.path()));
    let run = run_json(quantize_args(&model, "q4_k_m", &folder)).expect_code(0);
    let report = run.json();
    assert_eq!(report["status"], "success");
    assert_eq!(report["format"], "gguf");
    assert_eq!(report["quantization_level"], "Q4_K_M");
    assert_eq!(report["validation_status"], "valid");
    let path = report["output_path"].as_str().unwrap();
    assert_eq!(report["file_size"], fs::metadata(path).unwrap().len());
    assert_eq!(report["metadata"]["original_dtype"], "bfloat16");
    assert_eq!(report["metadata"]["layers_processed"], 4);
    let original = report["metadata"]["original_size"].as_f64().unwrap();
    let ratio = report["compression_ratio"].as_f64().unwrap();
    assert!((ratio - report["file_size"].as_f64().unwrap() / original).abs() < 1e-3);
    assert!(report["duration_seconds"].as_f64().unwrap() > 0.0);
    assert!(report["peak_memory_bytes"].as_u64().unwrap() > 1 << 20);
    // What people read: the phases, a line a layer, the result.
    for line in [
        "Loading model:",
        "LlamaForCausalLM",
        "4/4 layers",
        "Validating output",
        "Complete:",
    ] {
        assert!(run.stderr.contains(line), "{line}: {}", run.stderr);
    }
}

#[test]
fn quiet_runs_print_nothing_but_the_result() {
    let out = tempfile::tempdir().unwrap();
    let (model, folder) = (text(&tiny_llama()), text(out.path()));
    let mut arguments = vec!["--verbosity", "quiet"];
    arguments.extend(quantize_args(&model, "Q8_0", &folder));
    assert_eq!(run(&arguments).expect_code(0).stderr, "");
}

#[test]
fn a_dry_run_tells_exact_sizes_and_writes_nothing() {
    let out = tempfile::tempdir().unwrap();
    let (model, folder) = (text(&tiny_llama()), text(out.path()));
    let mut arguments = quantize_args(&model, "Q3_K_L", &folder);
    arguments.push("--dry-run");
    let plan = run_json(&arguments).expect_code(0).json();
    assert!(names(out.path()).is_empty());
    let path = quantize(&tiny_llama(), "Q3_K_L", out.path(), &[]);
    assert_eq!(plan["total_bytes"], fs::metadata(path).unwrap().len());
    let tensors = plan["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 4 * 9 + 3);
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let out = tempfile::tempdir().unwrap();
    let one = quantize(
        &tiny_llama(),
        "Q2_K",
        out.path(),
        &["-n", "one", "--threads", "1"],
    );
    let five = quantize(
        &tiny_llama(),
        "Q2_K",
        out.path(),
        &["-n", "five", "--threads", "5"],
    );
    assert_eq!(sha256(&one), sha256(&five));
}

#[test]
fn an_existing_output_is_kept_unless_it_may_be_replaced() {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("tiny-llama-Q4_0.gguf");
    fs::write(&path, "precious").unwrap();
    let (model, folder) = (text(&tiny_llama()), text(out.path()));
    let mut arguments = quantize_args(&model, "Q4_0", &folder);
    let error = run_json(&arguments).expect_code(2).json();
    assert!(
        error["suggestion"]
            .as_str()
            .unwrap()
            .contains("--overwrite")
    );
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    arguments.push("--overwrite");
    run_json(&arguments).expect_code(0);
    assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
    assert_eq!(names(out.path()), ["tiny-llama-Q4_0.gguf"]);
}

#[test]
fn both_spellings_of_the_config_give_the_same_file() {
    let older = spoilt(|folder| {
        edit_json(&folder.join("config.json"), |config| {
            let fields = config.as_object_mut().unwrap();
            fields.remove("rope_parameters");
            fields.remove("dtype");
            fields.insert("rope_theta".into(), json!(10000.0));
            fields.insert("torch_dtype".into(), json!("bfloat16"));
        });
    });
    let model = older.path().join("tiny-llama");
    fs::create_dir(&model).unwrap();
    for name in names(&tiny_llama()) {
        fs::rename(older.path().join(&name), model.join(&name)).unwrap();
    }
    let out = tempfile::tempdir().unwrap();
    let old = quantize(&model, "Q4_K_M", out.path(), &["-n", "old"]);
    let new = quantize(&tiny_llama(), "Q4_K_M", out.path(), &["-n", "new"]);
    assert_eq!(sha256(&old), sha256(&new));
}

#[test]
fn wrong_requests_say_what_is_possible() {
    let error = refusal(&tiny_llama(), &["--set", "colour=red"], 2);
    assert!(
        error["suggestion"]
            .as_str()
            .unwrap()
            .contains("tensor-type")
    );
    let error = refusal(&tiny_llama(), &["--set", "pure=perhaps"], 2);
    assert!(error["message"].as_str().unwrap().contains("pure"));
    refusal(&tiny_llama(), &["--group-size", "128"], 2);
    let model = text(&tiny_llama());
    let error = run_json(quantize_args(&model, "Q9", "/nowhere"))
        .expect_code(2)
        .json();
    assert!(error["suggestion"].as_str().unwrap().contains("Q4_K_M"));
    let error = run_json(["quantize", &model, "gguv", "-q", "Q4_0"])
        .expect_code(11)
        .json();
    assert!(error["suggestion"].as_str().unwrap().contains("gguf"));
    let error = refusal(Path::new("/no/such/model"), &[], 3);
    assert_eq!(error["error_type"], "ModelNotFoundError");
}

#[test]
fn a_budget_that_cannot_be_met_is_refused_with_both_figures() {
    let error = refusal(&tiny_llama(), &["--max-memory", "1M"], 5);
    assert!(
        error["message"].as_str().unwrap().contains("1.0 MB"),
        "{error}"
    );
}

#[test]
fn unknown_architectures_are_refused_with_the_known_ones() {
    let model = spoilt(|folder| {
        edit_json(&folder.join("config.json"), |config| {
            config["architectures"] = json!(["FalconForCausalLM"]);
        });
    });
    let error = refusal(model.path(), &[], 8);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("FalconForCausalLM")
    );
    assert!(
        error["suggestion"]
            .as_str()
            .unwrap()
            .contains("Qwen3ForCausalLM")
    );
}

#[test]
fn damaged_models_are_refused() {
    let cut = spoilt(|folder| {
        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    });
    refusal(cut.path(), &[], 6);
    let no_config = spoilt(|folder| fs::write(folder.join("config.json"), "{").unwrap());
    refusal(no_config.path(), &[], 6);
    let wrong_shape = spoilt(|folder| {
        edit_json(&folder.join("config.json"), |config| {
            config["hidden_size"] = json!(512)
        });
    });
    let error = refusal(wrong_shape.path(), &[], 6);
    assert!(
        error["message"].as_str().unwrap().contains("512"),
        "{error}"
    );
}

/// The built-in model with one weight replaced: in the row 5 of a layer's value projection.
fn with_weight(value: f32) -> tempfile::TempDir {
    spoilt(|folder| {
        let path = folder.join("model.safetensors");
        let mut tensors = read_safetensors(&path);
        let values = tensors
            .iter_mut()
            .find(|tensor| tensor.name == "model.layers.2.self_attn.v_proj.weight");
        values.unwrap().set_bf16(5 * 256 + 17, value);
        write_safetensors(&path, &tensors);
    })
}

/// Every way to store the rows of the weight that is replaced: copied, converted, quantized.
const WAYS: [&str; 6] = ["BF16", "F32", "F16", "Q8_0", "IQ4_XS", "TQ2_0"];

#[test]
fn a_weight_that_is_no_number_is_named_and_nothing_is_left() {
    for value in [f32::NAN, f32::INFINITY] {
        let model = with_weight(value);
        for level in WAYS {
            let error = refusal(model.path(), &["-q", level], 6);
            let message = error["message"].as_str().unwrap();
            assert!(
                message.contains("tensor \"blk.2.attn_v.weight\", row 5: "),
                "{level}: {message}"
            );
        }
    }
}

#[test]
fn weights_too_large_for_a_type_are_named_and_nothing_is_left() {
    let model = with_weight(1e9);
    for level in WAYS {
        if ["BF16", "F32"].contains(&level) {
            let out = tempfile::tempdir().unwrap();
            quantize(model.path(), level, out.path(), &[]);
            continue;
        }
        let error = refusal(model.path(), &["-q", level], 6);
        let message = error["message"].as_str().unwrap();
        let because = "row 5: its weights do not fit";
        assert!(
            message.contains("\"blk.2.attn_v.weight\"") && message.contains(because),
            "{level}: {message}"
        );
        assert!(error["suggestion"].as_str().unwrap().contains("bf16"));
    }
}

#[test]
fn levels_of_very_few_bits_need_an_importance_matrix() {
    for dry_run in [&[][..], &["--dry-run"]] {
        let arguments = [&["-q", "Q2_K_S"], dry_run].concat();
        let error = refusal(&tiny_llama(), &arguments, 10);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains("Q2_K_S needs an importance matrix")
                && message.contains("\"blk.0.attn_k.weight\""),
            "{message}"
        );
        assert!(
            error["suggestion"]
                .as_str()
                .unwrap()
                .contains("llm-quantize analyze")
        );
    }
    // With other types for what needs one, nothing does.
    let out = tempfile::tempdir().unwrap();
    let all = ["--set", "tensor-type=blk=q3_k"];
    quantize(&tiny_llama(), "Q2_K_S", out.path(), &all);
}

#[test]
fn importance_matrices_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let junk = dir.path().join("junk.dat");
    fs::write(&junk, [7u8; 300]).unwrap();
    refusal(&tiny_llama(), &["--imatrix", &text(&junk)], 10);
    refusal(&tiny_llama(), &["--imatrix", "/no/such/file"], 10);
    let other = quantize(&tiny_llama(), "F16", dir.path(), &[]);
    let error = refusal(&tiny_llama(), &["--imatrix", &text(&other)], 10);
    assert_eq!(error["error_type"], "ImportanceMatrixError");
}
