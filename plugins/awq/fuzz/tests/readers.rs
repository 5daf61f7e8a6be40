//! The reader with its seeds and small changes to them: a few seconds of what fuzzing does for
//! hours, with any compiler.

use llm_quantize_awq_fuzz::{TARGETS, seeds};
use llm_quantize_fuzz_kit::check;

#[test]
fn the_seeds_are_the_generated_ones() {
    check::seeds(env!("CARGO_MANIFEST_DIR"), seeds::all());
}

#[test]
fn every_seed_and_changes_to_it_are_read_or_refused() {
    check::readers(env!("CARGO_MANIFEST_DIR"), &TARGETS, 1000);
}
