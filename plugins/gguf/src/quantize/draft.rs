//! A GGUF file before its types are chosen: what both kinds of source become.

use crate::blocks::TypeLayout;
use crate::container::Metadata;
use crate::families::{Family, Transform};

/// A model in GGUF's terms, ready for a level.
pub struct Draft {
    /// All metadata but the file type and what an importance matrix adds.
    pub metadata: Metadata,
    /// The tensors, in the order of an unquantized file.
    pub tensors: Vec<DraftTensor>,
    /// The family, if it is one that can be had as a Hugging Face model.
    pub family: Option<&'static Family>,
    /// Whether the source was quantized by llama-quantize's kind of tool before: then
    /// metadata is carried over as that tool does.
    pub from_gguf: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A tensor of a draft.
pub struct DraftTensor {
    /// GGUF name.
    pub name: String,
    /// Dimensions in ggml's order: the row length first.
    pub dims: Vec<u64>,
    /// The type that it has in the source, or would have in a conversion without
    /// quantization.
    pub ty: TypeLayout,
    /// Where its numbers come from.
    pub content: Content,
    /// The layer it belongs to.
    pub layer: Option<u32>,
}

/// Where a tensor's numbers come from.
pub enum Content {
    /// Tensors of the source, with their rows reordered or not: one, or of a stack each expert's, in
    /// order.
    Source {
        /// Places in the model's tensors.
        sources: Vec<usize>,
        /// What to do with the rows.
        transform: Transform,
    },
    /// Computed numbers.
    Values(Vec<f32>),
}
