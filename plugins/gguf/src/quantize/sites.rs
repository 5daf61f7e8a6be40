//! Where in a model the importance of a tensor's columns can be measured.

use llm_quantize_plugin_api::{Error, Result};

use crate::families::Family;
use crate::mixture::{is_quantized, layer_of};

/// Whether llama-imatrix measures a tensor if nobody asks for more: the weights of the linear
/// layers inside of the blocks.
pub fn is_measured(architecture: &str, name: &str, dims: &[u64]) -> bool {
    layer_of(name).is_some() && is_quantized(architecture, name, dims)
}

/// The Hugging Face name of the weight that GGUF calls so.
///
/// # Errors
/// If the architecture is unknown or has no such tensor: then no such model can be run.
pub fn site_of(family: Option<&Family>, architecture: &str, tensor: &str) -> Result<String> {
    family.and_then(|family| family.hf_name(tensor)).ok_or_else(|| {
        Error::unsupported(format!(
            "the importance of the tensor \"{tensor}\" cannot be measured: such a model (\"{architecture}\" in GGUF) cannot be run here"
        ))
        .suggest("leave out the calibration text, and name an importance matrix with --imatrix: llama-imatrix makes one")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::ErrorKind;

    #[test]
    fn linear_layers_of_blocks_are_measured() {
        for (name, dims, measured) in [
            ("blk.0.attn_q.weight", &[8, 8][..], true),
            ("blk.11.ffn_down.weight", &[8, 8], true),
            ("blk.0.attn_q.bias", &[8], false),
            ("blk.0.attn_norm.weight", &[8], false),
            ("output.weight", &[8, 8], false),
            ("token_embd.weight", &[8, 8], false),
        ] {
            assert_eq!(is_measured("llama", name, dims), measured, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        let llama = Family::for_gguf("llama", false, false).ok();
        let found = site_of(llama, "llama", "blk.3.ffn_up.weight").unwrap();
        assert_eq!(found, "model.layers.3.mlp.up_proj.weight");
        for (family, tensor) in [
            (llama, "blk.0.ffn_up_exps.weight"),
            (None, "blk.0.ffn_up.weight"),
        ] {
            let error = site_of(family, "falcon", tensor).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unsupported);
            assert!(
                error.message.contains(tensor) && error.message.contains("falcon"),
                "{error}"
            );
            assert!(error.suggestion.unwrap().contains("--imatrix"));
        }
    }
}
