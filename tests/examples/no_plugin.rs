//! A library that is no plugin.

/// Something to export.
#[unsafe(no_mangle)]
pub extern "C" fn llm_quantize_tests_answer() -> u32 {
    42
}
