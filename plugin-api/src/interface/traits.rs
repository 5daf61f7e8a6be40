//! What a plugin implements.

use std::ops::Range;

use super::{
    AffineGroups, DecodeCall, EncodeCall, EncodeReport, Error, FileView, FormatDescription,
    ModelDescription, ModelView, Plan, PlanRequest, Result,
};

/// What a plugin may look at while it plans.
pub trait Inputs {
    /// The model.
    fn model(&self) -> &ModelDescription;

    /// A small file beside the model's tensors (`tokenizer.json`, …); `None` if
    /// there is none of that name.
    ///
    /// In a native view the source's own file is here under its own name.
    fn file(&self, name: &str) -> Result<Option<&[u8]>>;

    /// A file that the user handed over besides the model, by its kind
    /// (`imatrix`).
    fn attachment(&self, kind: &str) -> Option<FileView<'_>>;
}

/// Turns models into a format.
pub trait Quantizer: Send + Sync {
    /// The formats with their levels and options.
    fn formats(&self) -> Vec<FormatDescription>;

    /// Plans an output. Must be deterministic, and quick: nothing is encoded here.
    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>>;
}

/// A planned output; encodes its units.
pub trait Job: Send + Sync {
    /// The plan.
    fn plan(&self) -> &Plan;

    /// The bytes of [`super::Literal::blob`]; empty if there is none of that number.
    fn blob(&self, index: usize) -> &[u8];

    /// Encodes some rows of a unit, or all of it. Called from many threads at once.
    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport>;

    /// Reads the finished files with the plugin's own reader and compares them with
    /// the plan. The files come in the plan's order.
    fn verify(&self, files: &[FileView<'_>]) -> Result<()>;

    /// Gives back the numbers of a layer as they were encoded, in the place of the original's:
    /// what the model computes with them on the original's inputs is what the output computes.
    /// Only for plans whose calibration flows on [quantized](super::Flow::Quantized), and only
    /// asked of the linear layers of units that asked for statistics. Called from many threads
    /// at once, with any rows.
    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        Err(Error::internal(format!(
            "unit {} cannot be decoded: this job has no decoder",
            call.unit
        )))
    }
}

/// Recognises and opens models of a format.
pub trait Converter: Send + Sync {
    /// Whether these files (one, or a folder's) are of this format. Must be cheap:
    /// look at magic numbers and small files only.
    fn detect(&self, files: &[FileView<'_>]) -> bool;

    /// Opens a model.
    fn open(&self, files: &[FileView<'_>], view: ModelView) -> Result<Box<dyn Reader>>;
}

/// An opened model. It keeps no reference to the files: each call gets the same
/// files again, in the same order.
pub trait Reader: Send + Sync {
    /// The model, in the view that it was opened with.
    fn model(&self) -> &ModelDescription;

    /// A file beside the tensors, rebuilt from what the format holds
    /// (`tokenizer.json`, …).
    fn file(&self, files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>>;

    /// Decodes rows of a tensor to single precision; `out` holds exactly those rows. They may be
    /// none: that asks whether the tensor can be decoded at all.
    fn decode(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()>;

    /// Where the stored bytes of a tensor lie: the file's place and the range in it.
    /// `None` if they do not lie in one piece, or if the view is not native.
    fn stored(&self, tensor: usize) -> Option<(usize, Range<u64>)> {
        let _ = tensor;
        None
    }

    /// Rows of a weight as affine groups, if the format stores it so.
    fn groups(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        let _ = (files, tensor, rows);
        Ok(None)
    }
}
