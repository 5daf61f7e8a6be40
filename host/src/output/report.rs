//! The JSON documents that every caller may rely on.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::Error;

/// Success of `quantize`. Fields are added, never taken away.
#[derive(Debug, Clone, Serialize)]
pub struct QuantizeReport {
    status: &'static str,
    /// The main file or the folder.
    pub output_path: String,
    /// Name of the format.
    pub format: String,
    /// Canonical name of the level.
    pub quantization_level: String,
    /// Bytes of all files.
    pub file_size: u64,
    /// `file_size` over the source's bytes.
    pub compression_ratio: f64,
    /// Wall time.
    pub duration_seconds: f64,
    /// Most resident memory of the process; 0 where the system does not say.
    pub peak_memory_bytes: u64,
    /// `valid`: an output that does not verify is an error.
    pub validation_status: &'static str,
    /// More figures.
    pub metadata: QuantizeMetadata,
}

/// More figures of a [`QuantizeReport`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct QuantizeMetadata {
    /// Type of most of the source's numbers, e.g. `bfloat16`.
    pub original_dtype: String,
    /// Bytes of the source's tensors.
    pub original_size: u64,
    /// Transformer blocks.
    pub layers_processed: u64,
    /// Of these, the ones that an earlier run had finished.
    pub layers_resumed: u64,
    /// Pieces that the work was cut into.
    pub pieces_total: u64,
    /// Of these, the ones that an earlier run had finished.
    pub pieces_resumed: u64,
    /// What a format measures of each layer: its name and the figures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Map<String, Value>>,
    /// Whatever else a format measures.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl QuantizeReport {
    /// A verified output; the remaining figures follow from these.
    pub fn success(
        output: &Path,
        format: &str,
        level: &str,
        file_size: u64,
        duration: std::time::Duration,
        metadata: QuantizeMetadata,
    ) -> Self {
        let ratio = match metadata.original_size {
            0 => 1.0,
            original => file_size as f64 / original as f64,
        };
        Self {
            status: "success",
            output_path: output.to_string_lossy().into_owned(),
            format: format.to_owned(),
            quantization_level: level.to_owned(),
            file_size,
            compression_ratio: (ratio * 1e4).round() / 1e4,
            duration_seconds: (duration.as_secs_f64() * 1e3).round() / 1e3,
            peak_memory_bytes: crate::system::peak_rss().unwrap_or(0),
            validation_status: "valid",
            metadata,
        }
    }
}

/// Failure of any command.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorReport<'a> {
    status: &'static str,
    error_code: u8,
    error_type: &'static str,
    message: &'a str,
    suggestion: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

impl<'a> ErrorReport<'a> {
    /// The document of an error.
    pub fn new(error: &'a Error) -> Self {
        Self {
            status: "error",
            error_code: error.class.code(),
            error_type: error.class.error_type(),
            message: &error.message,
            suggestion: error.advice(),
            details: error.details.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_documents_have_the_documented_fields() {
        let error = Error::model_not_found("no m").suggest("look");
        assert_eq!(
            serde_json::to_value(ErrorReport::new(&error)).unwrap(),
            json!({"status": "error", "error_code": 3, "error_type": "ModelNotFoundError",
                   "message": "no m", "suggestion": "look"})
        );
        let mut metadata = QuantizeMetadata {
            original_dtype: "bfloat16".into(),
            original_size: 400,
            layers_processed: 2,
            layers_resumed: 1,
            pieces_total: 9,
            pieces_resumed: 4,
            layers: Vec::new(),
            more: Map::new(),
        };
        metadata.more.insert("mse".into(), json!(0.5));
        let time = std::time::Duration::from_millis(1500);
        let report = |metadata| {
            QuantizeReport::success(Path::new("a/b"), "gguf", "Q8_0", 100, time, metadata)
        };
        let mut with_layers = metadata.clone();
        let layer = [
            ("name".to_owned(), json!("l")),
            ("e".to_owned(), json!(1.5)),
        ];
        with_layers.layers.push(Map::from_iter(layer));
        let value = serde_json::to_value(report(with_layers)).unwrap();
        let layers = &value["metadata"]["layers"];
        assert_eq!(*layers, json!([{"name": "l", "e": 1.5}]));
        let report = report(metadata);
        let mut value = serde_json::to_value(report).unwrap();
        assert!(value["peak_memory_bytes"].take().is_u64());
        assert_eq!(
            value,
            json!({"status": "success", "output_path": "a/b", "format": "gguf",
                   "quantization_level": "Q8_0", "file_size": 100, "compression_ratio": 0.25,
                   "duration_seconds": 1.5, "peak_memory_bytes": null,
                   "validation_status": "valid",
                   "metadata": {"original_dtype": "bfloat16", "original_size": 400,
                                "layers_processed": 2, "layers_resumed": 1, "pieces_total": 9,
                                "pieces_resumed": 4, "mse": 0.5}})
        );
    }
}
