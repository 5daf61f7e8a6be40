//! What the engine needs of a source model.

use std::ops::Range;
use std::path::Path;

use llm_quantize_plugin_api::{AffineGroups, ElementType, Inputs, TensorView};

use crate::error::{Error, ExitCode, Result};
use crate::source::{MappedFile, SourceModel};

use super::journal::PluginId;

/// Where a model comes from: what a later run recognises it by.
pub struct Origin<'a> {
    /// Where it lies.
    pub path: &'a Path,
    /// The plugin that reads it, if one does.
    pub reader: Option<PluginId>,
    /// The files that hold its tensors.
    pub weights: Vec<&'a MappedFile>,
    /// The small files beside them.
    pub side_files: Vec<&'a MappedFile>,
    /// What the user handed over, by kind.
    pub attachments: Vec<(&'a str, &'a MappedFile)>,
}

/// A model whose tensors can be read piece by piece, from many threads at once.
pub trait TensorSource: Inputs + Sync {
    /// Some rows of a tensor, either where they lie or decoded into `buffer`.
    ///
    /// # Errors
    /// If the tensor's type has no numbers that a format could take, or its reader
    /// fails.
    fn rows<'a>(
        &'a self,
        tensor: usize,
        rows: Range<u64>,
        buffer: &'a mut Vec<f32>,
    ) -> Result<TensorView<'a>>;

    /// The stored bytes of some rows.
    ///
    /// # Errors
    /// If the source cannot give them out.
    fn stored(&self, tensor: usize, rows: Range<u64>) -> Result<&[u8]>;

    /// The groups of some rows of a weight.
    ///
    /// # Errors
    /// If it has none, or its reader fails.
    fn groups(&self, tensor: usize, rows: Range<u64>) -> Result<AffineGroups>;

    /// Whether [`rows`](Self::rows) decodes into the buffer.
    fn decodes(&self) -> bool;

    /// The rows will be read soon. Advice: their numbers are the same without.
    fn prefetch(&self, tensor: usize, rows: Range<u64>);

    /// Takes what was read out of the process's memory; reading it again brings it back.
    fn release(&self);

    /// Refuses a source that somebody changed since it was opened.
    ///
    /// # Errors
    /// With the file that changed.
    fn check_unchanged(&self) -> Result<()>;

    /// Where it comes from.
    fn origin(&self) -> Origin<'_>;
}

/// Memory that reading some rows takes beyond the file's own pages.
pub fn buffer_bytes(source: &dyn TensorSource, cols: u64, rows: u64) -> u64 {
    match source.decodes() {
        true => rows
            .saturating_mul(cols)
            .saturating_mul(ElementType::F32.bytes() as u64),
        false => 0,
    }
}

impl TensorSource for SourceModel {
    fn rows<'a>(
        &'a self,
        tensor: usize,
        rows: Range<u64>,
        buffer: &'a mut Vec<f32>,
    ) -> Result<TensorView<'a>> {
        if let Some(view) = SourceModel::rows(self, tensor, rows.clone())? {
            return Ok(view);
        }
        let cols = self.model().tensors.get(tensor).map_or(0, |t| t.cols());
        let count = rows.end.saturating_sub(rows.start);
        let sizes = (usize::try_from(count), usize::try_from(cols));
        let (Ok(count), Ok(cols)) = sizes else {
            return Err(too_large());
        };
        buffer.resize(count.checked_mul(cols).ok_or_else(too_large)?, 0.0);
        self.decode_rows(tensor, rows, buffer)?;
        let bytes = bytemuck::cast_slice(buffer);
        Ok(TensorView::new(ElementType::F32, count, cols, bytes)?)
    }

    fn stored(&self, tensor: usize, rows: Range<u64>) -> Result<&[u8]> {
        SourceModel::stored(self, tensor, rows)
    }

    fn groups(&self, tensor: usize, rows: Range<u64>) -> Result<AffineGroups> {
        let found = SourceModel::groups(self, tensor, rows)?;
        found.ok_or_else(|| {
            let message = format!("the plan asks for groups of tensor {tensor}, which has none");
            Error::new(ExitCode::PluginFailed, message)
        })
    }

    fn decodes(&self) -> bool {
        self.plugin().is_some()
    }

    fn prefetch(&self, tensor: usize, rows: Range<u64>) {
        SourceModel::prefetch(self, tensor, rows);
    }

    fn release(&self) {
        SourceModel::release(self);
    }

    fn check_unchanged(&self) -> Result<()> {
        SourceModel::check_unchanged(self)
    }

    fn origin(&self) -> Origin<'_> {
        Origin {
            path: self.path(),
            reader: self
                .plugin()
                .zip(self.plugin_version())
                .map(|(id, version)| PluginId {
                    id: id.to_owned(),
                    version: version.to_owned(),
                }),
            weights: self.weight_files().collect(),
            side_files: self.side_files().collect(),
            attachments: self.attachments().collect(),
        }
    }
}

fn too_large() -> Error {
    Error::new(
        ExitCode::OutOfMemory,
        "a tensor is too large for this machine's address space",
    )
}
