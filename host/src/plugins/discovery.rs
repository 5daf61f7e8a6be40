//! What lies in the plugin folders, read without running any of it.

use std::collections::HashMap;
use std::env::consts::DLL_EXTENSION;
use std::fs;
use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::metadata::{self, PluginMetadata};
use llm_quantize_plugin_api::{INTERFACE_VERSION, parse_interface_version};

use super::config::PluginConfig;
use super::search::SearchFolder;
use super::trust::Asker;
use super::verdicts::{Verdict, Verdicts};
use crate::source::MappedFile;

/// The largest library that is looked at.
const MAX_LIBRARY: u64 = 1 << 30;

/// Whether a plugin can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It can.
    Ok,
    /// An earlier plugin has the same id.
    Shadowed {
        /// The one that wins.
        by: PathBuf,
    },
    /// It cannot, for this reason.
    Refused(String),
    /// Its code misbehaved when it was probed, in this way.
    Quarantined(String),
}

impl State {
    /// One word, for tables and JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Shadowed { .. } => "shadowed",
            Self::Refused(_) => "refused",
            Self::Quarantined(_) => "quarantined",
        }
    }

    /// Why it is not ok.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Ok => None,
            Self::Shadowed { by } => Some(format!("{} comes first", by.display())),
            Self::Refused(reason) | Self::Quarantined(reason) => Some(reason.clone()),
        }
    }
}

/// A library in a plugin folder.
#[derive(Debug, Clone)]
pub struct Found {
    /// The library.
    pub path: PathBuf,
    /// What it says about itself; `None` if that cannot be read.
    pub metadata: Option<PluginMetadata>,
    /// Whether it can be used.
    pub state: State,
    /// Whether it is the first of its id. It stays so if probing it goes wrong: which
    /// plugin an id means must not depend on what is in a cache.
    pub first: bool,
    /// What probing it said, if it was probed since it last changed.
    pub probed: Option<Verdict>,
}

/// What decides about a library without running it.
pub struct Rules<'a> {
    /// Who asks.
    pub asker: &'a Asker,
    /// The user's pins.
    pub config: &'a PluginConfig,
    /// What was found out before.
    pub verdicts: &'a Verdicts,
}

/// Lists the libraries of all folders, in order. Folders that do not exist are
/// passed over; so is a library that an earlier folder listed already.
pub fn discover(folders: &[SearchFolder], rules: &Rules<'_>) -> Vec<Found> {
    let mut all: Vec<Found> = Vec::new();
    let mut first_of: HashMap<String, PathBuf> = HashMap::new();
    for folder in folders {
        for path in libraries(folder) {
            if all.iter().any(|found| found.path == path) {
                continue;
            }
            let mut found = inspect(path, rules);
            if let (State::Ok, Some(metadata)) = (&found.state, &found.metadata) {
                match first_of.get(&metadata.id) {
                    Some(by) => found.state = State::Shadowed { by: by.clone() },
                    None => {
                        first_of.insert(metadata.id.clone(), found.path.clone());
                        found.first = true;
                        if let Some(state) = found.probed.as_ref().and_then(bad) {
                            found.state = state;
                        }
                    }
                }
            }
            all.push(found);
        }
    }
    all
}

/// The libraries of a folder, by name.
fn libraries(folder: &SearchFolder) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(&folder.path) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == DLL_EXTENSION))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(folder.prefix)
        })
        .map(|path| path.canonicalize().unwrap_or(path))
        .collect();
    paths.sort();
    paths
}

/// Looks at one library.
fn inspect(path: PathBuf, rules: &Rules<'_>) -> Found {
    let metadata = read(&path);
    let state = match &metadata {
        Ok(metadata) => judge(&path, metadata, rules),
        // Who is not trusted need not be a plugin.
        Err(reason) => Err(trusted(&path, rules)
            .err()
            .unwrap_or_else(|| reason.clone())),
    };
    Found {
        state: state.map_or_else(State::Refused, |()| State::Ok),
        metadata: metadata.ok(),
        first: false,
        probed: rules.verdicts.get(&path),
        path,
    }
}

