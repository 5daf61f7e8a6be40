//! What is downloaded, where it lies, and when nothing needs to be.

use super::*;

#[test]
fn a_model_is_downloaded_once_and_quantized() {
    let setup = Setup::new();
    let first = setup.quantize(REPOSITORY).expect_code(0);
    let path = first.json()["output_path"].as_str().unwrap().to_owned();
    assert!(path.ends_with("/tiny-llama-Q8_0.gguf"), "{path}");
    let local = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &["-n", "local"]);
    assert_eq!(sha256(Path::new(&path)), sha256(&local));
    let line = "Downloading org/tiny-llama@0123456: ";
    assert!(first.stderr.contains(line), "{}", first.stderr);
    assert!(
        first.stderr.contains("Downloading 100%"),
        "{}",
        first.stderr
    );

    let log = setup.hub.take_log();
    for needless in [
        "pytorch_model.bin",
        "onnx",
        "original",
        ".gguf",
        ".gitattributes",
    ] {
        assert!(
            !log.iter().any(|entry| entry.path.contains(needless)),
            "{needless}"
        );
    }
    setup.quantize(REPOSITORY).expect_code(0);
    let log = setup.hub.take_log();
    assert!(
        log.iter().all(|entry| entry.path.starts_with("/api/")),
        "{log:?}"
    );
}

#[test]
fn the_cache_is_laid_out_as_every_client_expects() {
    let setup = Setup::new();
    setup.quantize(REPOSITORY).expect_code(0);
    let folder = setup.model_folder();
    assert_eq!(names(&folder), ["blobs", "refs", "snapshots"]);
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    let snapshot = folder.join("snapshots").join(COMMIT);
    let mut expected = names(&tiny_llama());
    expected.insert(0, "LICENSE".into());
    assert_eq!(names(&snapshot), expected);
    for name in &expected {
        let link = fs::read_link(snapshot.join(name)).unwrap();
        assert_eq!(
            link,
            Path::new("../../blobs").join(setup.hub.hash(name)),
            "{name}"
        );
    }
    assert_eq!(names(&folder.join("blobs")).len(), expected.len());
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
    let locks = setup.home.path().join("hub/.locks/models--org--tiny-llama");
    assert!(names(&locks).contains(&format!("{}.lock", setup.hub.hash(WEIGHTS))));
}

#[test]
fn revisions_are_resolved_to_a_commit_first() {
    let setup = Setup::new();
    for (revision, reference) in [
        (TAG, Some(TAG)),
        ("refs/pr/1", Some("refs/pr/1")),
        (COMMIT, None),
    ] {
        setup
            .quantize(&format!("{REPOSITORY}@{revision}"))
            .expect_code(0);
        for entry in setup.hub.take_log() {
            let pinned = entry.path.contains(&format!("/resolve/{COMMIT}/"));
            assert!(pinned || entry.path.starts_with("/api/") || entry.host == Host::Storage);
        }
        if let Some(reference) = reference {
            let path = setup.model_folder().join("refs").join(reference);
            assert_eq!(fs::read_to_string(path).unwrap(), COMMIT);
        }
    }
    let unknown = setup.quantize(&format!("{REPOSITORY}@v9"));
    refusal(
        unknown,
        3,
        "org/tiny-llama has no revision \"v9\"",
        "/tree/main",
    );
}

#[test]
fn what_another_client_downloaded_is_used() {
    let setup = Setup::new();
    let folder = setup.model_folder();
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    let mut files = files_of(&tiny_llama());
    files.insert("LICENSE".into(), b"public domain\n".to_vec());
    for (name, content) in files {
        fs::write(setup.blob(&name), content).unwrap();
        let target = Path::new("../../blobs").join(setup.hub.hash(&name));
        std::os::unix::fs::symlink(target, snapshot.join(&name)).unwrap();
    }
    setup.quantize(REPOSITORY).expect_code(0);
    setup.info(REPOSITORY).expect_code(0);
    let log = setup.hub.take_log();
    assert!(
        log.iter().all(|entry| entry.path.starts_with("/api/")),
        "{log:?}"
    );
}

