//! What a folder says about how it is quantized.

use llm_quantize_plugin_api::hf_config::Config;
use llm_quantize_plugin_api::hf_folder::quantized::{
    self, check_words, group_size, quantizer, unsupported,
};
use llm_quantize_plugin_api::hf_folder::{CONFIG, QUANTIZATION};
use llm_quantize_plugin_api::{Error, FileView, Result};
use serde_json::Value;

use crate::layout::Version;
use crate::{FORMAT, NAME};

/// Files that hold the quantization alone, as AutoGPTQ wrote them.
const ALONE: &str = "quantize_config.json";

/// How a folder is quantized, for layers without another word; what a layer has in fact its
/// tensors' shapes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// Bits of a code.
    pub bits: u32,
    /// Inputs of a group; a whole row if `None`.
    pub group_size: Option<usize>,
    /// How zeros are stored.
    pub version: Version,
    /// Whether all zeros are in the middle, if that is said.
    pub symmetric: Option<bool>,
    /// Whether columns were quantized in the order of their activations, with groups in that
    /// order.
    pub activation_order: bool,
    /// The program that made it.
    pub quantizer: Option<String>,
}

impl Quantization {
    /// Whether a folder says that it is quantized so; says nothing about whether it can be read.
    #[must_use]
    pub fn is_declared(files: &[FileView<'_>]) -> bool {
        section(files).is_ok_and(|section| section.is_some())
    }

    /// What a folder says.
    ///
    /// # Errors
    /// If it says nothing about GPTQ, or that of another kind than what can be read here.
    pub fn of(files: &[FileView<'_>]) -> Result<Self> {
        let section = section(files)?.ok_or_else(|| {
            Error::corrupt(format!(
                "neither \"{CONFIG}\" nor \"{ALONE}\" says that the weights are quantized by GPTQ"
            ))
        })?;
        Self::read(&Config::new(&section, QUANTIZATION))
    }

    fn read(section: &Config<'_>) -> Result<Self> {
        let bits = section.require_count("bits")?;
        let bits = u32::try_from(bits).unwrap_or(u32::MAX);
        if !matches!(bits, 2 | 3 | 4 | 8) {
            let what = format!("{bits} bits");
            return Err(unsupported(NAME, &what, "2, 3, 4 and 8 bits"));
        }
        check_words(section, NAME)?;
        let format = section.text("checkpoint_format")?;
        let format = format.or(section.text("format")?).unwrap_or(FORMAT);
        let marlin = section.flag("is_marlin_format")?.unwrap_or(false);
        let version = Version::find(format).filter(|_| !marlin);
        let version = version.ok_or_else(|| {
            let format = if marlin { "marlin" } else { format };
            unsupported(
                NAME,
                &format!("the layout \"{format}\""),
                "gptq and gptq_v2",
            )
        })?;
        Ok(Self {
            bits,
            group_size: group_size(section, &["group_size"])?,
            version,
            symmetric: section.flag("sym")?,
            activation_order: section.flag("desc_act")?.unwrap_or(false),
            quantizer: quantizer(section),
        })
    }
}

/// The object that describes a GPTQ quantization.
fn section(files: &[FileView<'_>]) -> Result<Option<Value>> {
    // The first versions of AutoGPTQ did not name the method.
    quantized::section(files, FORMAT, &[ALONE], |section| {
        section.get("bits").is_some() && section.get("desc_act").is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(name: &str, document: &Value) -> Result<Quantization> {
        let text = document.to_string();
        Quantization::of(&[FileView {
            name,
            bytes: text.as_bytes(),
        }])
    }

    #[test]
    fn configurations_of_several_writers_are_read() {
        let found = of(
            CONFIG,
            &json!({"quantization_config": {
                "bits": 4, "group_size": 64, "desc_act": false, "sym": true, "lm_head": false,
                "quant_method": "gptq", "checkpoint_format": "gptq", "pack_dtype": "int32",
                "meta": {"quantizer": ["gptqmodel:7.7.0"]},
            }}),
        )
        .unwrap();
        assert_eq!(found.version, Version::V1);
        assert_eq!((found.bits, found.group_size), (4, Some(64)));
        assert_eq!(found.quantizer.as_deref(), Some("gptqmodel:7.7.0"));

        // AutoGPTQ before it named the method, in a file of its own.
        let found = of(
            ALONE,
            &json!({"bits": 3, "group_size": -1, "damp_percent": 0.01, "desc_act": true,
                    "static_groups": false, "sym": false, "true_sequential": true,
                    "model_name_or_path": null, "model_file_base_name": null}),
        )
        .unwrap();
        assert!(found.activation_order && found.group_size.is_none());
        assert_eq!((found.bits, found.symmetric), (3, Some(false)));

        // AutoRound's export.
        let found = of(
            CONFIG,
            &json!({"quantization_config": {
                "bits": 4, "group_size": 128, "sym": true, "desc_act": false,
                "quant_method": "gptq", "provider": "auto-round", "damp_percent": 0.01,
                "true_sequential": false, "format": "gptq_v2",
            }}),
        )
        .unwrap();
        assert_eq!(found.version, Version::V2);
        assert_eq!(found.quantizer.as_deref(), Some("auto-round"));
    }

    #[test]
    fn others_are_refused_by_name() {
        let base = json!({"bits": 4, "group_size": 128, "desc_act": false, "quant_method": "gptq"});
        for (key, value, what) in [
            ("bits", json!(5), "5 bits"),
            ("bits", json!("4"), "\"bits\""),
            ("bits", json!(null), "\"bits\""),
            ("group_size", json!(0), "\"group_size\" is 0"),
            ("group_size", json!(null), "missing"),
            ("pack_dtype", json!("int16"), "int16"),
            ("checkpoint_format", json!("bitblas"), "\"bitblas\""),
            ("is_marlin_format", json!(true), "\"marlin\""),
            ("quant_method", json!("awq"), "says that"),
        ] {
            let mut section = base.clone();
            section[key] = value;
            let error = of(CONFIG, &json!({"quantization_config": section})).unwrap_err();
            assert!(error.message.contains(what), "{key}: {error}");
        }
    }

    #[test]
    fn what_the_configuration_says_comes_first() {
        let config = json!({"quantization_config": {"quant_method": "awq"}}).to_string();
        let alone = json!({"bits": 4, "group_size": 128, "desc_act": false}).to_string();
        let files = [
            FileView {
                name: CONFIG,
                bytes: config.as_bytes(),
            },
            FileView {
                name: ALONE,
                bytes: alone.as_bytes(),
            },
        ];
        assert!(!Quantization::is_declared(&files));
        assert!(Quantization::is_declared(&files[1..]));
        assert!(!Quantization::is_declared(&[]));
    }
}
