//! Opens models: Hugging Face folders by itself, everything else through the
//! converters of plugins.

mod base;
pub mod config;
mod files;
#[cfg(test)]
pub(crate) mod fixtures;
mod links;
mod locate;
mod map;
mod model;
mod plugin;
mod safetensors;
#[cfg(test)]
pub(crate) mod test_plugin;
mod weights;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use llm_quantize_plugin_api::Converter;

pub(crate) use files::is_side_file;
pub use locate::{Located, locate};
pub(crate) use locate::{all_parts, unknown_folder};
pub use map::MappedFile;
pub use model::SourceModel;
pub use weights::parse_index;
pub(crate) use weights::{INDEX, SINGLE, shard_names};

use crate::error::{Error, Result};

/// A converter with the name of the plugin that it comes from.
#[derive(Clone)]
pub struct NamedConverter {
    /// The plugin's id, for messages.
    pub plugin: String,
    /// The plugin's version.
    pub version: String,
    /// The converter.
    pub converter: Arc<dyn Converter>,
}

impl std::fmt::Debug for NamedConverter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NamedConverter").field(&self.plugin).finish()
    }
}

/// Reads a file that must not be longer than `limit`.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let read = |error| Error::io("read", path, error);
    if !std::fs::metadata(path).map_err(read)?.is_file() {
        return Err(Error::validation(format!(
            "{} is not a regular file",
            path.display()
        )));
    }
    let file = std::fs::File::open(path).map_err(read)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > limit {
        return Err(Error::validation(format!(
            "{} is longer than {limit} bytes, which no such file is",
            path.display()
        )));
    }
    Ok(bytes)
}
