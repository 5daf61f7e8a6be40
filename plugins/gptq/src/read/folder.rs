//! The layers of a folder.

use std::ops::Range;

use llm_quantize_plugin_api::hf_folder::quantized::{self, LayeredFolder};
use llm_quantize_plugin_api::hf_folder::{StoredTensor, Weights};
use llm_quantize_plugin_api::kernels::bits;
use llm_quantize_plugin_api::{AffineGroups, ElementType, Error, FileView, Result};

use super::config::Quantization;
use crate::layout::packed::Packed;
use crate::layout::{G_IDX, QWEIGHT, QZEROS, SCALES, Shape, Version};
use crate::levels::type_name;

/// Bits that layers may have.
const BITS: [u32; 4] = [4, 8, 3, 2];

/// A GPTQ folder.
#[derive(Debug, Clone)]
pub struct Folder {
    /// What it says about the quantization.
    pub quantization: Quantization,
    /// Its tensors.
    pub layers: LayeredFolder<StoredLayer>,
}

/// A quantized layer.
#[derive(Debug, Clone)]
pub struct StoredLayer {
    /// Its name.
    pub module: String,
    /// Its sizes.
    pub shape: Shape,
    version: Version,
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
        let others = [QZEROS, SCALES, G_IDX];
        let layers = LayeredFolder::open(files, QWEIGHT, &others, |weights, module| {
            StoredLayer::find(weights, &quantization, module)
        })?;
        Ok(Self {
            quantization,
            layers,
        })
    }
}

impl StoredLayer {
    /// Puts a layer together.
    fn find(weights: &Weights, quantization: &Quantization, module: &str) -> Result<Self> {
        let qweight = weights.require_part(module, QWEIGHT)?;
        let qzeros = weights.require_part(module, QZEROS)?;
        let scales = weights.require_part(module, SCALES)?;
        let g_idx = weights.part(module, G_IDX);
        for words in [Some(&qweight), Some(&qzeros), g_idx.as_ref()]
            .into_iter()
            .flatten()
        {
            if words.info.dtype != "I32" {
                return Err(words.of_type("I32"));
            }
        }
        let scale_type = ElementType::from_dtype(&scales.info.dtype);
        let sizes = Sizes {
            module,
            qweight: qweight.matrix()?,
            qzeros: qzeros.matrix()?,
            scales: scales.matrix()?,
            g_idx: g_idx.as_ref().map(|g_idx| &g_idx.info.shape[..]),
        };
        Ok(Self {
            module: module.to_owned(),
            shape: sizes.shape(quantization)?,
            version: quantization.version,
            qweight,
            scale_type: scale_type.ok_or_else(|| scales.of_type("F16, BF16 or F32"))?,
            qzeros,
            scales,
            g_idx,
        })
    }

    /// The layer's bytes.
    ///
    /// # Errors
    /// If the files are others than those that were opened.
    pub fn packed<'a>(&self, files: &[FileView<'a>]) -> Result<Packed<'a>> {
        Ok(Packed {
            shape: self.shape,
            version: self.version,
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
}

impl quantized::StoredLayer for StoredLayer {
    fn module(&self) -> &str {
        &self.module
    }

    fn sizes(&self) -> [usize; 2] {
        [self.shape.outputs, self.shape.inputs]
    }

    fn type_name(&self) -> String {
        type_name(self.shape.bits)
    }

    fn bytes(&self) -> u64 {
        let parts = [&self.qweight, &self.qzeros, &self.scales];
        let parts = parts.into_iter().chain(&self.g_idx);
        parts.map(|part| part.info.bytes).sum()
    }

    fn decode(&self, files: &[FileView<'_>], rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.packed(files)?.decode(rows, out)
    }

    fn groups(&self, files: &[FileView<'_>], rows: Range<usize>) -> Result<AffineGroups> {
        let packed = self.packed(files)?;
        let rows = packed.rows(rows)?;
        let mut permutation = packed.permutation()?;
        let Shape { inputs, group, .. } = self.shape;
        if permutation.is_none() && !inputs.is_multiple_of(group) {
            permutation = Some((0..inputs).map(|input| (input / group) as u32).collect());
        }
        rows.into_affine(self.shape.bits, group, permutation)
    }
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
