//! How a linear layer with `K` inputs and `N` outputs is stored: four tensors in place of its
//! weight.
//!
//! | tensor | type | shape | |
//! | --- | --- | --- | --- |
//! | `qweight` | I32 | `[K·b/32, N]` | codes, packed along the inputs |
//! | `qzeros` | I32 | `[G, N·b/32]` | zeros, packed along the outputs |
//! | `scales` | F16 | `[G, N]` | |
//! | `g_idx` | I32 | `[K]` | group of each input |
//!
//! A weight is `scale · (code - zero)`. Codes are streams of bits, lowest first ([`bits`]).

pub mod packed;

use llm_quantize_plugin_api::hf_folder::NewTensor;
pub use llm_quantize_plugin_api::hf_folder::quantized::SCALES;
use llm_quantize_plugin_api::hf_folder::quantized::{LayerShape, groups_misfit};
use llm_quantize_plugin_api::kernels::bits;

use crate::levels::type_name;

/// Endings of the tensors' names, beside [`SCALES`]: codes.
pub const QWEIGHT: &str = ".qweight";
/// Zeros.
pub const QZEROS: &str = ".qzeros";
/// Groups of inputs.
pub const G_IDX: &str = ".g_idx";

/// How zeros are stored; `checkpoint_format` in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// `gptq`: the zero minus one, to which kernels add one.
    #[default]
    V1,
    /// `gptq_v2`: the zero.
    V2,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V1, Self::V2];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
        }
    }

    /// The version of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|version| version.name().eq_ignore_ascii_case(name))
    }

    /// What is between a zero and what is stored. No kernel takes a stored field as -1, so a zero
    /// of 0 cannot be stored where this is 1.
    #[must_use]
    pub const fn lowest_zero(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 0,
        }
    }
}

/// The sizes of a stored layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Bits of a code.
    pub bits: u32,
    /// Columns of the weight, `K`.
    pub inputs: usize,
    /// Rows of the weight, `N`.
    pub outputs: usize,
    /// Inputs of a group. Those of the last group may be fewer in files that others wrote.
    pub group: usize,
}

impl Shape {
    /// Groups of a row, `G`.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.inputs.div_ceil(self.group)
    }

    /// Length of the packed codes, in bytes.
    #[must_use]
    pub fn qweight_bytes(&self) -> Option<usize> {
        bits::words(self.bits, self.inputs)?
            .checked_mul(self.outputs)?
            .checked_mul(4)
    }

    /// Words of a row of zeros.
    #[must_use]
    pub fn zero_words(&self) -> usize {
        (self.outputs.saturating_mul(self.bits as usize)).div_ceil(32)
    }

    /// The trivial `g_idx`: groups follow each other.
    #[must_use]
    pub fn trivial_groups(&self) -> Vec<u8> {
        let groups = (0..self.inputs).map(|input| (input / self.group) as u32);
        groups.flat_map(u32::to_le_bytes).collect()
    }
}

impl LayerShape for Shape {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn misfit(&self) -> Option<String> {
        let fills = |size: usize| size > 0 && bits::words(self.bits, size).is_some();
        if let Some(misfit) = groups_misfit(self.group, self.inputs) {
            return Some(misfit);
        }
        let (what, size) = match (fills(self.inputs), fills(self.outputs)) {
            (true, true) => return None,
            (false, _) => ("inputs", self.inputs),
            (true, false) => ("outputs", self.outputs),
        };
        Some(format!(
            "{size} {what} do not fill words of 32 bits with {} bits each",
            self.bits
        ))
    }

    /// The four tensors in the order `qweight`, `qzeros`, `scales`, `g_idx`.
    fn tensors(&self, module: &str) -> Vec<NewTensor> {
        let [inputs, outputs, groups] =
            [self.inputs, self.outputs, self.groups()].map(|size| size as u64);
        let words = bits::words(self.bits, self.inputs).unwrap_or(0) as u64;
        let tensor = |ending: &str, dtype: &str, shape: &[u64]| {
            NewTensor::new(format!("{module}{ending}"), dtype, shape)
        };
        vec![
            tensor(QWEIGHT, "I32", &[words, outputs]),
            tensor(QZEROS, "I32", &[groups, self.zero_words() as u64]),
            tensor(SCALES, "F16", &[groups, outputs]),
            tensor(G_IDX, "I32", &[inputs]),
        ]
    }

    fn type_name(&self) -> String {
        type_name(self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(bits: u32, inputs: usize, outputs: usize, group: usize) -> Shape {
        Shape {
            bits,
            inputs,
            outputs,
            group,
        }
    }

    #[test]
    fn tensors_have_the_shapes_of_the_format() {
        // Those that GPTQModel writes for a layer of 576 inputs and 192 outputs.
        let tensors = shape(4, 576, 192, 64).tensors("m.k_proj");
        let expected = [
            ("m.k_proj.qweight", "I32", vec![72, 192]),
            ("m.k_proj.qzeros", "I32", vec![9, 24]),
            ("m.k_proj.scales", "F16", vec![9, 192]),
            ("m.k_proj.g_idx", "I32", vec![576]),
        ];
        for (tensor, (name, dtype, shape)) in tensors.iter().zip(expected) {
            assert_eq!((tensor.name.as_str(), tensor.dtype.as_str()), (name, dtype));
            assert_eq!(tensor.shape, shape);
        }
        let tensors = shape(3, 64, 32, 32).tensors("m");
        assert_eq!(
            (&tensors[0].shape[..], &tensors[1].shape[..]),
            (&[6, 32][..], &[2, 3][..])
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert_eq!(shape(4, 576, 192, 64).misfit(), None);
        assert_eq!(shape(3, 96, 32, 96).misfit(), None);
        for (shape, what) in [
            (
                shape(4, 576, 192, 128),
                "groups of 128 do not divide 576 inputs",
            ),
            (shape(3, 48, 32, 48), "48 inputs do not fill"),
            (shape(3, 32, 40, 32), "40 outputs do not fill"),
            (shape(4, 64, 12, 64), "12 outputs do not fill"),
            (shape(4, 64, 12, 0), "groups of 0"),
        ] {
            assert!(shape.misfit().unwrap().contains(what), "{shape:?}");
        }
    }

    #[test]
    fn trivial_groups_rise() {
        let words: Vec<u8> = shape(4, 8, 8, 4).trivial_groups();
        let expected: Vec<u8> = [0u32, 0, 0, 0, 1, 1, 1, 1]
            .iter()
            .flat_map(|group| group.to_le_bytes())
            .collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn versions_have_names() {
        for version in Version::ALL {
            assert_eq!(Version::find(version.name()), Some(version));
        }
        assert_eq!(Version::find("marlin"), None);
    }
}
