//! The user's importance matrix, as the planner needs it.

use std::sync::Arc;

use llm_quantize_plugin_api::{Error, ErrorKind, FileView, Result};

use super::importance::Importance;
use crate::container::Metadata;
use crate::imatrix::{Imatrix, ImatrixError};

/// An importance matrix and the name of its file.
pub struct ImportanceMatrix<'a> {
    matrix: Imatrix,
    file: &'a str,
}

impl<'a> ImportanceMatrix<'a> {
    /// Reads an attachment.
    ///
    /// # Errors
    /// If it is damaged or something else.
    pub fn read(file: &FileView<'a>) -> Result<Self> {
        let matrix = Imatrix::parse(file.bytes).map_err(|error| refused(file.name, &error))?;
        Ok(Self {
            matrix,
            file: file.name,
        })
    }

    /// Notes its use in a file's metadata.
    pub fn add_metadata(&self, metadata: &mut Metadata) {
        self.matrix.record(metadata, self.file);
    }

    /// Compares it with a model's tensors (names and dimensions); returns what the
    /// user should know.
    ///
    /// # Errors
    /// If it covers none of them, or one with another number of columns: it was made
    /// for another model.
    pub fn check<'t>(
        &self,
        tensors: impl Iterator<Item = (&'t str, &'t [u64])>,
    ) -> Result<Vec<String>> {
        let (mut covered, mut missing) = (0usize, Vec::new());
        for (name, dims) in tensors.filter(|(_, dims)| dims.len() > 1) {
            match self.weights(name, dims)? {
                Some(_) => covered += 1,
                None if name.starts_with("blk.") => missing.push(name),
                None => {}
            }
        }
        if covered == 0 {
            return Err(Error::new(
                ErrorKind::ImportanceMatrix,
                format!("\"{}\" covers none of this model's tensors", self.file),
            )
            .suggest("it was made for another model; measure one for this model"));
        }
        let note = missing.first().map(|first| {
            format!(
                "\"{}\" has no weights for {} of the layers' tensors (e.g. {first}); they are quantized without",
                self.file,
                missing.len()
            )
        });
        Ok(note.into_iter().collect())
    }

    /// The weights for a tensor.
    ///
    /// # Errors
    /// If it was made for another model.
    pub fn of(&self, name: &str, dims: &[u64]) -> Result<Option<Importance>> {
        let weights = self.weights(name, dims)?;
        Ok(weights.map(|weights| Importance {
            weights: Arc::new(weights.to_vec()),
            // Without experts the one vector serves all rows.
            rows_each: dims.get(1).copied().unwrap_or(u64::MAX),
        }))
    }

    fn weights(&self, name: &str, dims: &[u64]) -> Result<Option<&[f32]>> {
        let found = self.matrix.weights_for(name, dims);
        found.map_err(|error| refused(self.file, &error))
    }
}

fn refused(file: &str, error: &ImatrixError) -> Error {
    Error::new(ErrorKind::ImportanceMatrix, format!("\"{file}\": {error}"))
        .suggest("make one with `llm-quantize analyze` on this very model")
}
