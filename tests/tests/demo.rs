//! The README's first command.

#![allow(clippy::unwrap_used)] // what cannot be had fails the test

use llm_quantize_tests::run;

#[test]
fn the_demo_prints_a_row_for_each_level() {
    let run = run(["demo"]).expect_code(0);
    for level in ["F16", "Q8_0", "Q6_K", "Q4_K_M", "Q2_K"] {
        assert!(run.stdout.contains(level), "{}", run.stdout);
    }
    let bits: Vec<f64> = run
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().rev().nth(2)?.parse().ok())
        .collect();
    assert!(bits.len() >= 5, "{}", run.stdout);
}
