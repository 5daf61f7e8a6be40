//! What is refused, with which exit code, and what is asked before.

use std::fs;

use llm_quantize_tests::{run_json, text, tiny_llama};

use super::Place;

#[test]
fn losses_are_asked_about() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &["-q", "Q4_K_M"]);
    for format in ["awq", "gptq"] {
        let declined = place
            .try_convert(&source, format, "made", &[])
            .expect_code(9);
        let hint = declined.json()["suggestion"].as_str().unwrap().to_owned();
        assert!(hint.contains("--force"), "{hint}");
        assert!(!place.path().join("made").exists());
    }
}

#[test]
fn routes_that_do_not_hold_are_refused() {
    let place = Place::new();
    let four = ["-q", "4bit", "--group-size", "64"];
    let awq = place.quantize("awq", "awq", &four);
    let blocks = place.quantize("gguf", "k", &["-q", "Q4_K_M"]);
    for (source, format, arguments, what) in [
        (&blocks, "gptq", &["--route", "exact"][..], "Q4_K"),
        (&blocks, "awq", &["--route", "repack"], "Q6_K"),
        (
            &awq,
            "gguf",
            &["--route", "exact", "-q", "Q4_1"],
            "no place",
        ),
        (
            &awq,
            "gguf",
            &["--route", "repack", "-q", "Q4_K_M"],
            "does not hold groups",
        ),
        (
            &awq,
            "gptq",
            &["--route", "exact", "-q", "4bit", "--set", "sym=true"],
            "no place",
        ),
        (
            &awq,
            "gptq",
            &["--route", "exact", "--group-size", "128"],
            "cannot be cut",
        ),
        (
            &awq,
            "gptq",
            &["--route", "repack", "--set", "order=none"],
            "\"order\"",
        ),
    ] {
        let refused = place
            .try_convert(source, format, "made", arguments)
            .expect_code(8);
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(what), "{message}");
    }
    // The usual route asks about the loss instead.
    place
        .try_convert(&awq, "gptq", "made", &["-q", "4bit", "--set", "sym=true"])
        .expect_code(9);
}

#[test]
fn plain_models_have_nothing_to_repack() {
    let place = Place::new();
    for route in ["exact", "repack"] {
        let refused = place.try_convert(&tiny_llama(), "gguf", "made", &["--route", route]);
        let message = refused.expect_code(8).json();
        assert!(
            message["message"]
                .as_str()
                .unwrap()
                .contains("not quantized"),
            "{message}"
        );
    }
}

#[test]
fn a_level_of_the_same_format_is_no_repacking() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &["-q", "Q4_0"]);
    let arguments = ["-q", "Q8_0", "--route", "repack"];
    let refused = place
        .try_convert(&source, "gguf", "made", &arguments)
        .expect_code(8);
    assert!(
        refused.json()["message"]
            .as_str()
            .unwrap()
            .contains("another level")
    );
}

#[test]
fn groups_in_the_order_of_activations_are_not_repacked() {
    let place = Place::new();
    let source = place.quantize("gptq", "source", &["-q", "4bit", "--group-size", "32"]);
    let path = source.join("model.safetensors");
    let mut tensors = super::tensors(&source);
    for tensor in tensors
        .iter_mut()
        .filter(|tensor| tensor.name.ends_with(".g_idx"))
    {
        // The first two groups change places.
        let mut groups = tensor.bytes().to_vec();
        let (first, second) = groups[..256].split_at_mut(128);
        first.swap_with_slice(second);
        tensor.start_with(&groups);
    }
    llm_quantize_tests::safetensors::write_safetensors(&path, &tensors);
    for format in ["awq", "gguf", "gptq"] {
        let refused = place.try_convert(&source, format, "made", &["--route", "repack"]);
        let message = refused.expect_code(8).json();
        let message = message["message"].as_str().unwrap();
        assert!(message.contains("order of their activations"), "{message}");
    }
}

#[test]
fn what_is_no_model_is_named() {
    let place = Place::new();
    let folder = place.path().join("things");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("notes.txt"), "nothing").unwrap();
    let refused = place
        .try_convert(&folder, "awq", "made", &[])
        .expect_code(6);
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("notes.txt"), "{message}");
    let missing = place.path().join("missing");
    place
        .try_convert(&missing, "awq", "made", &[])
        .expect_code(3);
}

#[test]
fn folders_of_two_formats_are_refused() {
    let place = Place::new();
    let options = ["-q", "4bit", "--group-size", "32"];
    let source = place.quantize("awq", "source", &options);
    let other = place.quantize("gptq", "other", &options);
    // AWQ by its configuration, GPTQ by the file that older programs wrote.
    let alone = "quantize_config.json";
    fs::copy(other.join(alone), source.join(alone)).unwrap();
    let config = source.join("config.json");
    llm_quantize_tests::edit_json(&config, |config| {
        config
            .as_object_mut()
            .unwrap()
            .shift_remove("quantization_config");
    });
    let quant = source.join("quant_config.json");
    fs::write(
        &quant,
        r#"{"zero_point": true, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}"#,
    )
    .unwrap();
    let model = text(&source);
    let refused = run_json(["info", &model]).expect_code(6).json();
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.contains("awq") && message.contains("gptq"),
        "{message}"
    );
}
