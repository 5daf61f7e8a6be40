//! The reader of AWQ folders, for fuzzers and mutation tests: any bytes must lead to a result or an
//! error, never to a panic, an abort, an endless loop or an allocation that the bytes do not justify.

// What cannot be had here is a finding.
#![allow(clippy::expect_used)]

pub mod seeds;

use std::sync::OnceLock;

use llm_quantize_awq::quantize::AwqQuantizer;
use llm_quantize_awq::read::AwqConverter;
use llm_quantize_fuzz_kit::{MemoryModel, Target, bundle, host, look_at, plan, tiny};
use llm_quantize_plugin_api::hf_folder::SINGLE;
use llm_quantize_plugin_api::{Converter, Job, ModelView, Quantizer};

/// The reader. The name is that of the fuzz target and of the folder of seeds.
pub const TARGETS: [Target; 1] = [("awq", folder)];

/// A folder as a bundle of its files: both views, files, some rows, plans to quantize it again,
/// and whether it is what a job of this program wrote.
pub fn folder(data: &[u8]) {
    let Some(files) = bundle::folder(data, SINGLE) else {
        return;
    };
    let views = bundle::views(&files);
    let converter = AwqConverter::new(host());
    converter.detect(&views);
    for view in [ModelView::Native, ModelView::HuggingFace] {
        let Ok(reader) = converter.open(&views, view) else {
            continue;
        };
        look_at(&*reader, &views);
        let model = MemoryModel::of_reader(&*reader, &views);
        let quantizer = AwqQuantizer::new(host());
        plan(&quantizer, &model, seeds::rounding(32));
        plan(&quantizer, &model, seeds::searching(-1));
    }
    let _ = job().verify(&views);
}

/// The job of [`seeds::FIRST`].
fn job() -> &'static dyn Job {
    static JOB: OnceLock<Box<dyn Job>> = OnceLock::new();
    let job = JOB.get_or_init(|| {
        let quantizer = AwqQuantizer::new(host());
        let job = quantizer.plan(&tiny::model(tiny::WIDTH), &seeds::rounding(32));
        job.expect("the model can be quantized")
    });
    &**job
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_seed_is_what_the_job_writes() {
        let (_, name, data) = seeds::all().remove(0);
        assert_eq!(name, seeds::FIRST);
        let files = bundle::split(&data, "");
        assert_eq!(job().verify(&bundle::views(&files)), Ok(()));
    }

    #[test]
    fn every_seed_is_a_folder() {
        for (_, name, data) in seeds::all() {
            let files = bundle::split(&data, "");
            let views = bundle::views(&files);
            let reader = AwqConverter::new(host()).open(&views, ModelView::HuggingFace);
            assert!(reader.is_ok(), "{name}: {:?}", reader.err());
        }
    }
}
