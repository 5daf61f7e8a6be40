//! The plugins of this run: found once, loaded when a command needs them.

use std::path::PathBuf;
use std::sync::Arc;

use llm_quantize_plugin_api::abi::{import, load};
use llm_quantize_plugin_api::metadata::PluginMetadata;
use llm_quantize_plugin_api::{Converter, FormatDescription, Host, Quantizer};

use super::discovery::{Found, State, discover};
use super::guarded::Guarded;
use super::search::{SearchFolder, search_folders};
use crate::error::{Error, ExitCode, PluginResult, Result};
use crate::fatal::{Culprit, in_plugin};

/// A loaded plugin.
pub struct Plugin {
    /// What it says about itself.
    pub metadata: PluginMetadata,
    /// Its library.
    pub path: PathBuf,
    /// Writes its formats, if it can.
    pub quantizer: Option<Box<dyn Quantizer>>,
    /// Reads its formats, if it can.
    pub converter: Option<Arc<dyn Converter>>,
}

impl Plugin {
    /// All formats that it writes.
    pub fn formats(&self) -> Vec<FormatDescription> {
        self.quantizer
            .as_ref()
            .map(|q| q.formats())
            .unwrap_or_default()
    }
}

/// All plugins that were found.
pub struct Registry {
    folders: Vec<SearchFolder>,
    found: Vec<Found>,
}

impl Registry {
    /// Looks into all plugin folders. Runs no plugin.
    pub fn discover(plugin_dirs: &[PathBuf]) -> Self {
        let folders = search_folders(plugin_dirs);
        let found = discover(&folders);
        Self { folders, found }
    }

    /// Everything that was found, in search order.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// The plugins that can be used.
    fn usable(&self) -> impl Iterator<Item = (&Found, &PluginMetadata)> {
        self.found
            .iter()
            .filter(|found| found.state == State::Ok)
            .filter_map(|found| Some((found, found.metadata.as_ref()?)))
    }

    /// Names of all formats, in search order.
    pub fn formats(&self) -> Vec<&str> {
        let formats = self.usable().flat_map(|(_, metadata)| &metadata.formats);
        formats.map(String::as_str).collect()
    }

    /// Loads the plugin that has a format.
    ///
    /// # Errors
    /// If none has it (the error lists those that there are), or it does not load.
    pub fn load_format(&self, format: &str, host: &Host) -> Result<Plugin> {
        let owner = self
            .usable()
            .find(|(_, metadata)| metadata.formats.iter().any(|f| f == format));
        let Some((found, metadata)) = owner else {
            return Err(self.unknown("plugin has the format", format));
        };
        load_plugin(found, metadata, host)
    }

    /// Loads the plugin with an id.
    ///
    /// # Errors
    /// As [`load_format`](Self::load_format).
    pub fn load_id(&self, id: &str, host: &Host) -> Result<Plugin> {
        let Some((found, metadata)) = self.usable().find(|(_, metadata)| metadata.id == id) else {
            return Err(self.unknown("plugin is called", id));
        };
        load_plugin(found, metadata, host)
    }

    /// Loads all plugins, to ask each whether it can read a model. One that fails is
    /// reported to `failed` and passed over: it must not stop the others.
    pub fn load_all(&self, host: &Host, failed: impl Fn(Error)) -> Vec<Plugin> {
        self.usable()
            .filter_map(|(found, metadata)| {
                load_plugin(found, metadata, host).map_err(&failed).ok()
            })
            .collect()
    }

    /// No plugin fits: lists what there is, and why others were refused.
    fn unknown(&self, what: &str, name: &str) -> Error {
        let refused: Vec<String> = self
            .found
            .iter()
            .filter_map(|found| Some((found, found.state.reason()?)))
            .filter(|(found, _)| matches!(found.state, State::Refused(_)))
            .map(|(found, reason)| format!("{} {reason}", found.path.display()))
            .collect();
        let mut message = format!("no {what} \"{name}\"");
        if !refused.is_empty() {
            message.push_str(&format!(" (refused: {})", refused.join("; ")));
        }
        let hint = match self.formats().as_slice() {
            [] => {
                let searched: Vec<String> = self
                    .folders
                    .iter()
                    .map(|f| f.path.display().to_string())
                    .collect();
                format!("no plugins were found in {}", searched.join(", "))
            }
            formats => format!("installed formats: {}", formats.join(", ")),
        };
        Error::new(ExitCode::PluginUnavailable, message).suggest(hint)
    }
}

/// Opens the library and makes the plugin's objects.
fn load_plugin(found: &Found, metadata: &PluginMetadata, host: &Host) -> Result<Plugin> {
    let culprit = Culprit::from(metadata.id.as_str());
    // From here on its code runs, the library's own initialisers first.
    let _mark = in_plugin(Some(culprit));
    let loaded = load::load(&found.path).map_err(|error| {
        Error::new(
            ExitCode::PluginUnavailable,
            format!(
                "plugin \"{}\" ({}) {error}",
                metadata.id,
                found.path.display()
            ),
        )
        .suggest("rebuild the plugin against this program's plugin API, or remove it")
    })?;
    let id = &metadata.id;
    let quantizer = import::quantizer(loaded.module, host).by_plugin(id)?;
    let converter = import::converter(loaded.module, host).by_plugin(id)?;
    Ok(Plugin {
        quantizer: quantizer.map(|made| Box::new(Guarded::new(culprit, made)) as _),
        converter: converter.map(|made| Arc::new(Guarded::new(culprit, made)) as _),
        metadata: metadata.clone(),
        path: found.path.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::InlineHost;

    #[test]
    fn an_unknown_format_lists_what_there_is_and_what_was_refused() {
        let dir = tempfile::tempdir().unwrap();
        let junk = dir
            .path()
            .join(format!("junk.{}", std::env::consts::DLL_EXTENSION));
        std::fs::write(&junk, "text").unwrap();
        let registry = Registry::discover(&[dir.path().to_owned()]);
        let error = match registry.load_format("no-such-format", &Host::new(InlineHost)) {
            Ok(_) => panic!("there is no such format"),
            Err(error) => error,
        };
        assert_eq!(error.class, ExitCode::PluginUnavailable);
        assert!(error.message.contains("no-such-format"));
        assert!(error.message.contains("junk"), "{}", error.message);
        assert!(error.suggestion.is_some());
    }
}
