//! See `folder` in `plugins/awq/fuzz/src/lib.rs`.
#![no_main]

use llm_quantize_fuzz_kit::mutate::{Random, any};

libfuzzer_sys::fuzz_target!(|data: &[u8]| llm_quantize_awq_fuzz::folder(data));

// Bytes changed at will rarely leave a header whose parts fit each other.
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let changed = any(&data[..size], &mut Random::new(seed.into()));
    let size = changed.len().min(max_size);
    data[..size].copy_from_slice(&changed[..size]);
    size
});
