//! What every plugin must do.

use llm_quantize_gptq::quantize::GptqQuantizer;
use llm_quantize_gptq::read::GptqConverter;
use llm_quantize_plugin_api::{Host, InlineHost, conformance};

#[test]
fn it_conforms() {
    let host = || Host::new(InlineHost);
    let (quantizer, converter) = (GptqQuantizer::new(host()), GptqConverter::new(host()));
    let findings = conformance::check(Some(&quantizer), Some(&converter));
    assert!(findings.is_empty(), "{findings:#?}");
}
