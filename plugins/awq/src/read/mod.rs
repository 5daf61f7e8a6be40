//! Reading AWQ folders: as they are, or as a Hugging Face model.
//!
//! * [`config`]: what a folder says about itself; [`folder`]: its layers.

pub mod config;
pub mod folder;

use llm_quantize_plugin_api::hf_folder::quantized::FolderReader;
use llm_quantize_plugin_api::{Converter, FileView, Host, ModelView, Reader, Result};

use config::Quantization;
use folder::Folder;

use crate::FORMAT;

/// Reads AWQ folders.
pub struct AwqConverter;

impl AwqConverter {
    /// A converter on a host, which it does not need.
    pub fn new(_host: Host) -> Self {
        Self
    }
}

impl Converter for AwqConverter {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        let weights = files.iter().any(|file| file.name.ends_with(".safetensors"));
        weights && Quantization::is_declared(files)
    }

    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        let Folder {
            quantization,
            layers,
        } = Folder::open(files)?;
        let facts = facts(&quantization);
        Ok(Box::new(FolderReader::new(
            FORMAT, facts, layers, files, view,
        )))
    }
}

/// What `info` shows beyond the usual.
fn facts(quantization: &Quantization) -> Vec<(String, String)> {
    let group = quantization.group_size;
    let group = group.map_or_else(|| "a whole row".into(), |size| size.to_string());
    let mut facts = vec![
        ("layout", quantization.version.name().to_owned()),
        ("group size", group),
    ];
    let quantizer = quantization.quantizer.clone();
    facts.extend(quantizer.map(|name| ("quantizer", name)));
    let facts = facts.into_iter();
    facts
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
