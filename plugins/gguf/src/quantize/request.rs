//! The options of the format (`--set KEY=VALUE`), in llama-quantize's words.

use llm_quantize_plugin_api::hf_folder::quantized::options::repacking_refuses;
use llm_quantize_plugin_api::{Error, OptionInfo, OptionType, PlanRequest, Result};

use crate::blocks::BlockType;
use crate::mixture::{MixtureOptions, TypeOverride};
use crate::shards;

/// What the user asked for beyond the level.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Wishes about tensor types.
    pub mixture: MixtureOptions,
    /// Quantize what is quantized already.
    pub allow_requantize: bool,
    /// Split into files of at most so many bytes of tensor data.
    pub split_max_size: Option<u64>,
}

const OUTPUT_TYPE: &str = "output-tensor-type";
const EMBEDDING_TYPE: &str = "token-embedding-type";
const TENSOR_TYPE: &str = "tensor-type";
const PURE: &str = "pure";
const KEEP_OUTPUT: &str = "leave-output-tensor";
const REQUANTIZE: &str = "allow-requantize";
const SPLIT: &str = "split-max-size";

/// The options, for `plugin info` and for checks.
pub fn options() -> Vec<OptionInfo> {
    let option = |key: &str, value_type, default: &str, help: &str| OptionInfo {
        key: key.into(),
        value_type,
        default: default.into(),
        help: help.into(),
        repeatable: key == TENSOR_TYPE,
    };
    let types = || {
        let all = BlockType::all();
        OptionType::Choice(all.map(|ty| ty.name().to_lowercase()).collect())
    };
    vec![
        option(OUTPUT_TYPE, types(), "the level's", "type of output.weight"),
        option(
            EMBEDDING_TYPE,
            types(),
            "the level's",
            "type of the token embeddings",
        ),
        option(
            TENSOR_TYPE,
            OptionType::Text("REGEX=TYPE, e.g. attn_v=q6_k".into()),
            "none",
            "type of the tensors whose name the pattern matches; the first match counts",
        ),
        option(
            PURE,
            OptionType::Bool,
            "false",
            "the level's base type for every tensor, no mixture",
        ),
        option(
            KEEP_OUTPUT,
            OptionType::Bool,
            "false",
            "leave output.weight unquantized",
        ),
        option(
            REQUANTIZE,
            OptionType::Bool,
            "false",
            "quantize tensors that are quantized already (costs quality)",
        ),
        option(
            SPLIT,
            OptionType::Text("a size such as 500M or 2G (powers of 1000)".into()),
            "one file",
            "split into files of at most this much tensor data",
        ),
    ]
}

/// Refuses options about types of tensors whose groups are repacked: those decide.
///
/// # Errors
/// With the first of them.
pub fn refuse_mixing(request: &PlanRequest) -> Result<()> {
    repacking_refuses(request, &[TENSOR_TYPE, PURE, KEEP_OUTPUT])
}

impl Wishes {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// If a type, pattern or size cannot be understood.
    pub fn from_request(request: &PlanRequest, imatrix: bool) -> Result<Self> {
        let invalid = |error: &dyn std::fmt::Display| Error::invalid_request(error.to_string());
        let block_type = |key: &str| {
            let name = request.option(key);
            name.map(|name| BlockType::from_name(name).map_err(|e| invalid(&e)))
                .transpose()
        };
        let tensor_types = request
            .option_values(TENSOR_TYPE)
            .map(|text| TypeOverride::parse(text).map_err(|e| invalid(&e)))
            .collect::<Result<Vec<_>>>()?;
        let split = request.option(SPLIT);
        Ok(Self {
            mixture: MixtureOptions {
                output_type: block_type(OUTPUT_TYPE)?,
                token_embedding_type: block_type(EMBEDDING_TYPE)?,
                tensor_types,
                pure: request.flag(PURE),
                keep_output: request.flag(KEEP_OUTPUT),
                imatrix,
            },
            allow_requantize: request.flag(REQUANTIZE) || request.requantize,
            split_max_size: split
                .map(|text| shards::parse_size(text).map_err(|e| invalid(&e)))
                .transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(options: &[(&str, &str)]) -> PlanRequest {
        PlanRequest {
            options: options
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            ..PlanRequest::default()
        }
    }

    #[test]
    fn options_are_read() {
        let wishes = Wishes::from_request(
            &request(&[
                ("output-tensor-type", "q8_0"),
                ("tensor-type", "attn_v=q6_k"),
                ("tensor-type", "ffn=q5_0"),
                ("pure", "true"),
                ("split-max-size", "2G"),
            ]),
            true,
        )
        .unwrap();
        assert_eq!(wishes.mixture.output_type, Some(BlockType::Q8_0));
        assert_eq!(wishes.mixture.tensor_types.len(), 2);
        assert!(wishes.mixture.pure && wishes.mixture.imatrix && !wishes.allow_requantize);
        assert_eq!(wishes.split_max_size, Some(2_000_000_000));
    }

    #[test]
    fn nonsense_is_an_invalid_request() {
        use llm_quantize_plugin_api::ErrorKind::InvalidRequest;
        for (key, value) in [
            ("output-tensor-type", "q99"),
            ("tensor-type", "attn_v"),
            ("tensor-type", "(=q4_0"),
            ("split-max-size", "big"),
        ] {
            let error = Wishes::from_request(&request(&[(key, value)]), false).unwrap_err();
            assert_eq!(error.kind, InvalidRequest, "{key}={value}");
        }
    }

    #[test]
    fn every_option_is_declared_once() {
        let keys: std::collections::HashSet<_> = options().into_iter().map(|o| o.key).collect();
        assert_eq!(keys.len(), 7);
    }
}
