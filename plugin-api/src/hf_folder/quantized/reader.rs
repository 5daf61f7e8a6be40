//! An opened folder.

use std::ops::Range;

use serde_json::json;

use super::{Item, LayeredFolder, StoredLayer, WEIGHT};
use crate::hf_folder::{CONFIG, QUANTIZATION, is_side_file};
use crate::interface::{
    AffineGroups, Error, FileView, ModelDescription, ModelView, Reader, Result, TensorInfo,
};

/// A folder in one of its views.
#[derive(Debug, Clone)]
pub struct FolderReader<L> {
    model: ModelDescription,
    folder: LayeredFolder<L>,
    view: ModelView,
}

impl<L: StoredLayer> FolderReader<L> {
    /// Presents a folder of a format; `facts` are what `info` shows beyond the usual.
    pub fn new(
        format: &str,
        facts: Vec<(String, String)>,
        folder: LayeredFolder<L>,
        files: &[FileView<'_>],
        view: ModelView,
    ) -> Self {
        let mut model = ModelDescription {
            format: format.into(),
            facts,
            ..ModelDescription::default()
        };
        let names = files.iter().map(|file| file.name);
        match view {
            ModelView::Native => {
                model.config = json!({});
                model.tensors = folder.stored().iter().map(|t| t.info.clone()).collect();
                model.files = names.map(Into::into).collect();
            }
            ModelView::HuggingFace => {
                model.config = folder.config.clone();
                if let Some(fields) = model.config.as_object_mut() {
                    fields.shift_remove(QUANTIZATION);
                }
                model.tensors = folder.items().iter().map(describe).collect();
                model.files = names
                    .filter(|name| is_side_file(name))
                    .map(Into::into)
                    .collect();
            }
        }
        Self {
            model,
            folder,
            view,
        }
    }

    fn missing(tensor: usize) -> Error {
        Error::internal(format!("there is no tensor {tensor}"))
    }
}

fn describe<L: StoredLayer>(item: &Item<L>) -> TensorInfo {
    match item {
        Item::Plain(tensor) => tensor.info.clone(),
        Item::Layer(layer) => TensorInfo {
            name: format!("{}{WEIGHT}", layer.module()),
            dtype: layer.type_name(),
            shape: layer.sizes().map(|size| size as u64).to_vec(),
            bytes: layer.bytes(),
        },
    }
}

fn places(rows: Range<u64>) -> Result<Range<usize>> {
    let place = |row: u64| {
        usize::try_from(row).map_err(|_| Error::internal(format!("there is no row {row}")))
    };
    Ok(place(rows.start)?..place(rows.end)?)
}

impl<L: StoredLayer> Reader for FolderReader<L> {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        if self.view == ModelView::HuggingFace && name == CONFIG {
            let text = serde_json::to_string_pretty(&self.model.config);
            let text = text.map_err(|error| Error::internal(error.to_string()))?;
            return Ok(Some((text + "\n").into_bytes()));
        }
        let known = self.model.files.iter().any(|file| file == name);
        let mut files = files.iter().filter(|_| known);
        let found = files.find(|file| file.name == name);
        Ok(found.map(|file| file.bytes.to_vec()))
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        if self.view == ModelView::Native {
            let stored = self.folder.stored().get(tensor);
            let stored = stored.ok_or_else(|| Self::missing(tensor))?;
            return stored.decode(files, rows, out);
        }
        match self.folder.items().get(tensor) {
            Some(Item::Plain(stored)) => stored.decode(files, rows, out),
            Some(Item::Layer(layer)) => {
                let decoded = layer.decode(files, places(rows)?, out);
                decoded.map_err(|error| layer.named(error))
            }
            None => Err(Self::missing(tensor)),
        }
    }

    fn stored(&self, tensor: usize) -> Option<(usize, Range<u64>)> {
        let stored = self.folder.stored().get(tensor);
        let stored = stored.filter(|_| self.view == ModelView::Native)?;
        Some((stored.file, stored.range.clone()))
    }

    fn groups(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        let item = self.folder.items().get(tensor);
        let Some(Item::Layer(layer)) = item.filter(|_| self.view == ModelView::HuggingFace) else {
            return Ok(None);
        };
        let groups = layer.groups(files, places(rows)?);
        groups.map(Some).map_err(|error| layer.named(error))
    }
}
