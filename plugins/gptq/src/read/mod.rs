//! Reading GPTQ folders: as they are, or as a Hugging Face model.
//!
//! * [`config`]: what a folder says about itself; [`folder`]: its layers.

pub mod config;
pub mod folder;
mod reader;

use llm_quantize_plugin_api::{Converter, FileView, Host, ModelView, Reader, Result};

use config::Quantization;
use folder::Folder;
use reader::GptqReader;

/// Reads GPTQ folders.
pub struct GptqConverter;

impl GptqConverter {
    /// A converter on a host, which it does not need.
    pub fn new(_host: Host) -> Self {
        Self
    }
}

impl Converter for GptqConverter {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        let weights = files.iter().any(|file| file.name.ends_with(".safetensors"));
        weights && Quantization::is_declared(files)
    }

    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        let folder = Folder::open(files)?;
        Ok(Box::new(GptqReader::new(folder, files, view)))
    }
}
