//! ggml's tensor types that have no codec here: known by name and size, so
//! that a file that holds them can be listed and a refusal can name them.

/// Name, id and block size of a ggml tensor type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeLayout {
    /// ggml's name, in upper case (`IQ2_XS`).
    pub name: &'static str,
    /// ggml's id, as stored in GGUF tensor tables.
    pub id: u32,
    /// Weights in one block.
    pub block_weights: usize,
    /// Bytes that one block takes.
    pub block_bytes: usize,
}

const fn layout(
    name: &'static str,
    id: u32,
    block_weights: usize,
    block_bytes: usize,
) -> TypeLayout {
    TypeLayout {
        name,
        id,
        block_weights,
        block_bytes,
    }
}

/// The types without a codec. Ids that ggml has withdrawn are absent.
pub(super) const OTHER_TYPES: &[TypeLayout] = &[
    layout("Q8_1", 9, 32, 36),
    layout("Q8_K", 15, 256, 292),
    layout("IQ2_XXS", 16, 256, 66),
    layout("IQ2_XS", 17, 256, 74),
    layout("IQ3_XXS", 18, 256, 98),
    layout("IQ1_S", 19, 256, 50),
    layout("IQ3_S", 21, 256, 110),
    layout("IQ2_S", 22, 256, 82),
    layout("I8", 24, 1, 1),
    layout("I16", 25, 1, 2),
    layout("I32", 26, 1, 4),
    layout("I64", 27, 1, 8),
    layout("F64", 28, 1, 8),
    layout("IQ1_M", 29, 256, 56),
    layout("NVFP4", 40, 64, 36),
    layout("Q1_0", 41, 128, 18),
    layout("Q2_0", 42, 64, 18),
];

impl TypeLayout {
    /// Layout of the ggml type with that id, with or without a codec here.
    pub fn from_id(id: u32) -> Option<Self> {
        let supported = super::CODECS.iter().map(|codec| codec.layout);
        supported
            .chain(OTHER_TYPES.iter().copied())
            .find(|layout| layout.id == id)
    }

    /// Bytes of a row of `cols` weights; `None` if that is not a whole number
    /// of blocks or does not fit in a `usize`.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_weights) {
            return None;
        }
        (cols / self.block_weights).checked_mul(self.block_bytes)
    }
}
