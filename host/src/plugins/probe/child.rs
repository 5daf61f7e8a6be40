//! The probing process: loads one library, says what came of it, ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use llm_quantize_plugin_api::abi::import;
use llm_quantize_plugin_api::abi::load::{self, LoadError};
use llm_quantize_plugin_api::metadata::{self, PluginMetadata};
use llm_quantize_plugin_api::{Converter, Host, InlineHost, Quantizer, conformance};

use super::message::{Message, Probed};
use super::{COMMAND, Depth};
use crate::plugins::verdicts::Verdict;
use crate::source::MappedFile;

/// Does the work of a probing process if the arguments ask for it, and returns its exit
/// code. Must come before everything else that the program does, argument parsing too:
/// the command appears neither in the help nor in the manual nor in completions.
pub fn serve(arguments: &[OsString]) -> Option<u8> {
    let [_, command, depth, library] = arguments else {
        return None;
    };
    let depth = Depth::parse(depth.to_str()?)?;
    if command != COMMAND {
        return None;
    }
    let Ok(mut parent) = Parent::connect() else {
        return Some(1);
    };
    let told = parent
        .tell(&Message::Started)
        .and_then(|()| work(&mut parent, depth, Path::new(library)));
    Some(u8::from(told.is_err()))
}

/// The private line to the parent.
struct Parent(File);

impl Parent {
    /// Takes stdout for the messages, and makes what is printed from now on go where
    /// stderr goes.
    #[cfg(unix)]
    fn connect() -> io::Result<Self> {
        use std::os::fd::AsFd;
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(io::stderr().as_fd())?;
        limit();
        Ok(Self(File::from(stdout)))
    }

    #[cfg(not(unix))]
    fn connect() -> io::Result<Self> {
        Err(io::Error::from(io::ErrorKind::Unsupported))
    }

    fn tell(&mut self, message: &Message) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }
}

/// No core files for crashes that are expected, and no process that outlives its parent.
#[cfg(unix)]
fn limit() {
    use rustix::process::{Resource, Rlimit, Signal, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Both are only tidiness; probing works without.
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    #[cfg(not(target_os = "linux"))]
    let _ = Signal::KILL;
}

fn work(parent: &mut Parent, depth: Depth, library: &Path) -> io::Result<()> {
    let plugin = match load(library) {
        Ok(plugin) => plugin,
        Err(probed) => return parent.tell(&Message::Probed(probed)),
    };
    parent.tell(&Message::Probed(Probed::lasting(Verdict::Ok)))?;
    if depth == Depth::Probe {
        return Ok(());
    }
    let mut lost = Ok(());
    let findings = conformance::check_reporting(
        plugin.quantizer.as_deref(),
        plugin.converter.as_deref(),
        &mut |context| {
            let context = context.to_owned();
            if let Err(error) = parent.tell(&Message::Checking { context }) {
                lost = Err(error);
            }
        },
    );
    lost.and_then(|()| parent.tell(&Message::Checked { findings }))
}

struct Loaded {
    quantizer: Option<Box<dyn Quantizer>>,
    converter: Option<Box<dyn Converter>>,
}

fn load(library: &Path) -> Result<Loaded, Probed> {
    let metadata = read_metadata(library).map_err(refused)?;
    let loaded = load::load(library).map_err(|error| match error {
        LoadError::Start(_) => quarantined(error.to_string()),
        // Perhaps a library that it needs is missing today.
        LoadError::Open(_) => Probed {
            lasting: false,
            ..refused(error.to_string())
        },
        _ => refused(error.to_string()),
    })?;
    let host = Host::new(InlineHost);
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error| quarantined(format!("failed while its {what} was made: {error}"))
    };
    let made = Loaded {
        quantizer: import::quantizer(loaded.module, &host).map_err(failed("quantizer"))?,
        converter: import::converter(loaded.module, &host).map_err(failed("converter"))?,
    };
    keeps_its_promises(&metadata, &made).map_err(refused)?;
    Ok(made)
}

fn read_metadata(library: &Path) -> Result<PluginMetadata, String> {
    let file = MappedFile::open(library).map_err(|error| error.to_string())?;
    metadata::read(file.bytes()).map_err(|error| error.to_string())
}

/// Compares what a plugin can do with what its metadata says.
fn keeps_its_promises(metadata: &PluginMetadata, plugin: &Loaded) -> Result<(), String> {
    let Some(quantizer) = &plugin.quantizer else {
        return match plugin.converter {
            Some(_) => Ok(()),
            None => Err("can neither write nor read a format".into()),
        };
    };
    let written: Vec<String> = quantizer.formats().into_iter().map(|f| f.name).collect();
    if let Some(name) = written.iter().find(|name| !metadata.formats.contains(name)) {
        return Err(format!(
            "writes the format \"{name}\", which its metadata does not name"
        ));
    }
    let missing = metadata.formats.iter().find(|name| !written.contains(name));
    match (missing, &plugin.converter) {
        (Some(name), None) => Err(format!(
            "does not have the format \"{name}\" that its metadata promises"
        )),
        // It may be able to read more formats than it writes.
        _ => Ok(()),
    }
}

fn refused(reason: String) -> Probed {
    Probed::lasting(Verdict::Refused { reason })
}

fn quarantined(reason: String) -> Probed {
    Probed::lasting(Verdict::Quarantined { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_command_is_served() {
        for line in [
            "x",
            "x quantize m gguf",
            "x __plugin-probe probe",
            "x other probe /l",
        ] {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(serve(&arguments), None, "{line}");
        }
    }

    #[test]
    fn what_is_no_library_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let probed = load(file.path()).map(|_| ()).unwrap_err();
        assert!(matches!(probed.verdict, Verdict::Refused { .. }));
        assert!(probed.lasting);
    }
}
