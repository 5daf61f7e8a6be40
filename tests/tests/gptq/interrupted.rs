//! Killed runs: the next one goes on after the last finished block, with the same bytes.

use llm_quantize_tests::killed;

#[test]
fn a_killed_run_goes_on_after_the_last_finished_block() {
    killed::goes_on_after_the_last_finished_block("gptq", &["seconds"]);
}
