//! The layers of a folder.

use std::ops::Range;

use llm_quantize_plugin_api::hf_folder::quantized::{self, Item, LayerShape, LayeredFolder};
use llm_quantize_plugin_api::hf_folder::{StoredTensor, Weights};
use llm_quantize_plugin_api::{AffineGroups, ElementType, Error, FileView, Result};

use super::config::Quantization;
use crate::layout::packed::Packed;
use crate::layout::{PACK, QWEIGHT, QZEROS, SCALES, Shape, Version};
use crate::levels::BITS;

/// An AWQ folder.
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
    /// `qweight`, `qzeros` and `scales`.
    parts: [StoredTensor; 3],
    floats: ElementType,
}

impl Folder {
    /// Reads the headers and configurations of a folder; nothing of the weights.
    ///
    /// # Errors
    /// If it is no AWQ folder, or one whose parts do not fit each other.
    pub fn open(files: &[FileView<'_>]) -> Result<Self> {
        let quantization = Quantization::of(files)?;
        let layers = LayeredFolder::open(files, QWEIGHT, &[QZEROS, SCALES], |weights, module| {
            StoredLayer::find(weights, &quantization, module)
        })?;
        for item in layers.items() {
            refuse_scaled_activation(item)?;
        }
        Ok(Self {
            quantization,
            layers,
        })
    }
}

/// Scales without codes are those of an activation, which AutoAWQ puts into models whose
/// factors cannot be folded: the weights alone are another model.
fn refuse_scaled_activation(item: &Item<StoredLayer>) -> Result<()> {
    match item {
        Item::Plain(tensor) if tensor.info.name.ends_with(SCALES) => {
            Err(Error::unsupported(format!(
                "the tensor \"{}\" scales an activation; only folders whose factors are folded \
                 into weights can be read",
                tensor.info.name
            )))
        }
        _ => Ok(()),
    }
}

impl StoredLayer {
    /// Puts a layer together.
    fn find(weights: &Weights, quantization: &Quantization, module: &str) -> Result<Self> {
        let qweight = weights.require_part(module, QWEIGHT)?;
        let qzeros = weights.require_part(module, QZEROS)?;
        let scales = weights.require_part(module, SCALES)?;
        let floats = ElementType::from_dtype(&scales.info.dtype);
        let floats = floats.ok_or_else(|| scales.of_type("F16, BF16 or F32"))?;
        let parts = [qweight, qzeros, scales];
        let shape = shape(quantization, &parts)?;
        let shape = shape.ok_or_else(|| disagree(module, quantization.version, &parts))?;
        let stored = shape.stored().into_iter().flatten();
        for (part, (dtype, _)) in parts.iter().zip(stored) {
            let expected = dtype.unwrap_or(&parts[2].info.dtype);
            if part.info.dtype != expected {
                return Err(part.of_type(expected));
            }
        }
        Ok(Self {
            module: module.to_owned(),
            shape,
            parts,
            floats,
        })
    }

    /// The layer's bytes.
    ///
    /// # Errors
    /// If the files are others than those that were opened.
    pub fn packed<'a>(&self, files: &[FileView<'a>]) -> Result<Packed<'a>> {
        let [qweight, qzeros, scales] = &self.parts;
        Ok(Packed {
            shape: self.shape,
            qweight: qweight.bytes(files)?,
            qzeros: qzeros.bytes(files)?,
            scales: scales.bytes(files)?,
            floats: self.floats,
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
        self.shape.type_name()
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.info.bytes).sum()
    }

    fn decode(&self, files: &[FileView<'_>], rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.packed(files)?.decode(rows, out)
    }

    fn groups(&self, files: &[FileView<'_>], rows: Range<usize>) -> Result<AffineGroups> {
        let rows = self.packed(files)?.rows(rows)?;
        rows.into_affine(BITS, self.shape.group, None)
    }
}

/// The sizes of a layer whose tensors have these shapes, if they fit each other. The groups are
/// the configuration's if there are so many, else in `gemm` as many as there are.
fn shape(quantization: &Quantization, parts: &[StoredTensor; 3]) -> Result<Option<Shape>> {
    let [qweight, qzeros, scales] = parts;
    let sizes = [qweight.matrix()?, qzeros.matrix()?, scales.matrix()?];
    let [rows, columns] = sizes[0];
    let version = quantization.version;
    let (inputs, outputs) = match version {
        Version::Gemm => (Some(rows), columns.checked_mul(PACK)),
        Version::Gemv => (columns.checked_mul(PACK), Some(rows)),
        // Four rows of 4-bit codes in words of 16 bits.
        Version::GemvFast => (Some(columns), rows.checked_mul(4)),
    };
    let Some((inputs, outputs)) = inputs.zip(outputs) else {
        return Ok(None);
    };
    let usual = quantization.group_size.unwrap_or(inputs);
    let counted = match version {
        Version::Gemm => inputs.checked_div(sizes[2][0]),
        Version::Gemv | Version::GemvFast => None,
    };
    let shapes = [Some(usual), counted]
        .into_iter()
        .flatten()
        .map(|group| Shape {
            inputs,
            outputs,
            group,
            version,
        });
    let fits = |shape: &Shape| {
        let stored = shape.stored();
        stored.is_some_and(|stored| stored.map(|(_, size)| size) == sizes)
    };
    Ok(shapes.into_iter().find(fits))
}

fn disagree(module: &str, version: Version, parts: &[StoredTensor; 3]) -> Error {
    let [qweight, qzeros, scales] = parts.each_ref().map(|part| &part.info.shape);
    Error::corrupt(format!(
        "the tensors of the layer \"{module}\" do not fit each other as {}: qweight {qweight:?}, \
         qzeros {qzeros:?}, scales {scales:?}",
        version.name()
    ))
}
