//! Repositories with GGUF files.

use super::*;

#[test]
fn the_only_gguf_file_of_a_repository_is_the_model() {
    let content = gguf("BF16");
    let files = [
        ("README.md", b"# A model".to_vec()),
        ("q/tiny-BF16.gguf", content),
    ];
    let setup = Setup::with_files(files.map(|(name, bytes)| (name.into(), bytes)).into());
    let run = setup.quantize(REPOSITORY).expect_code(0);
    let path = run.json()["output_path"].as_str().unwrap().to_owned();
    let local = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &["-n", "local"]);
    assert_eq!(sha256(Path::new(&path)), sha256(&local));
}

#[test]
fn of_several_gguf_files_one_must_be_named() {
    let files = ["F16", "Q8_0"].map(|level| (format!("tiny-{level}.gguf"), gguf(level)));
    let setup = Setup::with_files(files.into());
    let both = "org/tiny-llama/tiny-F16.gguf, org/tiny-llama/tiny-Q8_0.gguf";
    refusal(setup.info(REPOSITORY), 2, both, "name one");
    refusal(
        setup.info("org/tiny-llama/other.gguf"),
        3,
        "no file other.gguf",
        both,
    );
    let info = setup
        .info("org/tiny-llama/tiny-Q8_0.gguf@v1")
        .expect_code(0)
        .json();
    assert_eq!(info["format"], "gguf");
    assert_eq!(info["quantization"]["method"], "gguf");
}
