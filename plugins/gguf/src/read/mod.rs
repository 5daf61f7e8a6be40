//! Reading GGUF: as itself, or as a Hugging Face model.

mod groups;
mod hf_view;
mod rows;

use std::ops::Range;

use llm_quantize_plugin_api::{
    AffineGroups, Converter, Error, FileView, Host, ModelDescription, ModelView, Reader, Result,
    TensorInfo,
};

use crate::container::{Gguf, MAGIC, Metadata};
use crate::families::Transform;
use crate::levels::Level;
use crate::quantize::FORMAT;
use crate::shards::{self, Merged, ShardedTensor};
use hf_view::SideFiles;

/// Characters of a text that `info` shows.
const MAX_FACT: usize = 200;

/// Reads GGUF files.
pub struct GgufConverter {
    host: Host,
}

impl GgufConverter {
    /// A converter on a host.
    pub fn new(host: Host) -> Self {
        Self { host }
    }
}

impl Converter for GgufConverter {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        !files.is_empty() && files.iter().all(|file| file.bytes.starts_with(&MAGIC))
    }

    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>> {
        let stored = Stored::open(files)?;
        let reader = match view {
            ModelView::Native => native(stored, files),
            ModelView::HuggingFace => hf_view::open(&self.host, stored, files)?,
        };
        Ok(Box::new(reader))
    }
}

/// Reads the headers of files that belong together.
///
/// # Errors
/// If one is damaged, missing or of another model.
pub fn merged(files: &[FileView<'_>]) -> Result<Merged> {
    let parsed = files
        .iter()
        .map(|file| {
            Gguf::parse(file.bytes)
                .map_err(|error| Error::corrupt(format!("\"{}\": {error}", file.name)))
        })
        .collect::<Result<Vec<Gguf>>>()?;
    let named: Vec<(&str, &Gguf)> = files.iter().map(|file| file.name).zip(&parsed).collect();
    shards::merge(&named).map_err(|error| Error::corrupt(error.to_string()))
}

/// What the files hold.
struct Stored {
    metadata: Metadata,
    tensors: Vec<ShardedTensor>,
}

impl Stored {
    fn open(files: &[FileView<'_>]) -> Result<Self> {
        let merged = merged(files)?;
        Ok(Self {
            metadata: merged.metadata,
            tensors: merged.tensors,
        })
    }

    /// A name for people: the file's, without what says that it is one of several.
    fn name(files: &[FileView<'_>]) -> String {
        let file = files.first().map_or("model", |file| file.name);
        let parts = shards::ShardName::parse(file);
        let name = parts.map_or(file, |parts| parts.prefix);
        name.strip_suffix(".gguf").unwrap_or(name).to_owned()
    }

    /// What `info` shows beyond the usual.
    fn facts(&self) -> Vec<(String, String)> {
        let text = |key: &str| self.metadata.get::<&str>(key).ok().flatten();
        let number = |key: &str| self.metadata.unsigned(key).ok().flatten();
        let mut facts = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            let short = |value: String| value.chars().take(MAX_FACT).collect();
            facts.extend(value.map(|value| (name.to_owned(), short(value))));
        };
        add("architecture", text("general.architecture").map(Into::into));
        add("name", text("general.name").map(Into::into));
        add("level", number("general.file_type").and_then(level_name));
        add("tokenizer", text("tokenizer.ggml.model").map(Into::into));
        add("pre-tokenizer", text("tokenizer.ggml.pre").map(Into::into));
        add("imatrix", text("quantize.imatrix.file").map(Into::into));
        facts
    }
}

fn level_name(file_type: u64) -> Option<String> {
    let file_type = u32::try_from(file_type).ok()?;
    Level::from_file_type(file_type).map(|level| level.name.to_owned())
}

/// The files as they are.
fn native(stored: Stored, files: &[FileView<'_>]) -> GgufReader {
    let model = ModelDescription {
        name: Stored::name(files),
        format: FORMAT.into(),
        config: serde_json::json!({}),
        tensors: stored.tensors.iter().map(describe).collect(),
        files: files.iter().map(|file| file.name.to_owned()).collect(),
        sites: Vec::new(),
        facts: stored.facts(),
        ..ModelDescription::default()
    };
    let places = stored.tensors.into_iter().map(|tensor| Place {
        tensor,
        transform: Transform::None,
        first_row: 0,
    });
    GgufReader {
        model,
        places: places.collect(),
        view: ModelView::Native,
        side_files: None,
    }
}

fn describe(tensor: &ShardedTensor) -> TensorInfo {
    TensorInfo {
        name: tensor.name.clone(),
        dtype: tensor.ty.name.into(),
        shape: tensor.dims.iter().rev().copied().collect(),
        bytes: tensor.range.end - tensor.range.start,
    }
}

/// A tensor of the presented model and where its rows come from.
struct Place {
    tensor: ShardedTensor,
    transform: Transform,
    /// The stored row that is its first one.
    first_row: u64,
}

impl Place {
    /// Rows where they are stored.
    fn stored_rows(&self, rows: &Range<u64>) -> Range<u64> {
        let place = |row: u64| row.saturating_add(self.first_row);
        place(rows.start)..place(rows.end)
    }
}

/// An opened model.
struct GgufReader {
    model: ModelDescription,
    places: Vec<Place>,
    view: ModelView,
    side_files: Option<SideFiles>,
}

impl GgufReader {
    fn place(&self, tensor: usize) -> Result<&Place> {
        self.places
            .get(tensor)
            .ok_or_else(|| Error::internal(format!("there is no tensor {tensor}")))
    }
}

impl Reader for GgufReader {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        match &self.side_files {
            Some(side_files) => Ok(side_files.get(name)),
            None => {
                let found = files.iter().find(|file| file.name == name);
                Ok(found.map(|file| file.bytes.to_vec()))
            }
        }
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let place = self.place(tensor)?;
        let rows = place.stored_rows(&rows);
        rows::decode(files, &place.tensor, place.transform, rows, out)
    }

    fn groups(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        let place = self.place(tensor)?;
        let rows = place.stored_rows(&rows);
        groups::groups(files, &place.tensor, place.transform, rows)
    }

    fn stored(&self, tensor: usize) -> Option<(usize, Range<u64>)> {
        let place = self.places.get(tensor)?;
        (self.view == ModelView::Native).then(|| (place.tensor.file, place.tensor.range.clone()))
    }
}
