//! How a linear layer with `K` inputs and `N` outputs in `G` groups is stored: three tensors in
//! place of its weight, `scale · (code - zero)`.
//!
//! | version | `qweight` | `qzeros` | `scales` |
//! | --- | --- | --- | --- |
//! | `gemm` | I32 `[K, N/8]`, shuffled | I32 `[G, N/8]`, shuffled | F16 `[G, N]` |
//! | `gemv` | I32 `[N, K/8]` | I32 `[N, P/8]` | F16 `[N, P]` |
//! | `gemv_fast` | I16 `[N/4, K]`, interleaved | F16 `[P, N]`, `-zero · scale` | F16 `[P, N]` |
//!
//! A word holds eight codes, in `gemm` those of eight neighbouring outputs of one input, in an
//! order of its own ([`gemm`]); elsewhere those of neighbouring inputs of one output. `P` is `G`,
//! padded as AutoAWQ's kernels need it ([`Shape::padded_groups`]). `gemm` is written, which is what
//! everything loads, and `gemv`. `gemv_fast` is only read: its products are rounded.

pub mod gemm;
mod gemv;
mod gemv_fast;
pub mod packed;

use llm_quantize_plugin_api::hf_folder::NewTensor;
pub use llm_quantize_plugin_api::hf_folder::quantized::SCALES;
use llm_quantize_plugin_api::hf_folder::quantized::{LayerShape, groups_misfit};

use crate::levels::LEVEL;

/// Endings of the tensors' names, beside [`SCALES`]: codes.
pub const QWEIGHT: &str = ".qweight";
/// Zeros.
pub const QZEROS: &str = ".qzeros";

/// Codes in a word.
pub const PACK: usize = 8;

/// How codes and zeros are arranged; `version` in the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// `gemm`, which everything loads.
    #[default]
    Gemm,
    /// `gemv`, for one token at a time on AutoAWQ's older kernels.
    Gemv,
    /// `gemv_fast`, for those that came after them.
    GemvFast,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gemm, Self::Gemv, Self::GemvFast];
    /// Those that are written.
    pub const WRITTEN: [Self; 2] = [Self::Gemm, Self::Gemv];

    /// The name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::Gemv => "gemv",
            Self::GemvFast => "gemv_fast",
        }
    }

    /// The version of this name, in whatever case: older programs wrote capitals.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|version| version.name().eq_ignore_ascii_case(name))
    }
}

/// The sizes of a stored layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Columns of the weight, `K`.
    pub inputs: usize,
    /// Rows of the weight, `N`.
    pub outputs: usize,
    /// Inputs of a group.
    pub group: usize,
    /// How it is arranged.
    pub version: Version,
}

