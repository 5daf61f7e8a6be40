//! An opened model, whoever reads it: what planning and the engine work on.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_quantize_plugin_api as plugin_api;
use plugin_api::{
    AffineGroups, ElementType, FileView, GroupFacts, Inputs, ModelDescription, ModelView,
    TensorInfo, TensorView,
};

use super::locate::{Parts, view_of};
use super::plugin::PluginModel;
use super::weights::Weights;
use super::{Located, MappedFile, NamedConverter, config, locate};
use crate::error::{Error, ExitCode, PluginResult, Result};
use crate::graph::sites_of;

/// A model that was opened.
#[derive(Debug)]
pub struct SourceModel {
    path: PathBuf,
    model: ModelDescription,
    store: Store,
    attachments: Vec<(String, MappedFile)>,
    /// The model that configuration and small files come from, if not this one.
    base: Option<Box<SourceModel>>,
}

#[derive(Debug)]
enum Store {
    Folder(Weights, Vec<Arc<MappedFile>>),
    Plugin(PluginModel),
}

impl SourceModel {
    /// Finds and opens a model: [`locate`] and [`Located::open`] in one.
    ///
    /// # Errors
    /// As those.
    pub fn open(model: &str, converters: &[NamedConverter], view: ModelView) -> Result<Self> {
        locate(model, converters).and_then(|located: Located| located.open(view))
    }

    pub(super) fn from_folder(path: PathBuf, name: String, parts: Parts) -> Self {
        let mut weights = parts.weights;
        let mut model = ModelDescription {
            name,
            format: "hf".into(),
            config: parts.config,
            tensors: std::mem::take(&mut weights.tensors),
            files: parts.files.iter().map(|f| f.name().to_owned()).collect(),
            ..ModelDescription::default()
        };
        model.sites = sites_of(&model);
        Self {
            path,
            model,
            store: Store::Folder(weights, parts.files),
            attachments: Vec::new(),
            base: None,
        }
    }

    pub(super) fn from_plugin(path: PathBuf, opened: (PluginModel, ModelDescription)) -> Self {
        let (store, mut model) = opened;
        // The host runs the model, so it says where inputs are; a reader's word does not count.
        model.sites = match store.view() {
            ModelView::HuggingFace => sites_of(&model),
            ModelView::Native => Vec::new(),
        };
        Self {
            path,
            model,
            store: Store::Plugin(store),
            attachments: Vec::new(),
            base: None,
        }
    }

    /// Another look at the same files: as a Hugging Face model.
    ///
    /// # Errors
    /// If its reader cannot present it so.
    pub fn as_hugging_face(&self) -> Result<Self> {
        match &self.store {
            Store::Plugin(model) => {
                let opened = model.reopen(ModelView::HuggingFace, &self.model.name)?;
                Ok(Self::from_plugin(self.path.clone(), opened))
            }
            Store::Folder(..) => Err(Error::other("a folder is a Hugging Face model already")),
        }
    }

    /// Takes another configuration, and the small files of the model that it is of.
    pub(super) fn replace_config(&mut self, config: serde_json::Value, base: Self) {
        self.model.config = config;
        self.model.files.clone_from(&base.model.files);
        self.model.sites = sites_of(&self.model);
        self.base = Some(Box::new(base));
    }

    /// Adds a file that the user handed over, e.g. of kind `imatrix`.
    ///
    /// # Errors
    /// If it cannot be read; for an `imatrix` with the exit code of those.
    pub fn attach(&mut self, kind: &str, path: &Path) -> Result<()> {
        let class = match kind {
            "imatrix" => ExitCode::ImportanceMatrix,
            _ => ExitCode::InvalidArguments,
        };
        let file = MappedFile::open(path).map_err(|error| error.class(class))?;
        self.attachments.push((kind.to_owned(), file));
        Ok(())
    }

    /// Says that the model is somewhere else: what was opened stands for it.
    #[must_use]
    pub fn standing_for(mut self, place: PathBuf) -> Self {
        self.path = place;
        self
    }

