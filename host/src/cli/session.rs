//! What commands need that touch models: threads, plugins, and the user's interrupt.

use std::sync::Arc;

use llm_quantize_plugin_api::{FormatDescription, Host, Inputs, ModelView, Quantizer};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use super::Context;
use crate::convert::hf;
use crate::error::{Error, ExitCode, Result};
use crate::job::{CancelFlag, PluginId, Threads, services};
use crate::plugins::{Plugin, Registry};
use crate::source::{Located, NamedConverter, SourceModel, locate};

/// The name of the format that the host writes itself, as a plugin's.
const BUILT_IN: &str = "built-in";

/// Threads and plugins of a run.
pub struct Session<'a> {
    context: &'a Context,
    /// The threads.
    pub threads: Threads,
    /// Set by an interrupt.
    pub cancel: CancelFlag,
    host: Host,
    registry: Registry,
}

/// Who writes a format.
pub struct Target {
    /// The plugin.
    pub plugin: PluginId,
    /// The format's name.
    pub format: String,
    /// What plans and encodes.
    pub quantizer: Box<dyn Quantizer>,
}

impl Target {
    /// The format's levels and options.
    ///
    /// # Errors
    /// If the plugin does not have the format that its metadata promises.
    pub fn description(&self) -> Result<FormatDescription> {
        let formats = self.quantizer.formats();
        let found = formats
            .into_iter()
            .find(|format| format.name == self.format);
        found.ok_or_else(|| {
            Error::new(
                ExitCode::PluginUnavailable,
                format!(
                    "plugin \"{}\" has no format \"{}\"",
                    self.plugin.id, self.format
                ),
            )
        })
    }

    /// Refuses a level that the format does not have.
    ///
    /// # Errors
    /// With the list of those that it has.
    pub fn check_level(&self, level: &str) -> Result<()> {
        self.description()?.require_level(level)?;
        Ok(())
    }
}

impl<'a> Session<'a> {
    /// Starts the threads and looks for plugins; from here on an interrupt sets the
    /// flag, and a second one ends the process.
    ///
    /// # Errors
    /// If the system refuses threads or the handler.
    pub fn start(context: &'a Context) -> Result<Self> {
        let threads = Threads::new(context.threads)?;
        let cancel = CancelFlag::default();
        handle_interrupts(&cancel)
            .map_err(|error| Error::other(format!("cannot handle interrupts: {error}")))?;
        let host = services(&threads, &cancel, Arc::clone(&context.ui) as _);
        let registry = Registry::discover(&context.plugin_dirs);
        for found in registry.found() {
            let reason = found.state.reason().unwrap_or_default();
            let (path, state) = (found.path.display(), found.state.word());
            context
                .ui
                .debug(&format!("plugin {path}: {state} {reason}"));
        }
        Ok(Self {
            context,
            threads,
            cancel,
            host,
            registry,
        })
    }

    /// Finds who writes a format.
    ///
    /// # Errors
    /// If nobody does, or the plugin does not load.
    pub fn target(&self, format: &str) -> Result<Target> {
        let format = format.to_ascii_lowercase();
        if format == hf::FORMAT {
            return Ok(Target {
                plugin: PluginId {
                    id: BUILT_IN.into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                },
                format,
                quantizer: Box::new(hf::HuggingFace),
            });
        }
        let plugin = self.registry.load_format(&format, &self.host)?;
        let (id, version) = (plugin.metadata.id, plugin.metadata.version);
        match plugin.quantizer {
            Some(quantizer) => Ok(Target {
                plugin: PluginId { id, version },
                format,
                quantizer,
            }),
            None => Err(Error::new(
                ExitCode::PluginUnavailable,
                format!("plugin \"{id}\" can read {format} but not write it"),
            )),
        }
    }

    /// Names of all formats that plugins have.
    pub fn formats(&self) -> Vec<String> {
        let formats = self.registry.formats().into_iter();
        formats.map(str::to_owned).collect()
    }

    /// Finds a plugin by its id or by one of its formats, and loads it.
    ///
    /// # Errors
    /// If there is none, or it does not load.
    pub fn plugin(&self, name: &str) -> Result<Plugin> {
        let by_id = self.registry.load_id(name, &self.host);
        match by_id {
            Err(error) if self.registry.formats().contains(&name) => self
                .registry
                .load_format(name, &self.host)
                .map_err(|_| error),
            found => found,
        }
    }

    /// Finds a model and who reads it.
    ///
    /// # Errors
    /// If there is none, or nobody reads it.
    pub fn locate(&self, model: &str) -> Result<Located> {
        let warn = |error: Error| self.context.ui.warn(&error.message);
        let plugins = self.registry.load_all(&self.host, warn);
        let converters: Vec<NamedConverter> = plugins
            .into_iter()
            .filter_map(|plugin| {
                Some(NamedConverter {
                    plugin: plugin.metadata.id,
                    version: plugin.metadata.version,
                    converter: plugin.converter?,
                })
            })
            .collect();
        locate(model, &converters)
    }

    /// Opens a model in the view that its target works on best: a plugin reads its
    /// own format natively, so that nothing is lost in translation.
    ///
    /// # Errors
    /// As [`locate`](Self::locate), and what the reader says.
    pub fn open(&self, model: &str, target: &Target) -> Result<SourceModel> {
        self.context.ui.info(&format!("Loading model: {model}"));
        let located = self.locate(model)?;
        if located.plugin() != Some(&target.plugin.id) {
            return located.open(ModelView::HuggingFace);
        }
        let native = located.open(ModelView::Native)?;
        if native.model().format == target.format {
            return Ok(native);
        }
        // A plugin with several formats, of which the source has another one.
        self.locate(model)?.open(ModelView::HuggingFace)
    }
}

fn handle_interrupts(cancel: &CancelFlag) -> std::io::Result<()> {
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal sets the flag, which arms the second.
        let code = i32::from(ExitCode::Interrupted.code());
        flag::register_conditional_shutdown(signal, code, cancel.shared())?;
        flag::register(signal, cancel.shared())?;
    }
    // A file that grows over `ulimit -f` is an error with a message, not a death.
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}