/// What a version's tensors look like: type and shape of `qweight`, `qzeros` and `scales`. No
/// type where any float is read.
pub type StoredSizes = [(Option<&'static str>, [usize; 2]); 3];

impl Shape {
    /// Groups of a row, `G`.
    #[must_use]
    pub const fn groups(&self) -> usize {
        self.inputs / self.group
    }

    /// Groups of a row with the padding of `gemv` and `gemv_fast`, `P`; `None` for groups that
    /// AutoAWQ cannot pad.
    #[must_use]
    pub fn padded_groups(&self) -> Option<usize> {
        let words = match self.group {
            128.. => 1,
            64 => 2,
            32 => 4,
            _ => return None,
        };
        self.groups()
            .div_ceil(PACK)
            .next_multiple_of(words)
            .checked_mul(PACK)
    }

    /// What the tensors of a layer look like; `None` if there are no such layers.
    #[must_use]
    pub fn stored(&self) -> Option<StoredSizes> {
        let Self {
            inputs, outputs, ..
        } = *self;
        if self.misfit().is_some() {
            return None;
        }
        let words = Some("I32");
        Some(match self.version {
            Version::Gemm => [
                (words, [inputs, outputs / PACK]),
                (words, [self.groups(), outputs / PACK]),
                (None, [self.groups(), outputs]),
            ],
            Version::Gemv => {
                let padded = self.padded_groups()?;
                [
                    (words, [outputs, inputs / PACK]),
                    (words, [outputs, padded / PACK]),
                    (None, [outputs, padded]),
                ]
            }
            Version::GemvFast => {
                let padded = self.padded_groups()?;
                [
                    (Some("I16"), [outputs / gemv_fast::ROWS, inputs]),
                    (None, [padded, outputs]),
                    (None, [padded, outputs]),
                ]
            }
        })
    }

    /// Inputs of which a row has whole multiples: those that lie together in its codes.
    const fn together(&self) -> usize {
        match self.version {
            Version::Gemm => 1,
            Version::Gemv => PACK,
            Version::GemvFast => gemv_fast::BLOCK,
        }
    }
}

impl LayerShape for Shape {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn misfit(&self) -> Option<String> {
        if let Some(misfit) = groups_misfit(self.group, self.inputs) {
            return Some(misfit);
        }
        let (inputs, outputs) = (self.inputs, self.outputs);
        if inputs == 0 || outputs == 0 {
            return Some(format!("{outputs} x {inputs} weights are none"));
        }
        if !outputs.is_multiple_of(PACK) {
            return Some(format!(
                "{outputs} outputs do not fill words of {PACK} codes"
            ));
        }
        let (version, together) = (self.version.name(), self.together());
        if !inputs.is_multiple_of(together) {
            return Some(format!(
                "{inputs} inputs do not fill blocks of {together} codes, which {version} has"
            ));
        }
        let padded = self.version == Version::Gemm || self.padded_groups().is_some();
        (!padded).then(|| format!("{version} has no groups of {}", self.group))
    }

    /// The three tensors, in the order `qweight`, `qzeros`, `scales`.
    fn tensors(&self, module: &str) -> Vec<NewTensor> {
        let endings = [QWEIGHT, QZEROS, SCALES];
        let stored = self.stored().into_iter().flatten();
        let tensors = endings.iter().zip(stored).map(|(ending, (dtype, shape))| {
            let shape = shape.map(|size| size as u64);
            NewTensor::new(format!("{module}{ending}"), dtype.unwrap_or("F16"), &shape)
        });
        tensors.collect()
    }

    fn type_name(&self) -> String {
        LEVEL.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(inputs: usize, outputs: usize, group: usize) -> Shape {
        Shape {
            inputs,
            outputs,
            group,
            version: Version::Gemm,
        }
    }

    #[test]
    fn tensors_have_the_shapes_of_the_format() {
        // Those that AutoAWQ writes for a layer of 576 inputs and 192 outputs.
        let tensors = shape(576, 192, 64).tensors("m.k_proj");
        let expected = [
            ("m.k_proj.qweight", "I32", [576, 24]),
            ("m.k_proj.qzeros", "I32", [9, 24]),
            ("m.k_proj.scales", "F16", [9, 192]),
        ];
        assert_eq!(tensors.len(), 3);
        for (tensor, (name, dtype, shape)) in tensors.iter().zip(expected) {
            assert_eq!((tensor.name.as_str(), tensor.dtype.as_str()), (name, dtype));
            assert_eq!(tensor.shape, shape);
        }
    }

    #[test]
    fn groups_are_padded_for_kernels() {
        // 9 groups of 64 are two words, 18 of 32 three, which come in fours; 5 of 128 one.
        for (layer, padded) in [
            (shape(576, 8, 64), Some(16)),
            (shape(576, 8, 32), Some(32)),
            (shape(640, 8, 128), Some(8)),
            (shape(4096, 8, 4096), Some(8)),
            (shape(576, 8, 48), None),
        ] {
            assert_eq!(layer.padded_groups(), padded, "{layer:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert_eq!(shape(576, 192, 64).misfit(), None);
        assert_eq!(shape(100, 8, 100).misfit(), None);
        for (shape, what) in [
            (
                shape(576, 192, 128),
                "groups of 128 do not divide 576 inputs",
            ),
            (shape(64, 12, 64), "12 outputs do not fill words"),
            (shape(64, 8, 0), "groups of 0"),
            (shape(0, 8, 32), "8 x 0 weights"),
        ] {
            assert!(shape.misfit().unwrap().contains(what), "{shape:?}");
            assert_eq!(shape.stored(), None);
        }
        // Rows of other versions are whole words, or whole blocks.
        for (shape, misfits) in [
            (
                shape(100, 8, 100),
                [None, Some("100 inputs do not"), Some("100 inputs do not")],
            ),
            (
                shape(96, 8, 32),
                [None, None, Some("96 inputs do not fill blocks of 64")],
            ),
            (
                shape(192, 8, 48),
                [None, Some("no groups of 48"), Some("no groups of 48")],
            ),
            (shape(512, 8, 64), [None; 3]),
        ] {
            for (version, expected) in Version::ALL.into_iter().zip(misfits) {
                let shape = Shape { version, ..shape };
                let misfit = shape.misfit();
                assert_eq!(shape.stored().is_none(), misfit.is_some(), "{shape:?}");
                match (misfit, expected) {
                    (None, None) => {}
                    (Some(misfit), Some(expected)) => {
                        assert!(misfit.contains(expected), "{misfit}")
                    }
                    (misfit, _) => panic!("{shape:?}: {misfit:?}"),
                }
            }
        }
    }

    #[test]
    fn versions_have_names() {
        for version in Version::ALL {
            assert_eq!(Version::find(&version.name().to_uppercase()), Some(version));
        }
        assert_eq!(Version::find("marlin"), None);
    }
}
