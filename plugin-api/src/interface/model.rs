//! The description of a model: its config, its tensors, the files beside them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::GroupFacts;

/// How the numbers of a view are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum ElementType {
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of an [`ElementType::F32`].
    BF16 = 2,
    /// The stored bytes of a tensor, whatever they mean; only the plugin that reads
    /// the source's format can tell. A view of this type counts bytes in `cols`.
    Raw = 3,
}

impl ElementType {
    /// The type with this number in the interface.
    pub fn from_code(code: u32) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16, Self::Raw]
            .into_iter()
            .find(|element| *element as u32 == code)
    }

    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Raw => 1,
        }
    }

    /// The type with this safetensors name; `None` for all that is no float of 16
    /// or 32 bits.
    pub fn from_dtype(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::BF16),
            _ => None,
        }
    }
}

/// The two ways in which a reader can present a quantized model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum ModelView {
    /// As a Hugging Face model: its tensor names, row order, `config.json` and
    /// tokenizer files, whatever the format calls them. Every quantizer takes this.
    HuggingFace = 0,
    /// As the format itself has it, names and order untouched. A quantizer of the
    /// same format takes this, so that nothing is lost in translation.
    Native = 1,
}

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Full name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Stored type: a safetensors name (`BF16`) or the format's own (`Q4_K`).
    pub dtype: String,
    /// Dimensions, outermost first, as in PyTorch. Empty for a scalar.
    pub shape: Vec<u64>,
    /// Bytes in the source.
    pub bytes: u64,
}

impl TensorInfo {
    /// Number of elements; `None` if that overflows.
    pub fn elements(&self) -> Option<u64> {
        self.shape
            .iter()
            .try_fold(1u64, |product, dim| product.checked_mul(*dim))
    }

    /// Length of a row: the innermost dimension, 1 for a scalar.
    pub fn cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all dimensions but the innermost one.
    pub fn rows(&self) -> Option<u64> {
        let outer = self.shape.len().saturating_sub(1);
        self.shape[..outer]
            .iter()
            .try_fold(1u64, |product, dim| product.checked_mul(*dim))
    }
}

/// Linear layers that read the same input: statistics of one are those of all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Name for people, e.g. `attention input`.
    pub name: String,
    /// The transformer block that it is in; `None` for the output head.
    #[serde(default)]
    pub block: Option<u32>,
    /// The layers' weights (outputs × inputs), as places in [`ModelDescription::tensors`].
    pub layers: Vec<usize>,
    /// What computes the input.
    #[serde(default)]
    pub fold: Fold,
}

/// What computes a site's input, as far as factors for its channels can be folded into that:
/// where the tensor's numbers are divided by them, so is the input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fold {
    /// Something that nothing can be folded into.
    #[default]
    Nowhere,
    /// A norm with this weight: an element for each channel.
    Norm {
        /// Place of the weight.
        weight: usize,
    },
    /// The product of an activation and this layer's outputs: a row for each channel.
    Rows {
        /// Place of the layer's weight.
        weight: usize,
        /// Place of its bias, if it has one: that must be divided, too.
        #[serde(default)]
        bias: Option<usize>,
    },
    /// What attention gathers of this layer's outputs (the values): each head of them serves so
    /// many heads of channels, one after the other.
    Values {
        /// Place of the layer's weight.
        weight: usize,
        /// Place of its bias, if it has one: that must be divided, too.
        #[serde(default)]
        bias: Option<usize>,
        /// Elements of a head.
        head_dim: usize,
        /// Heads of channels for each head of values.
        shared_by: usize,
    },
}

/// What a plugin is told about a model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelDescription {
    /// Name for people: the folder's, the file's or the Hub's.
    pub name: String,
    /// The format that the tensors are stored in: `hf` for safetensors, else the
    /// name of the reader's format.
    pub format: String,
    /// `config.json`; an empty object in a native view.
    pub config: serde_json::Value,
    /// All tensors, in the source's order. [`UnitInput`](super::UnitInput) names
    /// them by their place here.
    pub tensors: Vec<TensorInfo>,
    /// Names of the files beside the tensors that [`Inputs::file`](super::Inputs)
    /// gives out (tokenizer files, `generation_config.json`, templates).
    pub files: Vec<String>,
    /// The linear layers by the inputs that they read, in the order in which the model runs
    /// them; empty if the host does not know this architecture, or in a native view.
    #[serde(default)]
    pub sites: Vec<Site>,
    /// Facts that only the source's format has, for people: what `info` prints
    /// beyond the usual.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// What the host found out about the groups of quantized weights, by the places of the tensors
    /// that have some. Only there if the request asks for
    /// [repacking](super::Routing::Repack). Since 1.2.
    #[serde(default)]
    pub groups: BTreeMap<usize, GroupFacts>,
    /// The 16-bit type (a safetensors name) that holds the very numbers of all tensors of one
    /// dimension, where the source stores them in single precision. Only there with
    /// [`groups`](Self::groups). Since 1.2.
    #[serde(default)]
    pub narrow: Option<String>,
}

impl ModelDescription {
    /// The place of the tensor with this name.
    pub fn tensor_index(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|tensor| tensor.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[u64]) -> TensorInfo {
        TensorInfo {
            name: "t".into(),
            dtype: "F32".into(),
            shape: shape.to_vec(),
            bytes: 0,
        }
    }

    #[test]
    fn rows_and_cols_of_every_rank() {
        assert_eq!((tensor(&[]).rows(), tensor(&[]).cols()), (Some(1), 1));
        assert_eq!((tensor(&[7]).rows(), tensor(&[7]).cols()), (Some(1), 7));
        assert_eq!(tensor(&[2, 3, 4]).rows(), Some(6));
        assert_eq!(tensor(&[2, 3, 4]).elements(), Some(24));
    }

    #[test]
    fn overflowing_shapes_have_no_size() {
        assert_eq!(tensor(&[u64::MAX, 2]).elements(), None);
        assert_eq!(tensor(&[u64::MAX, 2, 1]).rows(), None);
    }
}
