//! Configuration and tokenizer from another version of the model.

use std::fs;

use llm_quantize_tests::{copy_folder, edit_json, text, tiny_llama};

use super::{Place, config};

#[test]
fn configuration_and_tokenizer_are_rebuilt() {
    let place = Place::new();
    let source = place.quantize("gguf", "source", &["-q", "Q4_0"]);
    let made = place.convert(&source, "awq", "made", &[]);
    let rebuilt = config(&made.path);
    assert_eq!(rebuilt["architectures"][0], "LlamaForCausalLM");
    assert_eq!(rebuilt["quantization_config"]["quant_method"], "awq");
    assert!(made.path.join("tokenizer.json").is_file());
}

#[test]
fn a_base_gives_its_own() {
    let place = Place::new();
    let base = place.path().join("base");
    copy_folder(&tiny_llama(), &base);
    edit_json(&base.join("config.json"), |config| {
        config["note"] = "kept".into()
    });
    let source = place.quantize("gguf", "source", &["-q", "Q4_0"]);
    let base_text = text(&base);
    let made = place.convert(&source, "awq", "made", &["--base", &base_text]);
    assert_eq!(config(&made.path)["note"], "kept");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let (theirs, ours) = (base.join(name), made.path.join(name));
        assert!(
            fs::read(theirs).unwrap() == fs::read(ours).unwrap(),
            "{name}"
        );
    }
    // A quantized one will do, too.
    let quantized = text(&made.path);
    let again = place.convert(&source, "gptq", "again", &["--base", &quantized]);
    let quantization = &config(&again.path)["quantization_config"];
    assert_eq!(quantization["quant_method"], "gptq");
    assert_eq!(config(&again.path)["note"], "kept");
}

#[test]
fn another_model_is_no_base() {
    let place = Place::new();
    let base = place.path().join("base");
    copy_folder(&tiny_llama(), &base);
    edit_json(&base.join("config.json"), |config| {
        config["hidden_size"] = 512.into()
    });
    let source = place.quantize("gguf", "source", &["-q", "Q4_0"]);
    let base = text(&base);
    for (format, what) in [
        ("awq", "hidden size (512, not 256)"),
        ("gguf", "leave out --base"),
    ] {
        let arguments = ["--base", &base, "--force"];
        let refused = place.try_convert(&source, format, "made", &arguments);
        let refused = refused.expect_code(2).json();
        let told = format!("{} {}", refused["message"], refused["suggestion"]);
        assert!(told.contains(what), "{told}");
    }
    let missing = place.path().join("missing");
    let arguments = ["--base", &text(&missing)];
    place
        .try_convert(&source, "awq", "made", &arguments)
        .expect_code(3);
}
