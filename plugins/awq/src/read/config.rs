//! What a folder says about how it is quantized.

use llm_quantize_plugin_api::hf_config::Config;
use llm_quantize_plugin_api::hf_folder::quantized::{
    self, check_words, group_size, quantizer, unsupported,
};
use llm_quantize_plugin_api::hf_folder::{CONFIG, QUANTIZATION};
use llm_quantize_plugin_api::{Error, FileView, Result};
use serde_json::Value;

use crate::layout::Version;
use crate::levels::BITS;
use crate::{FORMAT, NAME};

/// Files that hold the quantization alone: AutoAWQ's first versions wrote the one, and vLLM reads
/// both.
const ALONE: [&str; 2] = ["quant_config.json", "quantize_config.json"];

/// How a folder is quantized, for layers without another word; which groups a layer has in fact
/// its tensors' shapes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantization {
    /// Inputs of a group; a whole row if `None`.
    pub group_size: Option<usize>,
    /// How codes and zeros are arranged.
    pub version: Version,
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
    /// If it says nothing about AWQ, or that of another kind than what can be read here.
    pub fn of(files: &[FileView<'_>]) -> Result<Self> {
        let section = section(files)?.ok_or_else(|| {
            Error::corrupt(format!(
                "neither \"{CONFIG}\" nor \"{}\" says that the weights are quantized by AWQ",
                ALONE[0]
            ))
        })?;
        Self::read(&Config::new(&section, QUANTIZATION))
    }

    fn read(section: &Config<'_>) -> Result<Self> {
        let bits = match section.count("w_bit")? {
            Some(bits) => bits,
            None => section.require_count("bits")?,
        };
        if bits != u64::from(BITS) {
            return Err(unsupported(NAME, &format!("{bits} bits"), "4 bits"));
        }
        check_words(section, NAME)?;
        Ok(Self {
            group_size: group_size(section, &["group_size", "q_group_size"])?,
            version: version(section)?,
            quantizer: quantizer(section),
        })
    }
}

/// AutoAWQ says `version`, GPTQModel `format` and `checkpoint_format`. The folders of the original
/// program, llm-awq, are known by `backend`.
fn version(section: &Config<'_>) -> Result<Version> {
    let mut name = Version::Gemm.name();
    for key in ["version", "checkpoint_format", "format"] {
        if let Some(said) = section.text(key)? {
            name = said;
            break;
        }
    }
    let other = section
        .text("backend")?
        .filter(|backend| *backend == "llm-awq");
    let name = other.unwrap_or(name);
    Version::find(name).ok_or_else(|| {
        let known = Version::ALL.map(Version::name).join(", ");
        unsupported(NAME, &format!("the layout \"{name}\""), &known)
    })
}

/// The object that describes an AWQ quantization.
fn section(files: &[FileView<'_>]) -> Result<Option<Value>> {
    // AutoAWQ's own configuration did not name the method.
    quantized::section(files, FORMAT, &ALONE, |section| {
        section.get("w_bit").is_some() && section.get("q_group_size").is_some()
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
        // AutoAWQ 0.2.9.
        let found = of(
            CONFIG,
            &json!({"quantization_config": {
                "bits": 4, "group_size": 64, "modules_to_not_convert": null,
                "quant_method": "awq", "version": "gemm", "zero_point": true,
            }}),
        )
        .unwrap();
        assert_eq!((found.version, found.group_size), (Version::Gemm, Some(64)));

        // Its first versions, in a file of their own.
        let found = of(
            ALONE[0],
            &json!({"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMV"}),
        )
        .unwrap();
        assert_eq!(
            (found.version, found.group_size),
            (Version::Gemv, Some(128))
        );

        // GPTQModel's.
        let found = of(
            CONFIG,
            &json!({"quantization_config": {
                "bits": 4, "group_size": -1, "quant_method": "awq", "method": "awq",
                "format": "gemv_fast", "checkpoint_format": "gemv_fast", "pack_dtype": "int32",
                "sym": false, "zero_point": true, "meta": {"quantizer": ["gptqmodel:7.7.0"]},
            }}),
        )
        .unwrap();
        assert_eq!((found.version, found.group_size), (Version::GemvFast, None));
        assert_eq!(found.quantizer.as_deref(), Some("gptqmodel:7.7.0"));
    }

    #[test]
    fn others_are_refused_by_name() {
        let base = json!({"bits": 4, "group_size": 128, "quant_method": "awq"});
        for (key, value, what) in [
            ("bits", json!(8), "8 bits"),
            ("bits", json!("4"), "\"bits\""),
            ("bits", json!(null), "\"bits\""),
            ("group_size", json!(0), "\"group_size\" is 0"),
            ("group_size", json!(null), "missing"),
            ("pack_dtype", json!("int16"), "int16"),
            ("version", json!("marlin"), "\"marlin\""),
            ("backend", json!("llm-awq"), "\"llm-awq\""),
            ("quant_method", json!("gptq"), "says that"),
        ] {
            let mut section = base.clone();
            section[key] = value;
            let error = of(CONFIG, &json!({"quantization_config": section})).unwrap_err();
            assert!(error.message.contains(what), "{key}: {error}");
        }
    }
}
