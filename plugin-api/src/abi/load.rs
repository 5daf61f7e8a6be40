//! Opening a plugin library.
//!
//! Each library is opened by its own path: abi_stable's `load_from_file` keeps one
//! module per *type* and would hand out the first plugin for every later file.

use std::path::Path;

use abi_stable::StableAbi;
use abi_stable::library::{AbiHeaderRef, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use libloading::Library;
use thiserror::Error;

use super::layout::{self, Compatibility};
use super::raw::PluginModuleRef;
use crate::version::{INTERFACE_VERSION, parse_interface_version};

/// Why a library cannot be used as a plugin.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The system's loader refused it.
    #[error("cannot be loaded: {0}")]
    Open(String),
    /// It has no plugin entry point.
    #[error("is not an llm-quantize plugin: it does not export the plugin entry point")]
    NotAPlugin,
    /// It was built with another abi_stable.
    #[error("was built with an incompatible abi_stable: {0}")]
    AbiStable(String),
    /// Its interface has another major version.
    #[error(
        "has interface version {plugin}, this program has {INTERFACE_VERSION}: the majors must be equal"
    )]
    Major {
        /// The plugin's interface version.
        plugin: String,
    },
    /// Its interface differs from ours although the major version is the same.
    #[error("has an incompatible interface: {0}")]
    Layout(String),
    /// Its constructor failed.
    #[error("failed to start: {0}")]
    Start(String),
}

/// A loaded plugin's root.
#[derive(Clone, Copy)]
pub struct Loaded {
    /// The root module.
    pub module: PluginModuleRef,
    /// How its interface relates to ours.
    pub compatibility: Compatibility,
}

/// Loads a plugin library. It is never unloaded: threads and thread-local
/// destructors may still refer to its code.
///
/// Runs the library's code; check that it can be trusted first.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    // SAFETY: loading runs the library's initialisers; that the library may be run
    // at all is the caller's decision, made before this call.
    let library =
        unsafe { Library::new(path) }.map_err(|error| LoadError::Open(with_cause(&error)))?;
    // Leaked before anything refers into it, so that the references stay valid.
    let library: &'static Library = Box::leak(Box::new(library));
    let symbol = ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes();
    // SAFETY: abi_stable exports its header under this name; `upgrade` below checks
    // the header's magic number and version before anything else is read.
    let header = unsafe { library.get::<AbiHeaderRef>(symbol) }
        .map(|found| *found)
        .map_err(|_| LoadError::NotAPlugin)?;
    let header = header
        .upgrade()
        .map_err(|error| LoadError::AbiStable(first_line(&error.to_string())))?;

    check_major(header.version_strings().version.as_str())?;
    let plugin_layout = header
        .layout()
        .ok_or_else(|| LoadError::Layout("it hides its layout".into()))?;
    let host_layout = <PluginModuleRef as StableAbi>::LAYOUT;
    let compatibility = layout::compare(host_layout, plugin_layout).map_err(LoadError::Layout)?;
    // SAFETY: `compare` has just proved that one layout is a prefix of the other;
    // prefix accessors give defaults for what the shorter one lacks.
    let module = unsafe { header.unchecked_layout::<PluginModuleRef>() }
        .map_err(|error| LoadError::Start(first_line(&error.to_string())))?;
    Ok(Loaded {
        module,
        compatibility,
    })
}

/// `version` is `MAJOR.MINOR.PATCH` of the interface crate.
fn check_major(version: &str) -> Result<(), LoadError> {
    let theirs = version.rsplit_once('.').map_or(version, |(front, _)| front);
    let major = |text| parse_interface_version(text).map(|(major, _)| major);
    if major(theirs).is_some() && major(theirs) == major(INTERFACE_VERSION) {
        return Ok(());
    }
    Err(LoadError::Major {
        plugin: theirs.to_owned(),
    })
}

/// An error with what caused it: the system's loader names the missing piece there.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", first_line(&cause.to_string())),
        None => error.to_string(),
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or("no reason given").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn majors_must_be_equal() {
        let (major, minor) = parse_interface_version(INTERFACE_VERSION).unwrap();
        assert!(check_major(&format!("{major}.{}.0", minor + 7)).is_ok());
        assert!(matches!(
            check_major(&format!("{}.0.0", major + 1)),
            Err(LoadError::Major { .. })
        ));
        assert!(check_major("nonsense").is_err());
    }

    #[test]
    fn what_is_no_plugin_is_refused() {
        let dir = std::env::temp_dir().join("llm-quantize-not-a-library.so");
        std::fs::write(&dir, b"text").unwrap();
        let error = load(&dir).err().unwrap();
        assert!(matches!(error, LoadError::Open(_)));
        assert!(error.to_string().contains("not-a-library.so"), "{error}");
        let libc = Path::new("libc.so.6");
        assert!(matches!(load(libc), Err(LoadError::NotAPlugin)));
    }
}