    /// Where the headers of its files end at the latest: the first byte of a tensor, in
    /// the file where that comes last. 0 if the reader does not say where tensors lie.
    pub fn headers_end(&self) -> u64 {
        let mut first: HashMap<&Path, u64> = HashMap::new();
        for tensor in 0..self.model.tensors.len() {
            if let Ok(Some((file, range))) = self.place(tensor) {
                let start = first.entry(file.path()).or_insert(range.start);
                *start = range.start.min(*start);
            }
        }
        first.into_values().max().unwrap_or(0)
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The plugin that reads it; `None` for a plain Hugging Face folder.
    pub fn plugin(&self) -> Option<&str> {
        match &self.store {
            Store::Folder(..) => None,
            Store::Plugin(model) => Some(model.plugin()),
        }
    }

    /// Version of the plugin that reads it.
    pub fn plugin_version(&self) -> Option<&str> {
        match &self.store {
            Store::Folder(..) => None,
            Store::Plugin(model) => Some(model.version()),
        }
    }

    /// The files that hold the tensors.
    pub fn weight_files(&self) -> impl Iterator<Item = &MappedFile> {
        let files = match &self.store {
            Store::Folder(weights, _) => &weights.shards[..],
            Store::Plugin(model) => model.files(),
        };
        files.iter().map(Arc::as_ref)
    }

    /// The small files beside the weights, those of a base among them.
    pub fn side_files(&self) -> impl Iterator<Item = &MappedFile> {
        let base = self.base.as_deref().map_or(&[][..], Self::own_side_files);
        let files = self.own_side_files().iter().chain(base);
        files.map(Arc::as_ref)
    }

    fn own_side_files(&self) -> &[Arc<MappedFile>] {
        match &self.store {
            Store::Folder(_, files) => files,
            Store::Plugin(_) => &[],
        }
    }

    /// The files that the user handed over, with their kinds.
    pub fn attachments(&self) -> impl Iterator<Item = (&str, &MappedFile)> {
        let attachments = self.attachments.iter();
        attachments.map(|(kind, file)| (kind.as_str(), file))
    }

    /// The view that it was opened with.
    pub fn view(&self) -> ModelView {
        match &self.store {
            Store::Folder(..) => ModelView::HuggingFace,
            Store::Plugin(model) => model.view(),
        }
    }

    /// Sum of the tensors' bytes in the source.
    pub fn total_bytes(&self) -> u64 {
        let bytes = self.model.tensors.iter().map(|tensor| tensor.bytes);
        bytes.fold(0, u64::saturating_add)
    }

    /// Size of the files that hold the tensors.
    pub fn file_bytes(&self) -> u64 {
        self.weight_files().map(MappedFile::len).sum()
    }

    /// The dtype that most numbers have, by the name that torch gives it, e.g.
    /// `bfloat16`; a quantized type by its own name in lower case.
    pub fn original_dtype(&self) -> String {
        let mut counts: HashMap<&str, u64> = HashMap::new();
        for tensor in &self.model.tensors {
            let count = counts.entry(&tensor.dtype).or_default();
            *count = count.saturating_add(tensor.elements().unwrap_or(0));
        }
        // The name decides between equals: the answer must not depend on the hash.
        let common = counts
            .into_iter()
            .max_by_key(|&(name, count)| (count, name));
        common.map_or_else(|| "unknown".into(), |(name, _)| torch_name(name))
    }

    /// Number of transformer blocks: from the config, else from the tensors' names.
    pub fn num_layers(&self) -> u64 {
        let named = || {
            let names = self.model.tensors.iter().map(|t| layer_of(&t.name));
            names
                .flatten()
                .max()
                .map_or(0, |last| last.saturating_add(1))
        };
        config::num_layers(&self.model.config).unwrap_or_else(named)
    }

    /// Whether the rows of a tensor can be read as numbers; if not, an error that
    /// says why. For checks before the work.
    ///
    /// # Errors
    /// If the tensor's type is no float of 16 or 32 bits, or the plugin that reads it cannot.
    pub fn check_readable(&self, tensor: usize) -> Result<()> {
        match &self.store {
            Store::Folder(..) => element_type(self.tensor(tensor)?).map(drop),
            // No rows at all: what is left are the reasons why there can be none.
            Store::Plugin(model) => self
                .tensor(tensor)
                .and_then(|_| model.decode(tensor, 0..0, &mut [])),
        }
    }

    /// Rows of a tensor, as stored and without a copy; `None` where only a plugin can
    /// read them (then [`decode_rows`](Self::decode_rows)).
    ///
    /// # Errors
    /// If there are no such rows, or the type is no float of 16 or 32 bits.
    pub fn rows(&self, tensor: usize, rows: Range<u64>) -> Result<Option<TensorView<'_>>> {
        let info = self.tensor(tensor)?;
        check_rows(info, &rows)?;
        let Store::Folder(weights, _) = &self.store else {
            return Ok(None);
        };
        let element = element_type(info)?;
        let (shard, range) = &weights.places[tensor];
        let bytes = slice(&weights.shards[*shard], &part(info, range, &rows)?)?;
        let count = to_usize(rows.end - rows.start)?;
        Ok(Some(TensorView::new(
            element,
            count,
            to_usize(info.cols())?,
            bytes,
        )?))
    }

