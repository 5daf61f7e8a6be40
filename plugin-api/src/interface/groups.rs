//! Weights that are affine in groups: what GPTQ, AWQ and some GGUF blocks share.

/// Rows of a weight as integer codes with a scale and a zero for each group:
/// `w = scale · (code - zero)`.
///
/// With this a converter repacks one affine format into another without touching
/// the numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct AffineGroups {
    /// Bits of a code.
    pub bits: u32,
    /// Weights in a group, along the row.
    pub group_size: u32,
    /// Codes, `rows × cols`.
    pub codes: Vec<u8>,
    /// Scales, `rows × groups`.
    pub scales: Vec<f32>,
    /// Zeros, `rows × groups`; whole numbers in the integer formats.
    pub zeros: Vec<f32>,
    /// Group of each column, if they do not simply follow each other.
    pub permutation: Option<Vec<u32>>,
}
