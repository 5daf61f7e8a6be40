//! Configuration and tokenizer of a conversion from a model on the Hub.

use super::*;

#[test]
fn of_a_base_no_weights_are_fetched() {
    let setup = Setup::new();
    let source = quantize(&tiny_llama(), "Q4_0", setup.out.path(), &["-n", "source"]);
    let (source, out) = (source.to_str().unwrap(), setup.out.path().to_str().unwrap());
    let arguments = [
        "convert", source, "awq", "-o", out, "-n", "made", "--base", REPOSITORY,
    ];
    let report = run(setup.command(&arguments)).expect_code(0).json();
    let made = PathBuf::from(report["output_path"].as_str().unwrap());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert!(
            fs::read(made.join(name)).unwrap() == bytes_of(name),
            "{name}"
        );
    }
    let header = header_length(&bytes_of(WEIGHTS));
    let fetched = sent(&setup.weights_log());
    // What a reader asks for at first may be more than the header.
    assert!(
        fetched < header + (1 << 20),
        "{fetched} bytes, the header has {header}"
    );
    assert!(fetched < bytes_of(WEIGHTS).len() as u64 / 2);
}

#[test]
fn a_base_that_is_not_there_is_told() {
    let setup = Setup::new();
    let source = quantize(&tiny_llama(), "Q4_0", setup.out.path(), &["-n", "source"]);
    let (source, out) = (source.to_str().unwrap(), setup.out.path().to_str().unwrap());
    let base = "org/nothing";
    let arguments = ["convert", source, "awq", "-o", out, "--base", base];
    run(setup.command(&arguments)).expect_code(3);
}
