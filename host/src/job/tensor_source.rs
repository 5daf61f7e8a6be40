//! What the engine needs of a source model.

use std::ops::Range;

use llm_quantize_plugin_api::{ElementType, Inputs, TensorView};

use crate::error::{Error, ExitCode, Result};
use crate::source::SourceModel;

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

    /// Whether [`rows`](Self::rows) decodes into the buffer.
    fn decodes(&self) -> bool;

    /// The rows are no longer needed in memory.
    fn release(&self, tensor: usize, rows: Range<u64>);

    /// Refuses a source that somebody changed since it was opened.
    ///
    /// # Errors
    /// With the file that changed.
    fn check_unchanged(&self) -> Result<()>;
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

    fn decodes(&self) -> bool {
        self.plugin().is_some()
    }

    fn release(&self, tensor: usize, rows: Range<u64>) {
        SourceModel::release(self, tensor, rows);
    }

    fn check_unchanged(&self) -> Result<()> {
        SourceModel::check_unchanged(self)
    }
}

fn too_large() -> Error {
    Error::new(
        ExitCode::OutOfMemory,
        "a tensor is too large for this machine's address space",
    )
}
