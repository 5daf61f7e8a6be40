//! A model that a plugin's reader opened.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use llm_quantize_plugin_api as plugin_api;
use plugin_api::hf_folder::check_tensor;
use plugin_api::{AffineGroups, FileView, ModelDescription, ModelView, Reader};

use super::locate::view_of;
use super::{MappedFile, NamedConverter};
use crate::error::{Error, ExitCode, PluginResult, Result};

/// An opened reader with the files that each of its calls gets.
pub(super) struct PluginModel {
    named: NamedConverter,
    reader: Box<dyn Reader>,
    view: ModelView,
    files: Vec<Arc<MappedFile>>,
    /// Files that the reader rebuilds, once they were asked for.
    rebuilt: Vec<(String, OnceLock<Option<Vec<u8>>>)>,
}

impl std::fmt::Debug for PluginModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PluginModel")
            .field(&self.named.plugin)
            .finish()
    }
}

impl PluginModel {
    /// Opens files with the converter that recognised them, and checks what it says
    /// about them; returns the description apart, with a name if it has none.
    pub(super) fn open(
        named: &NamedConverter,
        files: Vec<Arc<MappedFile>>,
        view: ModelView,
        name: &str,
    ) -> Result<(Self, ModelDescription)> {
        let views: Vec<FileView<'_>> = files.iter().map(|file| view_of(file)).collect();
        let opened = named.converter.open(&views, view);
        let reader = opened
            .by_plugin(&named.plugin)
            .map_err(|error| naming_the_file(error, &files))?;
        let mut description = reader.model().clone();
        check(&named.plugin, &description)?;
        if description.name.is_empty() {
            description.name = name.to_owned();
        }
        let names = description.files.iter().cloned();
        // A config is often asked for although it is no side file.
        let config = Some("config.json".to_owned()).filter(|n| !description.files.contains(n));
        let rebuilt = names.chain(config).map(|n| (n, OnceLock::new())).collect();
        let model = Self {
            named: named.clone(),
            reader,
            view,
            files,
            rebuilt,
        };
        Ok((model, description))
    }

    /// The same files in another view.
    pub(super) fn reopen(&self, view: ModelView, name: &str) -> Result<(Self, ModelDescription)> {
        Self::open(&self.named, self.files.clone(), view, name)
    }

    pub(super) fn plugin(&self) -> &str {
        &self.named.plugin
    }

    pub(super) fn version(&self) -> &str {
        &self.named.version
    }

    pub(super) fn view(&self) -> ModelView {
        self.view
    }

    pub(super) fn files(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    fn views(&self) -> Vec<FileView<'_>> {
        self.files.iter().map(|file| view_of(file)).collect()
    }

    pub(super) fn file(&self, name: &str) -> plugin_api::Result<Option<&[u8]>> {
        if self.view == ModelView::Native
            && let Some(file) = self.files.iter().find(|file| file.name() == name)
        {
            return Ok(Some(file.bytes()));
        }
        let Some((_, slot)) = self.rebuilt.iter().find(|(known, _)| known == name) else {
            return Ok(None);
        };
        if let Some(content) = slot.get() {
            return Ok(content.as_deref());
        }
        let content = self.reader.file(&self.views(), name)?;
        Ok(slot.get_or_init(|| content).as_deref())
    }

    pub(super) fn decode(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let decoded = self.reader.decode(&self.views(), tensor, rows, out);
        decoded.by_plugin(&self.named.plugin)
    }

    pub(super) fn groups(&self, tensor: usize, rows: Range<u64>) -> Result<Option<AffineGroups>> {
        let groups = self.reader.groups(&self.views(), tensor, rows);
        groups.by_plugin(&self.named.plugin)
    }

    /// The file and the range of a tensor's bytes; the plugin's word is checked.
    pub(super) fn stored(&self, tensor: usize) -> Result<Option<(&MappedFile, Range<u64>)>> {
        let Some((place, range)) = self.reader.stored(tensor) else {
            return Ok(None);
        };
        match self.files.get(place) {
            Some(file) if range.start <= range.end && range.end <= file.len() => {
                Ok(Some((file, range)))
            }
            _ => Err(Error::new(
                ExitCode::PluginFailed,
                format!(
                    "plugin \"{}\": it places tensor {tensor} outside its files",
                    self.named.plugin
                ),
            )),
        }
    }
}

/// A plugin sees contents more than names; an error must say which file it is about.
fn naming_the_file(mut error: Error, files: &[Arc<MappedFile>]) -> Error {
    let named = files.iter().any(|file| error.message.contains(file.name()));
    if let (false, Some(first)) = (named, files.first()) {
        error.message = format!("{}: {}", first.path().display(), error.message);
    }
    error
}

/// The host relies on these, whoever wrote the plugin.
fn check(plugin: &str, description: &ModelDescription) -> Result<()> {
    let refuse = |what: String| {
        let message = format!("plugin \"{plugin}\": it describes the model wrongly: {what}");
        Err(Error::new(ExitCode::PluginFailed, message))
    };
    let mut names = HashSet::new();
    for tensor in &description.tensors {
        if !names.insert(tensor.name.as_str()) {
            return refuse(format!("there are two tensors \"{}\"", tensor.name));
        }
        if let Err(what) = check_tensor(tensor) {
            return refuse(what);
        }
    }
    if !description.config.is_object() && !description.config.is_null() {
        return refuse("its config is no JSON object".into());
    }
    Ok(())
}
