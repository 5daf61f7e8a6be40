//! Throughput of the block codecs in weights per second, beside ggml's where
//! `LLM_QUANTIZE_GGML_LIB` names its shared library:
//! `cargo bench --bench blocks -- encode/Q4_K`.

#![allow(missing_docs)] // criterion's macros

#[path = "../tests/blocks_support/mod.rs"]
mod blocks_support;

use std::hint::black_box;
use std::time::Duration;

use blocks_support::ggml::Ggml;
use blocks_support::rows::{Kind, Random, importance};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llm_quantize_gguf::blocks::{BlockType, decode_row_on, encode_row_on};
use llm_quantize_plugin_api::kernels::simd::Level;

const COLS: usize = 4096;
const ROWS: usize = 8;

fn encode(criterion: &mut Criterion) {
    let ggml = Ggml::load();
    let mut random = Random(1);
    let rows = Kind::Normal.row(ROWS * COLS, &mut random);
    let weights = importance(0, COLS, &mut random);
    for ty in BlockType::all() {
        for (label, weights) in [("encode", None), ("encode-importance", Some(&weights[..]))] {
            let mut group = criterion.benchmark_group(format!("{label}/{ty}"));
            group.throughput(Throughput::Elements(rows.len() as u64));
            let row_bytes = ty.row_bytes(COLS).unwrap_or(0);
            let mut out = vec![0; ROWS * row_bytes];
            for level in Level::all() {
                group.bench_function(level.name(), |b| {
                    b.iter(|| {
                        for (row, out) in rows.chunks(COLS).zip(out.chunks_mut(row_bytes)) {
                            let result = encode_row_on(level, ty, black_box(row), weights, out);
                            assert_eq!(result, Ok(()));
                        }
                    });
                });
            }
            if let Some(ggml) = &ggml {
                group.bench_function("ggml", |b| {
                    b.iter(|| ggml.quantize(ty, black_box(&rows), COLS, weights, &mut out));
                });
            }
            group.finish();
        }
    }
}

fn decode(criterion: &mut Criterion) {
    let ggml = Ggml::load();
    let mut random = Random(2);
    for ty in BlockType::all() {
        let mut group = criterion.benchmark_group(format!("decode/{ty}"));
        group.throughput(Throughput::Elements(COLS as u64));
        // Random codes; the exponents of scales are cleared to keep them finite.
        let row_bytes = ty.row_bytes(COLS).unwrap_or(0);
        let bytes: Vec<u8> = (0..row_bytes).map(|_| random.bits() as u8 & 0x3f).collect();
        let mut out = vec![0.0; COLS];
        for level in Level::all() {
            group.bench_function(level.name(), |b| {
                b.iter(|| {
                    let result = decode_row_on(level, ty, black_box(&bytes), &mut out);
                    assert_eq!(result, Ok(()));
                });
            });
        }
        if let Some(ggml) = &ggml {
            group.bench_function("ggml", |b| {
                b.iter(|| ggml.decode_into(ty, black_box(&bytes), &mut out));
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20);
    targets = encode, decode
}
criterion_main!(benches);
