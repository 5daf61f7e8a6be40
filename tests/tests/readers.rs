//! The fuzz targets' functions with their seeds and small changes to them: a few seconds of what
//! `tests/fuzz` does for hours, with any compiler.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use std::fs;
use std::path::PathBuf;

use llm_quantize_fuzz::mutate::{self, Random};
use llm_quantize_fuzz::{TARGETS, Target, seeds};
use llm_quantize_tests::{names, root};

/// Changes to each seed.
const CHANGES: u64 = 200;

fn folder(target: &str) -> PathBuf {
    root().join("tests/fuzz/seeds").join(target)
}

/// Every seed of the tree: those that are generated and those that a fuzzer found.
fn stored(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder(target);
    let read = |name: String| {
        let bytes = fs::read(folder.join(&name)).unwrap();
        (name, bytes)
    };
    names(&folder).into_iter().map(read).collect()
}

/// With `LLM_QUANTIZE_WRITE_SEEDS=1` the seeds are written instead of compared.
#[test]
fn the_seeds_are_the_generated_ones() {
    let write = std::env::var_os("LLM_QUANTIZE_WRITE_SEEDS").is_some();
    for (target, name, bytes) in seeds::all() {
        let path = folder(target).join(name);
        if write {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(
            fs::read(&path).is_ok_and(|stored| stored == bytes),
            "{}: run this test with LLM_QUANTIZE_WRITE_SEEDS=1",
            path.display()
        );
    }
}

#[test]
fn every_seed_and_changes_to_it_are_read_or_refused() {
    for (name, read) in TARGETS {
        for (seed, bytes) in stored(name) {
            println!("{name}/{seed}");
            read(&bytes);
            change((name, read), &bytes);
        }
    }
}

fn change((name, read): Target, bytes: &[u8]) {
    for number in 0..CHANGES {
        let mut random = Random::new(number);
        let text = matches!(name, "index" | "tokenizer" | "config" | "corpus");
        let changed = match text && number % 2 == 0 {
            true => mutate::json(bytes, &mut random),
            false => mutate::bytes(bytes, &mut random),
        };
        read(&changed);
    }
}
