//! A third party's plugin: found, described, used to write and to read.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;

use llm_quantize_tests::{example, names, run, run_json, text, tiny_llama};

/// A folder that holds the example plugin alone.
fn plugin_folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let library = example("absmax8");
    let name = library.file_name().unwrap();
    fs::copy(&library, dir.path().join(name)).unwrap();
    dir
}

#[test]
fn it_is_listed_with_what_it_says_about_itself() {
    let dir = plugin_folder();
    let folder = text(dir.path());
    let listed = run_json(["--plugin-dir", &folder, "plugin", "list"])
        .expect_code(0)
        .json();
    let all = listed.as_array().unwrap();
    let found = all.iter().find(|plugin| plugin["id"] == "absmax8").unwrap();
    assert_eq!(found["state"], "ok");
    assert_eq!(found["formats"][0], "absmax8");
    assert_eq!(
        found["interface_version"],
        llm_quantize_plugin_api_version()
    );
    assert!(all.iter().any(|plugin| plugin["id"] == "gguf"));
}

fn llm_quantize_plugin_api_version() -> String {
    let run = run(["--version"]).expect_code(0);
    let version = run.stdout.split("interface ").nth(1).unwrap();
    version
        .trim_matches(|c: char| !c.is_ascii_digit() && c != '.')
        .to_owned()
}

#[test]
fn the_first_of_an_id_wins_and_the_other_is_reported() {
    let (first, second) = (plugin_folder(), plugin_folder());
    let (a, b) = (text(first.path()), text(second.path()));
    let listed = run_json(["--plugin-dir", &a, "--plugin-dir", &b, "plugin", "list"]);
    let listed = listed.expect_code(0).json();
    let states: Vec<&str> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(|plugin| plugin["id"] == "absmax8")
        .map(|plugin| plugin["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["ok", "shadowed"]);
}

#[test]
fn it_describes_its_levels() {
    let dir = plugin_folder();
    let folder = text(dir.path());
    let run = run(["--plugin-dir", &folder, "plugin", "info", "absmax8"]).expect_code(0);
    assert!(run.stdout.contains("INT8"), "{}", run.stdout);
}

#[test]
fn it_writes_and_the_result_is_a_source() {
    let (plugins, out) = (plugin_folder(), tempfile::tempdir().unwrap());
    let (folder, to, model) = (text(plugins.path()), text(out.path()), text(&tiny_llama()));
    let with = ["--plugin-dir", &folder];
    let quantize = ["quantize", &model, "absmax8", "-q", "int8", "-o", &to];
    let report = run_json([&with[..], &quantize].concat())
        .expect_code(0)
        .json();
    let path = report["output_path"].as_str().unwrap().to_owned();
    assert!(
        report["metadata"]["squared_error"].as_f64().unwrap() > 0.0,
        "{report}"
    );
    let info = run_json([&with[..], &["info", &path]].concat())
        .expect_code(0)
        .json();
    assert_eq!(info["num_layers"], 4);
    // Without the plugin nobody can read it.
    run_json(["info", &path]).expect_code(6);
    let convert = [
        "convert", &path, "hf", "-o", &to, "-n", "plain", "-q", "F32",
    ];
    run_json([&with[..], &convert].concat()).expect_code(0);
    assert!(names(&out.path().join("plain")).contains(&"model.safetensors".to_owned()));
}

#[test]
fn what_is_no_plugin_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("junk{}", std::env::consts::DLL_SUFFIX);
    fs::write(dir.path().join(&name), "not a library").unwrap();
    let folder = text(dir.path());
    let listed = run_json(["--plugin-dir", &folder, "plugin", "list"])
        .expect_code(0)
        .json();
    let all = listed.as_array().unwrap();
    let found = all
        .iter()
        .find(|p| p["path"].as_str().unwrap().contains(&name))
        .unwrap();
    assert_eq!(found["state"], "refused");
    let model = text(&tiny_llama());
    let error = run_json([
        "--plugin-dir",
        &folder,
        "quantize",
        &model,
        "junk",
        "-q",
        "x",
    ]);
    let error = error.expect_code(11).json();
    assert!(error["message"].as_str().unwrap().contains(&name));
}
