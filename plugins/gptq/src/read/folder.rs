//! The layers of a folder.

use std::collections::HashMap;
use std::ops::Range;

use llm_quantize_plugin_api::hf_folder::{CONFIG, StoredTensor, Weights, read_json};
use llm_quantize_plugin_api::kernels::bits;
use llm_quantize_plugin_api::{ElementType, Error, FileView, Result};
use serde_json::Value;

use super::config::Quantization;
use crate::layout::packed::Packed;
use crate::layout::{G_IDX, QWEIGHT, QZEROS, SCALES, Shape, Version, WEIGHT};

/// Bits that layers may have.
const BITS: [u32; 4] = [4, 8, 3, 2];

/// A GPTQ folder.
#[derive(Debug, Clone)]
pub struct Folder {
    /// `config.json`.
    pub config: Value,
    /// What it says about the quantization.
    pub quantization: Quantization,
    weights: Weights,
    items: Vec<Item>,
    places: HashMap<String, usize>,
}

/// A tensor of the model as its original had it.
#[derive(Debug, Clone)]
pub enum Item {
    /// One that is not quantized.
    Plain(StoredTensor),
    /// A quantized weight.
    Layer(Box<StoredLayer>),
}

/// A quantized layer.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    /// Its name.
    pub module: String,
    /// Its sizes.
    pub shape: Shape,
    qweight: StoredTensor,
    qzeros: StoredTensor,
    scales: StoredTensor,
    scale_type: ElementType,
    g_idx: Option<StoredTensor>,
}

impl Folder {
    /// Reads the headers and configurations of a folder; nothing of the weights.
    ///
    /// # Errors
    /// If it is no GPTQ folder, or one whose parts do not fit each other.
    pub fn open(files: &[FileView<'_>]) -> Result<Self> {
        let quantization = Quantization::of(files)?;
        let config = read_json(files, CONFIG)?;
        let config = config.ok_or_else(|| {
            Error::corrupt(format!("there is no \"{CONFIG}\"")).suggest("finish the download")
        })?;
        let weights = Weights::open(files)?;
        let mut items = Vec::new();
        let mut places = HashMap::new();
        for tensor in weights.tensors() {
            let name = &tensor.info.name;
            if let Some(module) = name.strip_suffix(QWEIGHT) {
                places.insert(module.to_owned(), items.len());
                let layer = StoredLayer::find(&weights, &quantization, module, tensor)?;
                items.push(Item::Layer(Box::new(layer)));
            } else if !is_part(&weights, name)? {
                items.push(Item::Plain(tensor.clone()));
            }
        }
        Ok(Self {
            config,
            quantization,
            weights,
            items,
            places,
        })
    }

    /// The tensors of the model, in the order of the files.
    #[must_use]
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The quantized layers.
    pub fn layers(&self) -> impl Iterator<Item = &StoredLayer> {
        self.items.iter().filter_map(|item| match item {
            Item::Layer(layer) => Some(&**layer),
            Item::Plain(_) => None,
        })
    }

    /// The quantized layer of this name.
    #[must_use]
    pub fn layer(&self, module: &str) -> Option<&StoredLayer> {
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
fn is_part(weights: &Weights, name: &str) -> Result<bool> {
    for ending in [QZEROS, SCALES, G_IDX] {
        let Some(module) = name.strip_suffix(ending) else {
            continue;
        };
        if weights.find(&format!("{module}{QWEIGHT}")).is_some() {
            return Ok(true);
        }
        // A tensor of this name alone may be one of the model's own.
        if ending != SCALES {
            return Err(lacks(module, QWEIGHT));
        }
    }
    Ok(false)
}

fn lacks(module: &str, ending: &str) -> Error {
    Error::corrupt(format!(
        "the layer \"{module}\" has no tensor \"{module}{ending}\""
    ))
}

impl StoredLayer {
    /// Puts a layer together, given the tensor of its codes.
    fn find(
        weights: &Weights,
        quantization: &Quantization,
        module: &str,
        qweight: &StoredTensor,
    ) -> Result<Self> {
        let part = |ending: &str| weights.find(&format!("{module}{ending}")).cloned();
        let required = |ending: &str| part(ending).ok_or_else(|| lacks(module, ending));
        if part(WEIGHT).is_some() {
            return Err(Error::corrupt(format!(
                "the layer \"{module}\" has both \"{WEIGHT}\" and \"{QWEIGHT}\""
            )));
        }
        let (qzeros, scales, g_idx) = (required(QZEROS)?, required(SCALES)?, part(G_IDX));
        for words in [Some(qweight), Some(&qzeros), g_idx.as_ref()]
            .into_iter()
            .flatten()
        {
            if words.info.dtype != "I32" {
                return Err(of_type(words, "I32"));
            }
        }
        let scale_type = ElementType::from_dtype(&scales.info.dtype);
        let sizes = Sizes {
            module,
            qweight: matrix(qweight)?,
            qzeros: matrix(&qzeros)?,
            scales: matrix(&scales)?,
            g_idx: g_idx.as_ref().map(|g_idx| &g_idx.info.shape[..]),
        };
        Ok(Self {
            module: module.to_owned(),
            shape: sizes.shape(quantization)?,
            qweight: qweight.clone(),
            scale_type: scale_type.ok_or_else(|| of_type(&scales, "F16, BF16 or F32"))?,
            qzeros,
            scales,
            g_idx,
        })
    }

    /// The layer's bytes.
    ///
    /// # Errors
    /// If the files are others than those that were opened.
    pub fn packed<'a>(&self, files: &[FileView<'a>], version: Version) -> Result<Packed<'a>> {
        Ok(Packed {
            shape: self.shape,
            version,
            qweight: self.qweight.bytes(files)?,
            qzeros: self.qzeros.bytes(files)?,
            scales: self.scales.bytes(files)?,
            scale_type: self.scale_type,
            g_idx: self
                .g_idx
                .as_ref()
                .map(|g_idx| g_idx.bytes(files))
                .transpose()?,
        })
    }

