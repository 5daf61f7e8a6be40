//! The plugins of this run: found once, probed and loaded when a command needs them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use llm_quantize_plugin_api::abi::{import, load};
use llm_quantize_plugin_api::metadata::PluginMetadata;
use llm_quantize_plugin_api::{Converter, FormatDescription, Host, Quantizer};

use super::config::{Config, PluginConfig};
use super::discovery::{Found, Rules, State, discover};
use super::guarded::Guarded;
use super::probe::Prober;
use super::search::{SearchFolder, search_folders};
use super::trust::Asker;
use super::verdicts::{Entry, Stamp, Verdict, Verdicts};
use crate::error::{Error, ExitCode, PluginResult, Result};
use crate::fatal::{Culprit, in_plugin};
use crate::output::reserve_stdout;

/// A loaded plugin.
pub struct Plugin {
    /// What it says about itself.
    pub metadata: PluginMetadata,
    /// Its library.
    pub path: PathBuf,
    /// Writes its formats, if it can.
    pub quantizer: Option<Arc<dyn Quantizer>>,
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
    verdicts: Verdicts,
    prober: Prober,
    /// By path; a plugin is loaded once, whoever needs it.
    loaded: Mutex<HashMap<PathBuf, Arc<Plugin>>>,
}

impl Registry {
    /// Looks into all plugin folders. Runs no plugin.
    ///
    /// # Errors
    /// If the user's configuration is not valid.
    pub fn discover(plugin_dirs: &[PathBuf]) -> Result<Self> {
        let config = Config::load()?.plugins;
        let folders = search_folders(plugin_dirs);
        let prober = Prober::from_environment()?;
        Ok(Self::new(folders, &config, Verdicts::open(), prober))
    }

    fn new(
        folders: Vec<SearchFolder>,
        config: &PluginConfig,
        verdicts: Verdicts,
        prober: Prober,
    ) -> Self {
        let rules = Rules {
            asker: &Asker::this_process(),
            config,
            verdicts: &verdicts,
        };
        Self {
            found: discover(&folders, &rules),
            folders,
            verdicts,
            prober,
            loaded: Mutex::default(),
        }
    }

    /// The folders that were searched, in order.
    pub fn folders(&self) -> &[SearchFolder] {
        &self.folders
    }

    /// Everything that was found, in search order.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Where verdicts are kept.
    pub fn verdicts_file(&self) -> Option<&Path> {
        self.verdicts.file()
    }

