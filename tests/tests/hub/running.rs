//! Commands that run a model of the Hub on text.

use super::*;

#[test]
fn a_model_of_the_hub_is_analyzed_and_measured() {
    let setup = Setup::new();
    let matrix = setup.out.path().join("i.gguf");
    let text = ["--calibration-samples", "2", "--calibration-length", "64"];
    let analyze = |model: &str, output: &Path| {
        let mut command = setup.command(&["analyze", model, "-o", output.to_str().unwrap()]);
        command.args(text);
        run(command)
    };
    analyze(REPOSITORY, &matrix).expect_code(0);
    let local = setup.out.path().join("local.gguf");
    analyze(tiny_llama().to_str().unwrap(), &local).expect_code(0);
    assert_eq!(sha256(&matrix), sha256(&local));

    let arguments = ["quality", REPOSITORY, "--windows", "2", "--context", "64"];
    let rows = run(setup.command(&arguments)).expect_code(0).json();
    assert_eq!(rows[0]["tokens_scored"], 2 * 63);
    assert!(rows[0]["perplexity"].as_f64().unwrap() > 1.0);
}

#[test]
fn what_the_text_is_too_short_for_is_not_downloaded() {
    let setup = Setup::new();
    let text = setup.out.path().join("t.txt");
    fs::write(&text, "Too short.").unwrap();
    let output = setup.out.path().join("i.gguf");
    let (text, output) = (text.to_str().unwrap(), output.to_str().unwrap());
    let arguments = [
        "analyze",
        REPOSITORY,
        "-o",
        output,
        "--calibration-data",
        text,
    ];
    run(setup.command(&arguments)).expect_code(2);
    assert!(!setup.blob(WEIGHTS).exists());
}
