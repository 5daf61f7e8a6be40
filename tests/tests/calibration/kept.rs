//! Statistics that are kept for later runs.

use std::fs;
use std::path::{Path, PathBuf};

use llm_quantize_tests::{names, quantize, sha256, tiny_llama};

use super::{SAMPLES, analyze, corpus, tensor_bytes, text};

/// The only folder in a cache.
fn inside(cache: &Path) -> PathBuf {
    let names = names(cache);
    assert_eq!(names.len(), 1, "{names:?}");
    cache.join(&names[0])
}

#[test]
fn statistics_that_are_kept_are_used_again() {
    let out = tempfile::tempdir().unwrap();
    let cache = out.path().join("cache");
    let (cache_text, path) = (text(&cache), out.path().join("i.gguf"));
    let with_cache = ["--calibration-cache", &cache_text];
    analyze(&tiny_llama(), &path, &with_cache).expect_code(0);
    let reference = sha256(&path);
    let folder = inside(&cache);
    let blocks = names(&folder);
    assert_eq!(blocks.len(), 4, "{blocks:?}");
    let first = fs::metadata(folder.join(&blocks[0])).unwrap().len();

    // The same again runs nothing: what is in the files is what comes out.
    let mut more = with_cache.to_vec();
    more.push("--overwrite");
    let run = analyze(&tiny_llama(), &path, &more).expect_code(0);
    assert!(!run.stderr.contains("tokens/s"), "{}", run.stderr);
    assert_eq!(sha256(&path), reference);

    // Quantizing uses them as well.
    let corpus = corpus();
    let mut options = vec!["--calibration-data", &corpus];
    options.extend(SAMPLES);
    let fresh = quantize(&tiny_llama(), "Q2_K", out.path(), &options);
    let expected = tensor_bytes(&fresh);
    options.extend(with_cache);
    options.push("--overwrite");
    let kept = quantize(&tiny_llama(), "Q2_K", out.path(), &options);
    assert!(tensor_bytes(&kept) == expected);

    // Gram matrices come on top, and take nothing away.
    more.push("--with-gram");
    let run = analyze(&tiny_llama(), &path, &more).expect_code(0);
    assert!(run.stderr.contains("tokens/s"), "{}", run.stderr);
    assert_eq!(sha256(&path), reference);
    assert!(fs::metadata(folder.join(&blocks[0])).unwrap().len() > first);

    // Another text is another folder.
    let other = [
        "--calibration-cache",
        &cache_text,
        "--calibration-samples",
        "9",
        "--overwrite",
    ];
    let run = super::analyze(&tiny_llama(), &path, &other);
    run.expect_code(0);
    assert_eq!(names(&cache).len(), 2);
}

#[test]
fn damaged_files_are_made_again() {
    let out = tempfile::tempdir().unwrap();
    let cache = out.path().join("cache");
    let (cache_text, path) = (text(&cache), out.path().join("i.gguf"));
    let more = ["--calibration-cache", &cache_text, "--overwrite"];
    analyze(&tiny_llama(), &path, &more).expect_code(0);
    let reference = sha256(&path);
    let folder = inside(&cache);
    for name in names(&folder) {
        let file = folder.join(&name);
        let whole = fs::read(&file).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"", b"no safetensors"] {
            fs::write(&file, bytes).unwrap();
            analyze(&tiny_llama(), &path, &more).expect_code(0);
            assert_eq!(sha256(&path), reference, "{name}");
            // The order of its metadata is not fixed.
            assert_eq!(fs::read(&file).unwrap().len(), whole.len(), "{name}");
        }
    }
}

#[test]
fn a_number_that_changed_is_noticed() {
    let out = tempfile::tempdir().unwrap();
    let cache = out.path().join("cache");
    let (cache_text, path) = (text(&cache), out.path().join("i.gguf"));
    let more = ["--calibration-cache", &cache_text, "--overwrite"];
    analyze(&tiny_llama(), &path, &more).expect_code(0);
    let file = inside(&cache).join("block-0002.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = analyze(&tiny_llama(), &path, &more).expect_code(6);
    let message = super::message(&error);
    assert!(message.contains("block 2"), "{message}");
    fs::remove_file(&file).unwrap();
    analyze(&tiny_llama(), &path, &more).expect_code(0);
}