    /// Forgets what probing said, and returns it.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub fn forget(&self, which: impl Fn(&Path, &Entry) -> bool) -> Result<Vec<(PathBuf, Entry)>> {
        self.verdicts.forget(which)
    }

    /// The first plugin of each id.
    fn firsts(&self) -> impl Iterator<Item = (&Found, &PluginMetadata)> {
        self.found
            .iter()
            .filter(|found| found.first)
            .filter_map(|found| Some((found, found.metadata.as_ref()?)))
    }

    /// Names of the formats of all plugins that can be used, as far as is known, in
    /// search order.
    pub fn formats(&self) -> Vec<&str> {
        let usable = self.firsts().filter(|(found, _)| found.state == State::Ok);
        let formats = usable.flat_map(|(_, metadata)| &metadata.formats);
        formats.map(String::as_str).collect()
    }

    /// Loads the plugin that has a format.
    ///
    /// # Errors
    /// If none has it (the error lists those that there are), or it does not load.
    pub fn load_format(&self, format: &str, host: &Host) -> Result<Arc<Plugin>> {
        let owner = self
            .firsts()
            .find(|(_, metadata)| metadata.formats.iter().any(|f| f == format));
        let Some((found, metadata)) = owner else {
            return Err(self.unknown("plugin has the format", format));
        };
        self.load(found, metadata, host)
    }

    /// Loads the plugin with an id, or else the one that has a format of this name.
    ///
    /// # Errors
    /// As [`load_format`](Self::load_format).
    pub fn load_named(&self, name: &str, host: &Host) -> Result<Arc<Plugin>> {
        let by_id = self.firsts().find(|(_, metadata)| metadata.id == name);
        let has = |metadata: &PluginMetadata| metadata.formats.iter().any(|f| f == name);
        let named = by_id.or_else(|| self.firsts().find(|(_, metadata)| has(metadata)));
        let Some((found, metadata)) = named else {
            return Err(self.unknown("plugin is called", name));
        };
        self.load(found, metadata, host)
    }

    /// Loads all plugins, to ask each whether it can read a model. One that fails is
    /// reported to `failed` and passed over: it must not stop the others.
    pub fn load_all(&self, host: &Host, failed: impl Fn(Error)) -> Vec<Arc<Plugin>> {
        self.firsts()
            .filter_map(|(found, metadata)| self.load(found, metadata, host).map_err(&failed).ok())
            .collect()
    }

    /// Probes a plugin if need be, opens its library and makes its objects; all of that
    /// once. (The objects keep the host that they were first made with.)
    fn load(&self, found: &Found, metadata: &PluginMetadata, host: &Host) -> Result<Arc<Plugin>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&found.path) {
            return Ok(Arc::clone(plugin));
        }
        match self.probe(found, metadata)? {
            Verdict::Ok => {}
            Verdict::Refused { reason } => return Err(unusable(found, metadata, &reason)),
            Verdict::Quarantined { reason } => {
                let reason = format!("is quarantined: it {reason}");
                return Err(unusable(found, metadata, &reason));
            }
        }
        let plugin = Arc::new(open(found, metadata, host)?);
        loaded.insert(found.path.clone(), Arc::clone(&plugin));
        Ok(plugin)
    }

    fn probe(&self, found: &Found, metadata: &PluginMetadata) -> Result<Verdict> {
        if let Some(known) = self.verdicts.get(&found.path) {
            return Ok(known);
        }
        // Before the probe: if the file changes meanwhile, the verdict does not hold.
        let stamp = Stamp::of(&found.path);
        let probed = self.prober.probe(&found.path)?;
        if let (Some(stamp), true) = (stamp, probed.lasting) {
            let verdict = probed.verdict.clone();
            self.verdicts.put(&found.path, stamp, &metadata.id, verdict);
        }
        Ok(probed.verdict)
    }

    /// No plugin fits: lists what there is, and why others were refused.
    fn unknown(&self, what: &str, name: &str) -> Error {
        let refused: Vec<String> = self
            .found
            .iter()
            .filter_map(|found| Some((found, found.state.reason()?)))
            .filter(|(found, _)| matches!(found.state, State::Refused(_) | State::Quarantined(_)))
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

/// A plugin that is not loaded.
fn unusable(found: &Found, metadata: &PluginMetadata, reason: &str) -> Error {
    let (id, path) = (&metadata.id, found.path.display());
    let message = format!("plugin \"{id}\" ({path}) {reason}");
    Error::new(ExitCode::PluginUnavailable, message).suggest(format!(
        "update the plugin or remove it; `llm-quantize plugin reset {id}` has it probed again"
    ))
}

/// Opens the library and makes the plugin's objects.
fn open(found: &Found, metadata: &PluginMetadata, host: &Host) -> Result<Plugin> {
    let culprit = Culprit::from(metadata.id.as_str());
    // From here on its code runs, the library's own initialisers first.
    let _mark = in_plugin(Some(culprit));
    // What a library prints must not get between the results.
    reserve_stdout();
    let loaded =
        load::load(&found.path).map_err(|error| unusable(found, metadata, &error.to_string()))?;
    let id = &metadata.id;
    let quantizer = import::quantizer(loaded.module, host).by_plugin(id)?;
    let converter = import::converter(loaded.module, host).by_plugin(id)?;
    Ok(Plugin {
        quantizer: quantizer.map(|made| Arc::new(Guarded::new(culprit, made)) as _),
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
        let folder = SearchFolder {
            path: dir.path().to_owned(),
            prefix: "",
            reason: "test",
        };
        let registry = Registry::new(
            vec![folder],
            &PluginConfig::default(),
            Verdicts::at(None),
            Prober::from_environment().unwrap(),
        );
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
