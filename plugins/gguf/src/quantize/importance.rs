//! Where the importance of columns comes from: a matrix in a file, or a calibration run.

use std::sync::Arc;

use llm_quantize_plugin_api::{
    CalibrationText, Error, ErrorKind, Inputs, PlanRequest, Result, StatisticView,
};

use super::IMATRIX;
use super::matrix::ImportanceMatrix;
use crate::imatrix::Measured;

/// Where the importance of columns comes from.
pub enum ImportanceSource<'a> {
    /// Nowhere: all columns count the same.
    None,
    /// The user's importance matrix.
    Matrix(ImportanceMatrix<'a>),
    /// A run of the model on this text.
    Calibration(&'a CalibrationText),
}

impl<'a> ImportanceSource<'a> {
    /// What the user gave.
    ///
    /// # Errors
    /// If there is a matrix and a text, or the matrix is damaged or something else.
    pub fn of(inputs: &'a dyn Inputs, request: &'a PlanRequest) -> Result<Self> {
        match (inputs.attachment(IMATRIX), &request.calibration) {
            (None, None) => Ok(Self::None),
            (Some(file), None) => Ok(Self::Matrix(ImportanceMatrix::read(&file)?)),
            (None, Some(text)) => Ok(Self::Calibration(text)),
            (Some(file), Some(text)) => Err(Error::invalid_request(format!(
                "the importance of columns is to come from \"{}\" and from a calibration on \"{}\"",
                file.name, text.dataset
            ))
            .suggest("leave out one of them: --imatrix or the calibration options")),
        }
    }

    /// Whether there is any.
    pub fn is_given(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Why a tensor that cannot do without importance weights at a level, as a type, gets none.
    pub fn lack(&self, level: &str, tensor: &str, ty: &str) -> Error {
        let message = match self {
            Self::None => format!(
                "{level} needs an importance matrix: without one the tensor \"{tensor}\" would be of no use as {ty}"
            ),
            Self::Matrix(_) => format!(
                "{level} needs importance weights for the tensor \"{tensor}\" ({ty}), which the importance matrix does not have"
            ),
            Self::Calibration(_) => format!(
                "{level} needs importance weights for the tensor \"{tensor}\" ({ty}), which a calibration does not measure"
            ),
        };
        Error::new(ErrorKind::ImportanceMatrix, message).suggest(
            "measure them with --calibration-data, or make a file with `llm-quantize analyze` and name it with --imatrix, or choose another level",
        )
    }
}

/// How the errors of a tensor's columns are weighed.
#[derive(Debug)]
pub enum Weighing {
    /// All the same.
    Even,
    /// By an importance matrix.
    Given(Importance),
    /// By the statistics that come with each call.
    Measured,
}

/// Importance weights of one tensor.
#[derive(Debug, Clone)]
pub struct Importance {
    /// The weights of all experts' columns, one vector after the other.
    pub weights: Arc<Vec<f32>>,
    /// Rows of an expert; all rows of the tensor if there are no experts.
    pub rows_each: u64,
}

impl Weighing {
    /// The weights for a call, made once for all of its rows.
    ///
    /// # Errors
    /// As [`Measured::read`].
    pub fn importance(
        &self,
        tensor: &str,
        columns: usize,
        statistics: &[StatisticView<'_>],
    ) -> Result<Option<Importance>> {
        match self {
            Self::Even => Ok(None),
            Self::Given(importance) => Ok(Some(importance.clone())),
            Self::Measured => {
                let weights = Measured::read(tensor, columns, statistics)?.weights();
                Ok(Some(Importance {
                    weights: Arc::new(weights),
                    rows_each: u64::MAX,
                }))
            }
        }
    }
}

impl Importance {
    /// The weights for a row of the tensor.
    ///
    /// # Errors
    /// If there are none.
    pub fn of_row(&self, row: u64, cols: usize) -> Result<&[f32]> {
        let expert = usize::try_from(row / self.rows_each.max(1)).unwrap_or(usize::MAX);
        let start = expert.checked_mul(cols);
        start
            .and_then(|start| self.weights.get(start..start.checked_add(cols)?))
            .ok_or_else(|| Error::internal("the importance matrix has too few experts"))
    }
}