    /// Decodes rows of a tensor; `out` holds exactly those rows.
    ///
    /// # Errors
    /// As [`rows`](Self::rows), and what the plugin says.
    pub fn decode_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let info = self.tensor(tensor)?;
        check_rows(info, &rows)?;
        let expected = (rows.end - rows.start).checked_mul(info.cols());
        if expected != Some(out.len() as u64) {
            return Err(Error::other(format!(
                "rows {rows:?} of \"{}\" do not fit into {} numbers",
                info.name,
                out.len()
            )));
        }
        match &self.store {
            Store::Plugin(model) => model.decode(tensor, rows, out),
            Store::Folder(..) => match self.rows(tensor, rows)? {
                Some(view) => Ok(plugin_api::kernels::convert::to_f32(
                    view.element(),
                    view.bytes(),
                    out,
                )?),
                None => Ok(()),
            },
        }
    }

    /// Rows of a weight as affine groups, if the format stores it so.
    ///
    /// # Errors
    /// What the plugin says.
    pub fn groups(&self, tensor: usize, rows: Range<u64>) -> Result<Option<AffineGroups>> {
        let info = self.tensor(tensor)?;
        check_rows(info, &rows)?;
        let Store::Plugin(model) = &self.store else {
            return Ok(None);
        };
        let (count, cols) = (to_usize(rows.end - rows.start)?, to_usize(info.cols())?);
        let found = model.groups(tensor, rows)?;
        if let Some(groups) = &found {
            groups.check(count, cols).by_plugin(model.plugin())?;
        }
        Ok(found)
    }

    /// Adds what was found out about the groups of quantized weights, by their places, and the type
    /// that vectors can go back to.
    pub fn set_groups(&mut self, groups: BTreeMap<usize, GroupFacts>, narrow: Option<String>) {
        self.model.groups = groups;
        self.model.narrow = narrow;
    }

    /// The stored bytes of some rows of a tensor, whatever they mean.
    ///
    /// # Errors
    /// If there are no such rows, or they do not lie in one piece.
    pub fn stored(&self, tensor: usize, rows: Range<u64>) -> Result<&[u8]> {
        let info = self.tensor(tensor)?;
        check_rows(info, &rows)?;
        match self.place(tensor)? {
            Some((file, range)) => slice(file, &part(info, &range, &rows)?),
            None => Err(Error::unsupported(format!(
                "the bytes of \"{}\" cannot be given out as they are stored",
                info.name
            ))),
        }
    }

    /// Lets the system begin to read rows that will be needed soon, where they lie in one
    /// piece of a file. Advice only.
    pub fn prefetch(&self, tensor: usize, rows: Range<u64>) {
        let Ok(info) = self.tensor(tensor) else {
            return;
        };
        if check_rows(info, &rows).is_ok()
            && let Ok(Some((file, range))) = self.place(tensor)
            && let Ok(range) = part(info, &range, &rows)
        {
            file.prefetch(range);
        }
    }

    /// Takes what was read of the weights out of the process's memory. Advice only, to be
    /// given now and then: what is needed again comes back.
    pub fn release(&self) {
        for file in self.weight_files() {
            file.release();
        }
    }

    /// Refuses to go on if one of the files was written to since it was opened.
    ///
    /// # Errors
    /// With the file that changed.
    pub fn check_unchanged(&self) -> Result<()> {
        let (weights, side) = match &self.store {
            Store::Folder(weights, files) => (&weights.shards[..], &files[..]),
            Store::Plugin(model) => (model.files(), &[][..]),
        };
        let attached = self.attachments.iter().map(|(_, file)| file);
        let mut files = weights
            .iter()
            .chain(side)
            .map(|file| &**file)
            .chain(attached);
        files.try_for_each(MappedFile::check_unchanged)
    }

    fn tensor(&self, tensor: usize) -> Result<&TensorInfo> {
        self.model.tensors.get(tensor).ok_or_else(|| {
            Error::new(
                ExitCode::PluginFailed,
                format!(
                    "the plan asks for tensor {tensor}, and the model has {}",
                    self.model.tensors.len()
                ),
            )
        })
    }

    fn place(&self, tensor: usize) -> Result<Option<(&MappedFile, Range<u64>)>> {
        match &self.store {
            Store::Folder(weights, _) => Ok(weights
                .places
                .get(tensor)
                .map(|(shard, range)| (&*weights.shards[*shard], range.clone()))),
            Store::Plugin(model) => model.stored(tensor),
        }
    }
}

