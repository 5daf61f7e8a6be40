//! The user's configuration file, as far as it is about plugins.
//!
//! `<config folder>/llm-quantize/config.json`:
//!
//! ```json
//! {"plugins": {"pins": {"gguf": "<SHA-256 of the library, in hexadecimal>"}}}
//! ```
//!
//! A file that is there must be right: a pin that is silently ignored would protect
//! nobody.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, ExitCode, Result};
use crate::output::hex;
use crate::source::read_small;

/// No configuration is longer.
const MAX_CONFIG: u64 = 1 << 20;

/// The configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What concerns plugins.
    pub plugins: PluginConfig,
}

/// What concerns plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginConfig {
    /// The only library that may be used for an id: its SHA-256.
    pub pins: BTreeMap<String, Pin>,
}

/// A SHA-256 in lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pin(String);

impl TryFrom<String> for Pin {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit()) {
            true => Ok(Self(text.to_ascii_lowercase())),
            false => Err(format!("a pin is 64 hexadecimal digits, not \"{text}\"")),
        }
    }
}

impl Config {
    /// Where the user's file lies, if the user has a place for such.
    pub fn path() -> Option<PathBuf> {
        Some(dirs::config_dir()?.join("llm-quantize/config.json"))
    }

    /// The user's configuration; the default if there is no file.
    ///
    /// # Errors
    /// If there is a file that cannot be read or understood.
    pub fn load() -> Result<Self> {
        Self::path().map_or_else(|| Ok(Self::default()), |path| Self::read(&path))
    }

    /// # Errors
    /// As [`load`](Self::load).
    fn read(path: &Path) -> Result<Self> {
        if let Err(error) = std::fs::metadata(path)
            && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        {
            return Ok(Self::default());
        }
        let bytes = read_small(path, MAX_CONFIG)
            .map_err(|error| error.class(ExitCode::InvalidArguments))?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::invalid_arguments(format!(
                "the configuration file {} is not valid: {error}",
                path.display()
            ))
            .suggest("correct the file, or remove it to do without")
        })
    }
}

impl PluginConfig {
    /// Compares a library with the pin of its id.
    ///
    /// # Errors
    /// One sentence that goes on after the library's path: it cannot be read, or it is
    /// another file than the pinned one.
    pub fn check(&self, id: &str, library: &Path) -> Result<(), String> {
        let Some(Pin(pinned)) = self.pins.get(id) else {
            return Ok(());
        };
        let hash = sha256(library).map_err(|error| format!("cannot be read: {error}"))?;
        match hash == *pinned {
            true => Ok(()),
            false => Err(format!(
                "is not the library that is pinned for \"{id}\": its SHA-256 is {hash}, the pin is {pinned}"
            )),
        }
    }
}

/// SHA-256 of a file in lower-case hexadecimal.
fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of "abc" (FIPS 180-4).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn read(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn a_pin_names_the_only_library() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("x.so");
        std::fs::write(&library, "abc").unwrap();
        let text = format!(
            r#"{{"plugins": {{"pins": {{"x": "{}"}}}}}}"#,
            ABC.to_uppercase()
        );
        let config = read(&text).unwrap().plugins;
        assert_eq!(config.check("x", &library), Ok(()));
        std::fs::write(&library, "abcd").unwrap();
        let reason = config.check("x", &library).unwrap_err();
        assert!(
            reason.contains(ABC) && reason.contains("88d4266fd4e6338d"),
            "{reason}"
        );
        assert_eq!(config.check("y", &library), Ok(()));
    }

    #[test]
    fn no_file_is_no_configuration() {
        assert_eq!(
            Config::read(Path::new("/no/such/file")).unwrap(),
            Config::default()
        );
        assert_eq!(read("{}").unwrap(), Config::default());
    }

    #[test]
    fn what_is_not_understood_is_an_error_that_names_it() {
        for (text, named) in [
            ("", "config.json"),
            (r#"{"plugin": {}}"#, "`plugin`"),
            (r#"{"plugins": {"pin": {}}}"#, "`pin`"),
            (r#"{"plugins": {"pins": {"x": "12"}}}"#, "\"12\""),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.class, ExitCode::InvalidArguments);
            assert!(error.message.contains(named), "{}", error.message);
        }
        assert!(Config::read(Path::new("/")).is_err());
    }
}
