//! What every plugin must do.

use llm_quantize_awq::quantize::AwqQuantizer;
use llm_quantize_awq::read::AwqConverter;
use llm_quantize_plugin_api::{Host, InlineHost, conformance};

#[test]
fn it_conforms() {
    let host = || Host::new(InlineHost);
    let (quantizer, converter) = (AwqQuantizer::new(host()), AwqConverter::new(host()));
    let findings = conformance::check(Some(&quantizer), Some(&converter));
    assert!(findings.is_empty(), "{findings:#?}");
}