impl Inputs for SourceModel {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, name: &str) -> plugin_api::Result<Option<&[u8]>> {
        if let Some(base) = &self.base {
            return base.file(name);
        }
        match &self.store {
            Store::Folder(_, files) => {
                let file = files.iter().find(|file| file.name() == name);
                Ok(file.map(|file| file.bytes()))
            }
            Store::Plugin(model) => model.file(name),
        }
    }

    fn attachment(&self, kind: &str) -> Option<FileView<'_>> {
        let found = self.attachments.iter().find(|(known, _)| known == kind);
        found.map(|(_, file)| view_of(file))
    }
}

fn element_type(info: &TensorInfo) -> Result<ElementType> {
    ElementType::from_dtype(&info.dtype).ok_or_else(|| {
        Error::unsupported(format!(
            "the tensor \"{}\" is stored as {}; only F32, F16 and BF16 can be quantized",
            info.name, info.dtype
        ))
        .suggest("use the model's 16-bit original, or install the plugin that reads its format")
    })
}

fn check_rows(info: &TensorInfo, rows: &Range<u64>) -> Result<()> {
    if rows.start <= rows.end && info.rows().is_some_and(|count| rows.end <= count) {
        return Ok(());
    }
    Err(Error::new(
        ExitCode::PluginFailed,
        format!("\"{}\" {:?} has no rows {rows:?}", info.name, info.shape),
    ))
}

/// The bytes of some rows within the bytes of all.
fn part(info: &TensorInfo, all: &Range<u64>, rows: &Range<u64>) -> Result<Range<u64>> {
    let count = info.rows().unwrap_or(0);
    if *rows == (0..count) {
        return Ok(all.clone());
    }
    let bytes = all.end - all.start;
    if count == 0 || !bytes.is_multiple_of(count) {
        return Err(Error::other(format!(
            "the {bytes} bytes of \"{}\" cannot be cut into {count} rows",
            info.name
        )));
    }
    let row = bytes / count;
    Ok(all.start + rows.start * row..all.start + rows.end * row)
}

fn slice<'a>(file: &'a MappedFile, range: &Range<u64>) -> Result<&'a [u8]> {
    let range = to_usize(range.start)?..to_usize(range.end)?;
    file.bytes()
        .get(range)
        .ok_or_else(|| Error::validation(format!("{} is too short", file.path().display())))
}

fn to_usize(number: u64) -> Result<usize> {
    usize::try_from(number).map_err(|_| Error::other("a tensor is too large for this machine"))
}

/// The first number among the parts of a name: `model.layers.7.mlp` has 7.
fn layer_of(name: &str) -> Option<u64> {
    name.split('.').find_map(|part| part.parse().ok())
}

fn torch_name(dtype: &str) -> String {
    match dtype {
        "BF16" => "bfloat16",
        "F16" => "float16",
        "F32" => "float32",
        "F64" => "float64",
        "F8_E4M3" => "float8_e4m3fn",
        "F8_E5M2" => "float8_e5m2",
        "I8" => "int8",
        "I16" => "int16",
        "I32" => "int32",
        "I64" => "int64",
        "U8" => "uint8",
        "BOOL" => "bool",
        other => return other.to_ascii_lowercase(),
    }
    .into()
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
