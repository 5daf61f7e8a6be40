//! The tests of a crate with fuzz targets: its seeds, and small changes to them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::mutate::{self, Random};
use crate::{Seed, Target};

/// Set to write the seeds instead of comparing them.
const WRITE: &str = "LLM_QUANTIZE_WRITE_SEEDS";

/// The seeds of a target.
fn folder(of_crate: &str, target: &str) -> PathBuf {
    Path::new(of_crate).join("seeds").join(target)
}

/// Compares the stored seeds of the crate in this folder with those that its code generates. Those
/// that a fuzzer found lie beside them.
pub fn seeds(of_crate: &str, generated: Vec<Seed>) {
    let write = std::env::var_os(WRITE).is_some();
    for (target, name, bytes) in generated {
        let folder = folder(of_crate, target);
        let path = folder.join(name);
        if write {
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(&path, &bytes).expect("space on the disk");
        }
        assert!(
            fs::read(&path).is_ok_and(|stored| stored == bytes),
            "{}: run this test with {WRITE}=1",
            path.display()
        );
    }
}

/// Hands every stored seed, and so many changes to each, to its reader.
pub fn readers(of_crate: &str, targets: &[Target], changes: u64) {
    for (target, read) in targets {
        let seeds = fs::read_dir(folder(of_crate, target)).expect("seeds");
        let seeds = seeds.map(|entry| entry.expect("an entry").path());
        let mut seeds: Vec<PathBuf> = seeds.collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for path in seeds {
            let seed = fs::read(&path).expect("a seed");
            read(&seed);
            for number in 0..changes {
                let changed = mutate::any(&seed, &mut Random::new(number));
                // Told if it is the last one.
                let told = Told(&path, number);
                read(&changed);
                std::mem::forget(told);
            }
        }
    }
}

/// Names a change while a panic passes.
struct Told<'a>(&'a Path, u64);

impl Drop for Told<'_> {
    #[allow(clippy::print_stderr)] // a test's words
    fn drop(&mut self) {
        eprintln!("change {} to {}", self.1, self.0.display());
    }
}
