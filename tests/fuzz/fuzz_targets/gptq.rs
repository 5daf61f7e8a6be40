//! See the function of the same name in `tests/fuzz/src/lib.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| llm_quantize_fuzz::gptq(data));
