//! What commands need that touch models: threads, plugins, and the user's interrupt.

use std::path::Path;
use std::sync::Arc;

use llm_quantize_plugin_api::{
    FormatDescription, Host, Inputs, ModelView, Purpose, Quantizer, Repacking,
};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

use super::Context;
use crate::convert::hf;
use crate::error::{Error, ExitCode, Result};
use crate::hub::{Hub, ModelId, Preview};
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
    pub quantizer: Arc<dyn Quantizer>,
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

    /// Refuses a format whose outputs are no models.
    ///
    /// # Errors
    /// With the command that makes them.
    pub fn check_is_model(&self) -> Result<()> {
        match self.description()?.purpose {
            Purpose::Model => Ok(()),
            Purpose::Analysis => Err(Error::invalid_arguments(format!(
                "\"{}\" is what is known about a model, not a format of models",
                self.format
            ))
            .suggest("use `llm-quantize analyze`")),
        }
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
    /// If the system refuses threads or the handler, or the user's configuration is not
    /// valid.
    pub fn start(context: &'a Context) -> Result<Self> {
        let threads = Threads::new(context.threads)?;
        let cancel = CancelFlag::default();
        handle_interrupts(&cancel)
            .map_err(|error| Error::other(format!("cannot handle interrupts: {error}")))?;
        let host = services(&threads, &cancel, Arc::clone(&context.ui) as _);
        let registry = Registry::discover(&context.plugin_dirs)?;
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
                quantizer: Arc::new(hf::HuggingFace),
            });
        }
        let plugin = self.registry.load_format(&format, &self.host)?;
        let metadata = &plugin.metadata;
        let (id, version) = (metadata.id.clone(), metadata.version.clone());
        match &plugin.quantizer {
            Some(quantizer) => Ok(Target {
                plugin: PluginId { id, version },
                format,
                quantizer: Arc::clone(quantizer),
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
    pub fn plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        self.registry.load_named(name, &self.host)
    }

    /// Finds a local model and who reads it.
    ///
    /// # Errors
    /// If there is none, or nobody reads it.
    pub fn locate(&self, model: &str) -> Result<Located> {
        let warn = |error: Error| self.context.ui.warn(&error.message);
        let plugins = self.registry.load_all(&self.host, warn);
        let converters: Vec<NamedConverter> = plugins
            .iter()
            .filter_map(|plugin| {
                Some(NamedConverter {
                    plugin: plugin.metadata.id.clone(),
                    version: plugin.metadata.version.clone(),
                    converter: plugin.converter.clone()?,
                })
            })
            .collect();
        locate(model, &converters)
    }

    /// Opens a model in the view that its target works on best: a plugin reads its
    /// own format natively, so that nothing is lost in translation.
    ///
    /// A model on the Hub is downloaded; `rehearse` sees its headers before that, and
    /// what it refuses is not downloaded.
    ///
    /// # Errors
    /// If the model cannot be found, downloaded or read; what `rehearse` says.
    pub fn open(
        &self,
        model: &str,
        target: &Target,
        rehearse: impl FnOnce(&mut SourceModel) -> Result<()>,
    ) -> Result<SourceModel> {
        self.open_by(model, |path| self.open_at(path, target), rehearse)
    }

    /// Opens a model in a view; otherwise as [`open`](Self::open).
    ///
    /// # Errors
    /// As that.
    pub fn open_as(
        &self,
        model: &str,
        view: ModelView,
        rehearse: impl FnOnce(&mut SourceModel) -> Result<()>,
    ) -> Result<SourceModel> {
        self.open_by(model, |path| self.locate(path)?.open(view), rehearse)
    }

    fn open_by(
        &self,
        model: &str,
        open: impl Fn(&str) -> Result<SourceModel>,
        rehearse: impl FnOnce(&mut SourceModel) -> Result<()>,
    ) -> Result<SourceModel> {
        let Some((hub, id)) = self.on_hub(model)? else {
            return open(model);
        };
        let preview = hub.preview(&id)?;
        let path = match preview.is_whole() {
            true => preview.path().to_owned(),
            false => {
                let (mut headers, _) = self.open_preview(&hub, preview, &open)?;
                rehearse(&mut headers)?;
                drop(headers);
                hub.fetch(&id)?
            }
        };
        open(text(&path)?)
    }

    /// Opens a model of which only the headers will be read: nothing else is
    /// downloaded. `open` opens what is at a path.
    ///
    /// # Errors
    /// If the model cannot be found or read.
    pub fn open_headers(
        &self,
        model: &str,
        open: impl Fn(&str) -> Result<SourceModel>,
    ) -> Result<SourceModel> {
        let Some((hub, id)) = self.on_hub(model)? else {
            return open(model);
        };
        let preview = hub.preview(&id)?;
        if preview.is_whole() {
            return open(text(preview.path())?);
        }
        let (headers, page) = self.open_preview(&hub, preview, open)?;
        Ok(headers.standing_for(page.into()))
    }

    /// Opens what is here of a model, after getting as much of its headers as that
    /// takes; returns also where the model is.
    fn open_preview(
        &self,
        hub: &Hub,
        mut preview: Preview,
        open: impl Fn(&str) -> Result<SourceModel>,
    ) -> Result<(SourceModel, String)> {
        loop {
            let path = text(preview.path())?;
            let opened = self.headers_end(path).and_then(|end| {
                let headers = open(path)?;
                Ok((headers, end))
            });
            match opened {
                Ok((headers, end)) if preview.has(end) => {
                    return Ok((headers, preview.page().to_owned()));
                }
                // Perhaps it only lacks the rest of its header.
                opened => {
                    if !hub.read_on(&mut preview)? {
                        let opened = opened.map_err(|error| preview.explain(error));
                        return opened.map(|(headers, _)| (headers, preview.page().to_owned()));
                    }
                }
            }
        }
    }

    /// Where the headers of a model's files end, as far as its reader says so.
    fn headers_end(&self, path: &str) -> Result<u64> {
        let located = self.locate(path)?;
        match located.plugin() {
            Some(_) => Ok(located.open(ModelView::Native)?.headers_end()),
            None => Ok(0),
        }
    }

    /// The model's id, if it is no path of this machine and may be on the Hub.
    fn on_hub(&self, model: &str) -> Result<Option<(Hub, ModelId)>> {
        // What exists here wins, even if it cannot be read.
        if std::fs::symlink_metadata(model).is_ok() {
            return Ok(None);
        }
        let Some(id) = ModelId::parse(model) else {
            return Ok(None);
        };
        let ui = Arc::clone(&self.context.ui);
        let hub = Hub::new(self.formats(), ui, self.cancel.clone())?;
        Ok(Some((hub, id)))
    }

    /// As [`open`](Self::open), for a conversion: a format that can take over its own groups in
    /// another arrangement sees its models as everyone else does.
    ///
    /// # Errors
    /// As that.
    pub fn open_to_convert(
        &self,
        model: &str,
        target: &Target,
        rehearse: impl FnOnce(&mut SourceModel) -> Result<()>,
    ) -> Result<SourceModel> {
        match target.description()?.repacking {
            Repacking::AnyFormat => self.open_as(model, ModelView::HuggingFace, rehearse),
            Repacking::Never | Repacking::OtherFormats => self.open(model, target, rehearse),
        }
    }

    /// Opens what is at a path for a target.
    ///
    /// # Errors
    /// As [`locate`](Self::locate), and what the reader says.
    pub fn open_at(&self, path: &str, target: &Target) -> Result<SourceModel> {
        let located = self.locate(path)?;
        if located.plugin() != Some(&target.plugin.id) {
            return located.open(ModelView::HuggingFace);
        }
        let native = located.open(ModelView::Native)?;
        if native.model().format == target.format {
            return Ok(native);
        }
        // A plugin with several formats, of which the source has another one.
        self.locate(path)?.open(ModelView::HuggingFace)
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| {
        let path = path.display();
        Error::other(format!("the path of the cache is not valid text: {path}"))
            .suggest("set HF_HOME to another folder")
    })
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
