//! The layers of a folder.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::Value;

use super::{SCALES, WEIGHT};
use crate::hf_folder::{CONFIG, StoredTensor, Weights, read_json};
use crate::interface::{AffineGroups, Error, FileView, Result};

/// A quantized layer of a folder.
pub trait StoredLayer: Send + Sync {
    /// Its name.
    fn module(&self) -> &str;

    /// Rows and columns of its weight.
    fn sizes(&self) -> [usize; 2];

    /// What its type is called.
    fn type_name(&self) -> String;

    /// Bytes of all of its tensors.
    fn bytes(&self) -> u64;

    /// Decodes rows of the weight; `out` holds exactly those.
    ///
    /// # Errors
    /// If there are no such rows, or the bytes are not those of such a layer.
    fn decode(&self, files: &[FileView<'_>], rows: Range<usize>, out: &mut [f32]) -> Result<()>;

    /// Rows of the weight as affine groups.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn groups(&self, files: &[FileView<'_>], rows: Range<usize>) -> Result<AffineGroups>;

    /// An error with the layer's name before it.
    fn named(&self, error: Error) -> Error {
        Error {
            message: format!("the layer \"{}\": {}", self.module(), error.message),
            ..error
        }
    }
}

/// A folder in which some layers are quantized.
#[derive(Debug, Clone)]
pub struct LayeredFolder<L> {
    /// `config.json`.
    pub config: Value,
    weights: Weights,
    items: Vec<Item<L>>,
    places: HashMap<String, usize>,
}

/// A tensor of the model as its original had it.
#[derive(Debug, Clone)]
pub enum Item<L> {
    /// One that is not quantized.
    Plain(StoredTensor),
    /// A quantized weight.
    Layer(Box<L>),
}

impl<L: StoredLayer> LayeredFolder<L> {
    /// Reads the headers and the configuration of a folder; nothing of the weights. `codes` is the
    /// ending of the tensors by which layers are found, `others` those of their other parts;
    /// `layer` puts a layer of this name together.
    ///
    /// # Errors
    /// If there is no configuration, `layer`'s, or if a weight is there twice.
    pub fn open(
        files: &[FileView<'_>],
        codes: &str,
        others: &[&str],
        layer: impl Fn(&Weights, &str) -> Result<L>,
    ) -> Result<Self> {
        let config = read_json(files, CONFIG)?;
        let config = config.ok_or_else(|| {
            Error::corrupt(format!("there is no \"{CONFIG}\"")).suggest("finish the download")
        })?;
        let weights = Weights::open(files)?;
        let mut items = Vec::new();
        let mut places = HashMap::new();
        for tensor in weights.tensors() {
            let name = &tensor.info.name;
            if let Some(module) = name.strip_suffix(codes) {
                if weights.find(&format!("{module}{WEIGHT}")).is_some() {
                    return Err(Error::corrupt(format!(
                        "the layer \"{module}\" has both \"{WEIGHT}\" and \"{codes}\""
                    )));
                }
                places.insert(module.to_owned(), items.len());
                items.push(Item::Layer(Box::new(layer(&weights, module)?)));
            } else if !is_part(&weights, name, codes, others)? {
                items.push(Item::Plain(tensor.clone()));
            }
        }
        Ok(Self {
            config,
            weights,
            items,
            places,
        })
    }

    /// The tensors of the model, in the order of the files.
    #[must_use]
    pub fn items(&self) -> &[Item<L>] {
        &self.items
    }

    /// The quantized layers.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.items.iter().filter_map(|item| match item {
            Item::Layer(layer) => Some(&**layer),
            Item::Plain(_) => None,
        })
    }

    /// The quantized layer of this name.
    #[must_use]
    pub fn layer(&self, module: &str) -> Option<&L> {
        match self.items.get(*self.places.get(module)?)? {
            Item::Layer(layer) => Some(&**layer),
            Item::Plain(_) => None,
        }
    }

    /// The tensors as they are stored.
    #[must_use]
    pub fn stored(&self) -> &[StoredTensor] {
        self.weights.tensors()
    }
}

/// Whether a tensor is a part of a quantized layer, other than its codes.
///
/// # Errors
/// If it is one, but there are no codes.
fn is_part(weights: &Weights, name: &str, codes: &str, others: &[&str]) -> Result<bool> {
    for ending in others {
        let Some(module) = name.strip_suffix(ending) else {
            continue;
        };
        if weights.part(module, codes).is_some() {
            return Ok(true);
        }
        // A tensor of this name alone may be one of the model's own.
        if *ending != SCALES {
            weights.require_part(module, codes)?;
        }
    }
    Ok(false)
}

impl Weights {
    /// A part of a layer, if it has it.
    pub fn part(&self, module: &str, ending: &str) -> Option<StoredTensor> {
        self.find(&format!("{module}{ending}")).cloned()
    }

    /// A part of a layer.
    ///
    /// # Errors
    /// If the layer does not have it.
    pub fn require_part(&self, module: &str, ending: &str) -> Result<StoredTensor> {
        self.part(module, ending).ok_or_else(|| {
            Error::corrupt(format!(
                "the layer \"{module}\" has no tensor \"{module}{ending}\""
            ))
        })
    }
}
