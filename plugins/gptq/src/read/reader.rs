//! An opened folder.

use std::ops::Range;

use llm_quantize_plugin_api::hf_folder::{CONFIG, QUANTIZATION, is_side_file};
use llm_quantize_plugin_api::{
    AffineGroups, Error, FileView, ModelDescription, ModelView, Reader, Result, TensorInfo,
};
use serde_json::json;

use super::folder::{Folder, Item, StoredLayer};
use crate::FORMAT;
use crate::layout::WEIGHT;
use crate::levels::type_name;

/// A folder in one of its views.
pub struct GptqReader {
    model: ModelDescription,
    folder: Folder,
    view: ModelView,
}

impl GptqReader {
    /// Presents a folder.
    pub fn new(folder: Folder, files: &[FileView<'_>], view: ModelView) -> Self {
        let mut model = ModelDescription {
            format: FORMAT.into(),
            facts: facts(&folder),
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

    fn decode_layer(
        &self,
        layer: &StoredLayer,
        files: &[FileView<'_>],
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let version = self.folder.quantization.version;
        layer.decode(files, version, places(rows)?, out)
    }
}

/// What `info` shows beyond the usual.
fn facts(folder: &Folder) -> Vec<(String, String)> {
    let quantization = &folder.quantization;
    let group = quantization.group_size;
    let mut facts = vec![
        ("layout", quantization.version.name().to_owned()),
        ("bits", quantization.bits.to_string()),
        (
            "group size",
            group.map_or_else(|| "a whole row".into(), |size| size.to_string()),
        ),
        (
            "activation order",
            quantization.activation_order.to_string(),
        ),
    ];
    facts.extend(
        quantization
            .symmetric
            .map(|sym| ("symmetric", sym.to_string())),
    );
    facts.extend(
        quantization
            .quantizer
            .clone()
            .map(|name| ("quantizer", name)),
    );
    let owned = facts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    owned.collect()
}

fn describe(item: &Item) -> TensorInfo {
    match item {
        Item::Plain(tensor) => tensor.info.clone(),
        Item::Layer(layer) => TensorInfo {
            name: format!("{}{WEIGHT}", layer.module),
            dtype: type_name(layer.shape.bits),
            shape: vec![layer.shape.outputs as u64, layer.shape.inputs as u64],
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

impl Reader for GptqReader {
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
            Some(Item::Layer(layer)) => self.decode_layer(layer, files, rows, out),
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
        let packed = layer.packed(files, self.folder.quantization.version)?;
        let named = |error| layer.named(error);
        let rows = packed.rows(places(rows)?).map_err(named)?;
        let mut permutation = packed.permutation().map_err(named)?;
        let (inputs, group) = (layer.shape.inputs, layer.shape.group);
        if permutation.is_none() && !inputs.is_multiple_of(group) {
            permutation = Some((0..inputs).map(|input| (input / group) as u32).collect());
        }
        Ok(Some(AffineGroups {
            bits: layer.shape.bits,
            group_size: u32::try_from(group).map_err(|_| Error::corrupt("a group is too large"))?,
            codes: rows.codes.into_raw_vec_and_offset().0,
            scales: rows.groups.scales.into_raw_vec_and_offset().0,
            zeros: rows.groups.zeros.into_raw_vec_and_offset().0,
            permutation,
        }))
    }
}
