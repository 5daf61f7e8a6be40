//! The built-in model: what `demo` quantizes.

use std::path::Path;

use crate::error::{Error, Result};

/// Folder name of the model, and so its name.
pub const NAME: &str = "tiny-llama";

/// A Llama of 4.2 million parameters, trained for this project (see NOTICE).
const FILES: [(&str, &[u8]); 5] = [
    (
        "config.json",
        include_bytes!("../../../tests/fixtures/tiny-llama/config.json"),
    ),
    (
        "generation_config.json",
        include_bytes!("../../../tests/fixtures/tiny-llama/generation_config.json"),
    ),
    (
        "model.safetensors",
        include_bytes!("../../../tests/fixtures/tiny-llama/model.safetensors"),
    ),
    (
        "tokenizer.json",
        include_bytes!("../../../tests/fixtures/tiny-llama/tokenizer.json"),
    ),
    (
        "tokenizer_config.json",
        include_bytes!("../../../tests/fixtures/tiny-llama/tokenizer_config.json"),
    ),
];

/// Writes the model into a folder that exists.
///
/// # Errors
/// If a file cannot be written.
pub fn write_model(folder: &Path) -> Result<()> {
    for (name, bytes) in FILES {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|error| Error::io("write", &path, error))?;
    }
    Ok(())
}