/// All that can be said against a plugin without running it, as a sentence that goes on
/// after its path.
fn judge(path: &Path, metadata: &PluginMetadata, rules: &Rules<'_>) -> Result<(), String> {
    trusted(path, rules)?;
    compatible(metadata)?;
    rules.config.check(&metadata.id, path)
}

/// Whether a library's code may be run.
///
/// # Errors
/// One sentence that goes on after its path.
pub fn trusted(path: &Path, rules: &Rules<'_>) -> Result<(), String> {
    rules
        .asker
        .check(path)
        .map_err(|refusal| refusal.to_string())
}

/// The state that a verdict means, unless it is a good one.
fn bad(verdict: &Verdict) -> Option<State> {
    match verdict {
        Verdict::Ok => None,
        Verdict::Refused { reason } => Some(State::Refused(reason.clone())),
        Verdict::Quarantined { reason } => Some(State::Quarantined(reason.clone())),
    }
}

/// Reads one library's metadata.
///
/// # Errors
/// One sentence that goes on after its path.
pub fn read(path: &Path) -> Result<PluginMetadata, String> {
    let file = MappedFile::open(path).map_err(|error| error.to_string())?;
    if file.len() > MAX_LIBRARY {
        return Err(format!("is larger than {MAX_LIBRARY} bytes"));
    }
    metadata::read(file.bytes()).map_err(|error| error.to_string())
}

/// The first part of the compatibility check, which needs no code of the plugin; the
/// layouts are compared when it is loaded.
///
/// # Errors
/// One sentence that goes on after the library's path.
pub fn compatible(metadata: &PluginMetadata) -> Result<(), String> {
    let theirs = parse_interface_version(&metadata.interface_version);
    let ours = parse_interface_version(INTERFACE_VERSION);
    match theirs {
        Some((major, _)) if Some(major) == ours.map(|(major, _)| major) => Ok(()),
        _ => Err(format!(
            "has interface version {}, this program has {INTERFACE_VERSION}",
            metadata.interface_version
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &Path, prefix: &'static str) -> SearchFolder {
        SearchFolder {
            path: path.to_owned(),
            prefix,
            reason: "test",
        }
    }

    fn look(folders: &[SearchFolder]) -> Vec<Found> {
        let rules = Rules {
            asker: &Asker::this_process(),
            config: &PluginConfig::default(),
            verdicts: &Verdicts::at(None),
        };
        discover(folders, &rules)
    }

    #[test]
    fn what_is_no_plugin_is_listed_as_refused() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("junk.{DLL_EXTENSION}");
        fs::write(dir.path().join(&name), "text").unwrap();
        fs::write(dir.path().join("README.md"), "text").unwrap();
        let found = look(&[folder(dir.path(), "")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].state.word(), "refused");
        let reason = found[0].state.reason().unwrap();
        assert!(reason.contains("not a shared library"), "{reason}");
        assert!(look(&[folder(dir.path(), "libllm")]).is_empty());
    }

    #[test]
    fn other_majors_are_refused_before_loading() {
        let metadata = |version: &str| PluginMetadata {
            interface_version: version.into(),
            ..PluginMetadata::default()
        };
        let (major, minor) = parse_interface_version(INTERFACE_VERSION).unwrap();
        let newer = format!("{major}.{}", minor + 1);
        assert_eq!(compatible(&metadata(&newer)), Ok(()));
        let next = compatible(&metadata(&format!("{}.0", major + 1)));
        assert!(next.unwrap_err().contains(INTERFACE_VERSION));
        assert!(compatible(&metadata("?")).is_err());
    }

    #[test]
    fn missing_folders_are_passed_over() {
        assert!(look(&[folder(Path::new("/no/such/folder"), "")]).is_empty());
    }
}
