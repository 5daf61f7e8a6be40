//! What is read of a model before, or instead of, its weights.

use super::*;

#[test]
fn info_asks_for_no_byte_of_the_weights() {
    let setup = Setup::new();
    let info = setup.info(REPOSITORY).expect_code(0).json();
    let local = run_json(["info", tiny_llama().to_str().unwrap()]).json();
    for (key, value) in local.as_object().unwrap() {
        if key != "path" {
            assert_eq!(&info[key], value, "{key}");
        }
    }
    let page = format!("{}/{REPOSITORY}/tree/{COMMIT}", setup.hub.url);
    assert_eq!(info["path"], page);
    let end = header_length(&bytes_of(WEIGHTS));
    let log = setup.weights_log();
    assert_eq!(sent(&log), end);
    assert!(
        log.iter()
            .all(|entry| entry.range.as_ref().unwrap().end <= end)
    );
    assert!(!setup.blob(WEIGHTS).exists() && !setup.incomplete(WEIGHTS).exists());
}

#[test]
fn info_reads_the_headers_of_all_shards() {
    let setup = Setup::with_files(sharded());
    let info = setup.info(REPOSITORY).expect_code(0).json();
    assert_eq!(info["tensor_count"], 4 * 9 + 3);
    let local = run_json(["info", tiny_llama().to_str().unwrap()]).json();
    assert_eq!(info["parameter_count"], local["parameter_count"]);
    let files = sharded();
    let shards = files
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"));
    let headers: u64 = shards.map(|(_, bytes)| header_length(bytes)).sum();
    assert_eq!(sent(&setup.weights_log()), headers);
}

#[test]
fn info_reads_the_beginning_of_a_gguf_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = quantize(&tiny_llama(), "F32", dir.path(), &["-n", "model.gguf"]);
    let content = fs::read(&path).unwrap();
    let size = content.len() as u64;
    let setup = Setup::with_files([("model.gguf".to_owned(), content)].into());
    let info = setup.info(REPOSITORY).expect_code(0).json();
    let local = run_json(["info", path.to_str().unwrap()]).json();
    for (key, value) in local.as_object().unwrap() {
        if key != "path" {
            assert_eq!(&info[key], value, "{key}");
        }
    }
    let sent = sent(&setup.weights_log());
    assert!(sent <= size / 16, "{sent} of {size}");
}

#[test]
fn a_long_gguf_header_is_read_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("long");
    llm_quantize_tests::copy_folder(&tiny_llama(), &model);
    // A template of 1.2 MB, before the tensors' places.
    llm_quantize_tests::edit_json(&model.join("tokenizer_config.json"), |config| {
        config["chat_template"] = format!("{{# {} #}}", "x".repeat(1_200_000)).into();
    });
    let path = quantize(&model, "F32", dir.path(), &["-n", "model.gguf"]);
    let content = fs::read(&path).unwrap();
    let setup = Setup::with_files([("model.gguf".to_owned(), content)].into());
    let mut command = setup.command(&["info", REPOSITORY, "--tensors"]);
    let info = command.output().unwrap();
    let info = Run::from(info).expect_code(0).json();
    let local = run_json(["info", path.to_str().unwrap(), "--tensors"]).json();
    assert_eq!(info["tensors"], local["tensors"]);
    let log = setup.weights_log();
    assert_eq!(ranges(&log), [Some(0), Some(512 << 10)]);
    assert_eq!(sent(&log), 2 << 20);
}

#[test]
fn a_header_that_is_cut_short_is_told_about_the_file_on_the_hub() {
    let mut files = files_of(&tiny_llama());
    files.insert(WEIGHTS.into(), b"short".to_vec());
    let setup = Setup::with_files(files);
    let page = format!("{}/{REPOSITORY}/tree/{COMMIT}/{WEIGHTS}", setup.hub.url);
    let error = refusal(
        setup.info(REPOSITORY),
        6,
        "not a valid safetensors file",
        "",
    );
    assert!(
        error["message"].as_str().unwrap().contains(&page),
        "{error}"
    );
}

#[test]
fn a_dry_run_downloads_no_weights() {
    let setup = Setup::new();
    let mut command = setup.quantize_command(REPOSITORY);
    command.arg("--dry-run");
    let plan = run(command).expect_code(0).json();
    assert_eq!(
        sent(&setup.weights_log()),
        header_length(&bytes_of(WEIGHTS))
    );
    let path = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &[]);
    assert_eq!(plan["total_bytes"], size_of(&path));
}

#[test]
fn what_cannot_be_quantized_is_not_downloaded() {
    let mut files = files_of(&tiny_llama());
    let mut config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    config["architectures"] = json!(["FalconForCausalLM"]);
    files.insert("config.json".into(), config.to_string().into_bytes());
    let setup = Setup::with_files(files);
    refusal(setup.quantize(REPOSITORY), 8, "FalconForCausalLM", "");
    assert_eq!(
        sent(&setup.weights_log()),
        header_length(&bytes_of(WEIGHTS))
    );
    let quantized = Setup::with_files([("model-Q4_0.gguf".to_owned(), gguf("Q4_0"))].into());
    let out = quantized.out.path().to_str().unwrap();
    let convert = ["convert", REPOSITORY, "gguf", "-q", "Q8_0", "-o", out];
    refusal(run(quantized.command(&convert)), 9, "quality", "--force");
    assert_eq!(quantized.weights_log().len(), 1);
    let mut command = quantized.command(&convert);
    command.arg("--force");
    run(command).expect_code(0);
}
