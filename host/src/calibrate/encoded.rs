//! A model with encoded layers in the place of the original's.

use std::ops::Range;

use llm_quantize_plugin_api::TensorInfo;

use crate::error::Result;
use crate::forward::WeightSource;
use crate::job::Decoder;
use crate::source::SourceModel;

/// The weights of a model, as far as they are encoded.
pub struct Encoded<'a> {
    /// The original.
    pub model: &'a SourceModel,
    /// What is encoded of it.
    pub decoder: &'a dyn Decoder,
}

impl WeightSource for Encoded<'_> {
    fn tensor(&self, tensor: usize) -> Option<&TensorInfo> {
        WeightSource::tensor(self.model, tensor)
    }

    fn decode_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        match self.decoder.decode(tensor, rows.clone(), out)? {
            true => Ok(()),
            false => self.model.decode_rows(tensor, rows, out),
        }
    }
}
