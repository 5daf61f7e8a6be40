#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| llm_quantize_fuzz::gguf(data));
