//! What a calibration run measured for one tensor, and how sums of squares become weights.

use llm_quantize_plugin_api::{Error, Result, Statistic, StatisticRequest, StatisticView};

/// Divides sums of squares by how many rows were summed; weights of what no row reached are 1.
/// Returns whether any row was summed.
///
/// Files and calibration runs both come through here, so that they give the same weights.
pub(super) fn to_weights(sums: &mut [f32], count: f32) -> bool {
    // Counts are whole numbers stored as floats.
    let count = count.round();
    if count > 0.0 {
        sums.iter_mut().for_each(|sum| *sum /= count);
    } else {
        sums.fill(1.0);
    }
    count > 0.0
}

/// The statistics that give an entry of an importance matrix, for the linear layer whose weight
/// has this Hugging Face name. [`Measured::read`] takes them in this order.
#[must_use]
pub fn statistics(site: &str) -> Vec<StatisticRequest> {
    let request = |statistic| StatisticRequest {
        site: site.to_owned(),
        statistic,
    };
    vec![
        request(Statistic::SquareSum),
        request(Statistic::TokenCount),
    ]
}

/// What was measured for one tensor: the statistics of [`statistics`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured<'a> {
    /// For each column the sum of the squared inputs.
    pub sums: &'a [f32],
    /// How many rows were summed.
    pub count: f32,
}

impl<'a> Measured<'a> {
    /// Takes the statistics of a tensor with so many columns.
    ///
    /// # Errors
    /// If they are not those that were asked for, or not what sums of squares can be: then the
    /// model's activations overflow.
    pub fn read(tensor: &str, columns: usize, statistics: &[StatisticView<'a>]) -> Result<Self> {
        let [sums, count] = statistics else {
            return Err(Error::internal(format!(
                "tensor \"{tensor}\" came with {} calibration statistics instead of 2",
                statistics.len()
            )));
        };
        let (sums, &[count]) = (sums.data, count.data) else {
            return Err(wrong_length(tensor, count.data.len(), 1));
        };
        if sums.len() != columns {
            return Err(wrong_length(tensor, sums.len(), columns));
        }
        let bad = |value: &f32| !value.is_finite() || *value < 0.0;
        if let Some((column, value)) = sums.iter().enumerate().find(|(_, value)| bad(value)) {
            return Err(Error::corrupt(format!(
                "the calibration run measured {value} for column {column} of the inputs of tensor \"{tensor}\""
            ))
            .suggest("the model's activations overflow: check the model, or calibrate with another text"));
        }
        if bad(&count) {
            return Err(Error::internal(format!(
                "tensor \"{tensor}\" came with a count of {count} calibration tokens"
            )));
        }
        Ok(Self { sums, count })
    }

    /// The importance of each column.
    #[must_use]
    pub fn weights(&self) -> Vec<f32> {
        let mut weights = self.sums.to_vec();
        to_weights(&mut weights, self.count);
        weights
    }
}

fn wrong_length(tensor: &str, found: usize, expected: usize) -> Error {
    Error::internal(format!(
        "a calibration statistic of tensor \"{tensor}\" has {found} numbers instead of {expected}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::ErrorKind;

    fn views<'a>(sums: &'a [f32], count: &'a [f32]) -> [StatisticView<'a>; 2] {
        [sums, count].map(|data| StatisticView {
            rows: 1,
            cols: data.len(),
            data,
        })
    }

    fn refused(sums: &[f32], count: &[f32]) -> Error {
        Measured::read("t", 2, &views(sums, count)).unwrap_err()
    }

    #[test]
    fn weights_are_means_and_ones_where_nothing_was_seen() {
        let weights = |count: f32| {
            let count = [count];
            let views = views(&[3.0, 6.0], &count);
            Measured::read("t", 2, &views).unwrap().weights()
        };
        assert_eq!(weights(4.0), [0.75, 1.5]);
        assert_eq!(weights(0.0), [1.0, 1.0]);
        // As for files: the division is one of single precision.
        assert_eq!(weights(3_000_001.0), [3.0 / 3_000_001.0, 6.0 / 3_000_001.0]);
    }

    #[test]
    fn statistics_that_were_not_asked_for_are_refused() {
        let error = Measured::read("t", 2, &[]).unwrap_err();
        assert!(
            error.message.contains("0 calibration statistics"),
            "{error}"
        );
        assert!(
            refused(&[1.0], &[1.0])
                .message
                .contains("1 numbers instead of 2")
        );
        assert!(
            refused(&[1.0; 2], &[])
                .message
                .contains("0 numbers instead of 1")
        );
        assert!(
            refused(&[1.0; 2], &[1.0; 2])
                .message
                .contains("2 numbers instead of 1")
        );
        for count in [f32::NAN, -1.0] {
            assert_eq!(refused(&[1.0; 2], &[count]).kind, ErrorKind::Internal);
        }
    }

    #[test]
    fn activations_that_overflow_are_the_models_fault() {
        for value in [f32::NAN, f32::INFINITY, -1.0] {
            let error = refused(&[1.0, value], &[1.0]);
            assert_eq!(error.kind, ErrorKind::CorruptInput);
            assert!(error.message.contains("column 1"), "{error}");
        }
    }
}