#[test]
fn the_cache_may_be_elsewhere() {
    let setup = Setup::new();
    let own = tempfile::tempdir().unwrap();
    let mut command = setup.quantize_command(REPOSITORY);
    command.env("LLM_QUANTIZE_CACHE", own.path());
    run(command).expect_code(0);
    assert!(
        own.path()
            .join("hub/models--org--tiny-llama/refs/main")
            .is_file()
    );
    assert!(!setup.model_folder().exists());
    let other = tempfile::tempdir().unwrap();
    let mut command = setup.quantize_command(REPOSITORY);
    command.env("HF_HUB_CACHE", other.path());
    run(command).expect_code(0);
    assert!(
        other
            .path()
            .join("models--org--tiny-llama/refs/main")
            .is_file()
    );
}

#[test]
fn offline_only_the_cache_is_used() {
    let setup = Setup::new();
    let offline = |mut command: Command| {
        command.env("HF_HUB_OFFLINE", "1");
        run(command)
    };
    let absent = offline(setup.quantize_command(REPOSITORY));
    refusal(
        absent,
        3,
        "holds no copy of org/tiny-llama",
        "HF_HUB_OFFLINE",
    );
    setup.info(REPOSITORY).expect_code(0);
    setup.hub.take_log();
    let partly = offline(setup.quantize_command(&format!("{REPOSITORY}@{COMMIT}")));
    refusal(partly, 3, "lacks the weights", "without HF_HUB_OFFLINE");
    setup.quantize(REPOSITORY).expect_code(0);
    setup.hub.take_log();
    offline(setup.quantize_command(REPOSITORY)).expect_code(0);
    offline(setup.command(&["info", REPOSITORY])).expect_code(0);
    assert!(setup.hub.take_log().is_empty());
}

#[test]
fn without_a_connection_the_cached_copy_serves() {
    let setup = Setup::new();
    let nowhere = |model: &str| {
        let mut command = setup.quantize_command(model);
        command.env("HF_ENDPOINT", "http://127.0.0.1:1");
        run(command)
    };
    refusal(
        nowhere(REPOSITORY),
        1,
        "cannot reach 127.0.0.1",
        "connection",
    );
    setup.quantize(REPOSITORY).expect_code(0);
    let run = nowhere(REPOSITORY).expect_code(0);
    assert!(
        run.stderr.contains("using the copy in the cache"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_local_path_wins() {
    let setup = Setup::new();
    let folder = tempfile::tempdir().unwrap();
    llm_quantize_tests::copy_folder(&tiny_llama(), &folder.path().join(REPOSITORY));
    let mut command = setup.quantize_command(REPOSITORY);
    command.current_dir(folder.path());
    run(command).expect_code(0);
    assert!(setup.hub.take_log().is_empty());
}

#[test]
fn shards_come_as_the_index_names_them() {
    let mut files = with_clutter(sharded());
    files.insert("consolidated.safetensors".into(), b"not named".to_vec());
    let setup = Setup::with_files(files.clone());
    let run = setup.quantize(REPOSITORY).expect_code(0);
    let local = quantize(&tiny_llama(), "Q8_0", setup.out.path(), &["-n", "local"]);
    let path = run.json()["output_path"].as_str().unwrap().to_owned();
    assert_eq!(sha256(Path::new(&path)), sha256(&local));
    assert!(
        !setup
            .hub
            .take_log()
            .iter()
            .any(|entry| entry.path.contains("consolidated"))
    );

    files.remove("model-00002-of-00002.safetensors");
    let setup = Setup::with_files(files);
    refusal(
        setup.quantize(REPOSITORY),
        6,
        "model-00002-of-00002",
        "authors",
    );
}

#[test]
fn a_mirror_that_lists_names_only_is_asked_for_the_rest() {
    let setup = Setup::new();
    setup.hub.rules().names_only = true;
    setup.quantize(REPOSITORY).expect_code(0);
    assert_eq!(sha256(&setup.blob(WEIGHTS)), setup.hub.hash(WEIGHTS));
}

#[test]
fn pytorch_weights_are_refused_as_in_a_folder() {
    let mut files = with_clutter(files_of(&tiny_llama()));
    files.remove(WEIGHTS);
    files.remove("tiny-llama.Q4_0.gguf");
    let setup = Setup::with_files(files);
    refusal(setup.quantize(REPOSITORY), 6, "PyTorch", "save_pretrained");
}
