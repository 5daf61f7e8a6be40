//! Calibration statistics without a calibration.

use serde_json::Map;

use super::TestModel;
use crate::interface::{Error, Inputs, Result, Statistic, StatisticRequest, StatisticView, Unit};

/// A statistic's numbers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MadeUp {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl MadeUp {
    pub(super) fn view(&self) -> StatisticView<'_> {
        StatisticView {
            rows: self.rows,
            cols: self.cols,
            data: &self.data,
        }
    }
}

impl TestModel {
    /// Sets the numbers that [`build`](super::build) hands to units that ask for a statistic:
    /// `rows` rows as [`Statistic`] says. Statistics that are not set are those of one token whose
    /// inputs are all one; of [`Statistic::Gram`] only the diagonal, so that it has an inverse.
    pub fn set_statistic(&mut self, site: &str, statistic: Statistic, rows: usize, data: Vec<f32>) {
        let request = StatisticRequest {
            site: site.into(),
            statistic,
        };
        self.statistics.retain(|(known, _)| *known != request);
        let cols = data.len().checked_div(rows).unwrap_or(0);
        self.statistics.push((request, MadeUp { rows, cols, data }));
    }

    /// The statistics that a unit asks for.
    pub(super) fn statistics_of(&self, unit: &Unit) -> Result<Vec<MadeUp>> {
        let asked = unit.statistics.iter();
        asked.map(|request| self.statistic(request, unit)).collect()
    }

    fn statistic(&self, request: &StatisticRequest, unit: &Unit) -> Result<MadeUp> {
        if let Some((_, set)) = self.statistics.iter().find(|(known, _)| known == request) {
            return Ok(set.clone());
        }
        let inputs = self.inputs_of(&request.site, unit)?;
        let (rows, cols) = match request.statistic {
            Statistic::SecondMoment | Statistic::SquareSum | Statistic::MeanMagnitude => {
                (1, inputs)
            }
            Statistic::Gram => (inputs, inputs),
            Statistic::Rows { count } => (count as usize, inputs),
            Statistic::TokenCount => (1, 1),
        };
        let mut data = vec![1.0; rows * cols];
        if request.statistic == Statistic::Gram {
            for (index, number) in data.iter_mut().enumerate() {
                *number = f32::from(index % (cols + 1) == 0);
            }
        }
        Ok(MadeUp { rows, cols, data })
    }

    /// How many inputs the linear layer of a weight has. A native view has no Hugging Face names;
    /// there it is the row length of the unit's input.
    fn inputs_of(&self, site: &str, unit: &Unit) -> Result<usize> {
        let model = self.model();
        let native = model.config.as_object().is_none_or(Map::is_empty);
        let found = match unit.inputs.first() {
            Some(input) if native => model.tensors.get(input.tensor),
            _ => model.tensors.iter().find(|tensor| tensor.name == site),
        };
        let lacking = || {
            Error::internal(format!(
                "unit \"{}\" asks for statistics of \"{site}\", which the model lacks",
                unit.label
            ))
        };
        Ok(found.ok_or_else(lacking)?.cols() as usize)
    }
}