    /// Decodes rows; `out` holds exactly those.
    ///
    /// # Errors
    /// As [`Packed::decode`], with the layer's name.
    pub fn decode(
        &self,
        files: &[FileView<'_>],
        version: Version,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let packed = self.packed(files, version)?;
        packed.decode(rows, out).map_err(|error| self.named(error))
    }

    /// An error with the layer's name before it.
    #[must_use]
    pub fn named(&self, error: Error) -> Error {
        Error {
            message: format!("the layer \"{}\": {}", self.module, error.message),
            ..error
        }
    }

    /// Bytes of all of its tensors.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let parts = [&self.qweight, &self.qzeros, &self.scales];
        let parts = parts.into_iter().chain(&self.g_idx);
        parts.map(|part| part.info.bytes).sum()
    }
}

fn of_type(tensor: &StoredTensor, expected: &str) -> Error {
    let info = &tensor.info;
    Error::unsupported(format!(
        "the tensor \"{}\" is of type {}, expected {expected}",
        info.name, info.dtype
    ))
}

fn matrix(tensor: &StoredTensor) -> Result<[usize; 2]> {
    let size = |dim: u64| usize::try_from(dim).ok();
    let sizes = match tensor.info.shape[..] {
        [rows, columns] => size(rows).zip(size(columns)),
        _ => None,
    };
    sizes.map(|(rows, columns)| [rows, columns]).ok_or_else(|| {
        Error::corrupt(format!(
            "the tensor \"{}\" has the shape {:?}, expected a matrix",
            tensor.info.name, tensor.info.shape
        ))
    })
}

/// The sizes of a layer's tensors.
struct Sizes<'a> {
    module: &'a str,
    qweight: [usize; 2],
    qzeros: [usize; 2],
    scales: [usize; 2],
    g_idx: Option<&'a [u64]>,
}

impl Sizes<'_> {
    /// The layer's sizes: the configuration's bits and groups if the tensors have them, else
    /// those that they do have, as layers may differ.
    fn shape(&self, quantization: &Quantization) -> Result<Shape> {
        let [words, outputs] = self.qweight;
        let groups = self.scales[0];
        let fits = |bits: u32| {
            let inputs = self.inputs(bits);
            let zeros = outputs.checked_mul(bits as usize);
            self.scales[1] == outputs
                && self.qzeros[0] == groups
                && zeros.map(|bits| bits.div_ceil(32)) == Some(self.qzeros[1])
                && inputs.is_some_and(|inputs| bits::words(bits, inputs) == Some(words))
        };
        // Where zeros do not fill their words, other bits could fit as well.
        let full = |bits: u32| fits(bits) && bits::words(bits, outputs).is_some();
        let usual = quantization.bits;
        let mut candidates = std::iter::once(usual).chain(BITS);
        let bits = candidates.find(|bits| full(*bits));
        let bits = bits.or_else(|| Some(usual).filter(|bits| fits(*bits)));
        let bits = bits.ok_or_else(|| self.disagree())?;
        let inputs = self.inputs(bits).ok_or_else(|| self.disagree())?;
        if inputs == 0 || outputs == 0 || groups == 0 {
            return Err(self.disagree());
        }
        let usual = quantization.group_size.unwrap_or(inputs);
        let group = match inputs.div_ceil(usual) == groups {
            true => usual.min(inputs),
            false if inputs.is_multiple_of(groups) => inputs / groups,
            false => return Err(self.disagree()),
        };
        Ok(Shape {
            bits,
            inputs,
            outputs,
            group,
        })
    }

    /// The layer's inputs, if codes have so many bits.
    fn inputs(&self, bits: u32) -> Option<usize> {
        match self.g_idx {
            Some(&[inputs]) => usize::try_from(inputs).ok(),
            Some(_) => None,
            None => Some(self.qweight[0].checked_mul(32)? / bits as usize),
        }
    }

    fn disagree(&self) -> Error {
        let g_idx = self
            .g_idx
            .map_or_else(|| "none".into(), |shape| format!("{shape:?}"));
        Error::corrupt(format!(
            "the tensors of the layer \"{}\" do not fit each other: qweight {:?}, qzeros {:?}, \
             scales {:?}, g_idx {g_idx}",
            self.module, self.qweight, self.qzeros, self.scales
        ))
    }
}
