//! What is known about the inputs of a site's linear layers, once all tokens passed.

use llm_quantize_plugin_api::{Statistic, StatisticView};

/// What is gathered at a site besides sums and counts, which are always gathered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// XᵀX.
    pub gram: bool,
    /// Rows of the sample.
    pub rows: u32,
}

impl Wanted {
    /// What one statistic takes.
    pub fn by(statistic: &Statistic) -> Self {
        let rows = match statistic {
            Statistic::Rows { count } => *count,
            _ => 0,
        };
        Self {
            gram: *statistic == Statistic::Gram,
            rows,
        }
    }

    /// What either takes.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            gram: self.gram || other.gram,
            rows: self.rows.max(other.rows),
        }
    }

    /// Bytes that a site of so many channels takes.
    pub fn bytes(self, channels: usize) -> u64 {
        let channels = channels as u64;
        let gram = u64::from(self.gram) * channels;
        // Two sums in double precision and in single, and two means.
        4 * channels.saturating_mul(8 + gram + u64::from(self.rows))
    }
}

/// The statistics of a site, as they are handed out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SiteStatistics {
    /// Inputs of the site.
    pub channels: usize,
    /// Tokens that passed.
    pub tokens: u64,
    /// Sums of x².
    pub square_sum: Vec<f32>,
    /// Sums of |x|.
    pub magnitude_sum: Vec<f32>,
    /// XᵀX, both halves.
    pub gram: Option<Vec<f32>>,
    /// The sample of rows.
    pub rows: Option<Vec<f32>>,
    /// Means; [`finished`](Self::finished) works them out.
    pub(super) derived: Derived,
}

/// What follows from the sums.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Derived {
    count: [f32; 1],
    second_moment: Vec<f32>,
    mean_magnitude: Vec<f32>,
}

impl SiteStatistics {
    /// Works out the means; everything else is filled in.
    #[must_use]
    pub fn finished(mut self) -> Self {
        let count = self.tokens as f32;
        let mean = |sums: &[f32]| sums.iter().map(|sum| sum / count.max(1.0)).collect();
        self.derived = Derived {
            count: [count],
            second_moment: mean(&self.square_sum),
            mean_magnitude: mean(&self.magnitude_sum),
        };
        self
    }

    /// Whether everything that is wanted is here.
    pub fn has(&self, wanted: Wanted) -> bool {
        let rows = self.rows.as_ref().map_or(0, Vec::len) / self.channels.max(1);
        let enough = rows as u64 >= u64::from(wanted.rows).min(self.tokens);
        (!wanted.gram || self.gram.is_some()) && enough
    }

    /// A statistic as a plugin gets it; `None` if it was not gathered.
    pub fn view(&self, statistic: &Statistic) -> Option<StatisticView<'_>> {
        let channels = self.channels;
        let view = |rows: usize, cols: usize, data| StatisticView { rows, cols, data };
        Some(match statistic {
            Statistic::SecondMoment => view(1, channels, &self.derived.second_moment),
            Statistic::MeanMagnitude => view(1, channels, &self.derived.mean_magnitude),
            Statistic::SquareSum => view(1, channels, &self.square_sum),
            Statistic::TokenCount => view(1, 1, &self.derived.count),
            Statistic::Gram => view(channels, channels, self.gram.as_ref()?),
            Statistic::Rows { count } => {
                let rows = self.rows.as_ref()?;
                let count = (rows.len() / channels.max(1)).min(*count as usize);
                view(count, channels, &rows[..count * channels])
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics() -> SiteStatistics {
        SiteStatistics {
            channels: 2,
            tokens: 4,
            square_sum: vec![8.0, 2.0],
            magnitude_sum: vec![4.0, 1.0],
            rows: Some(vec![1.0, 2.0, 3.0, 4.0]),
            ..SiteStatistics::default()
        }
        .finished()
    }

    #[test]
    fn means_follow_from_sums() {
        let statistics = statistics();
        let of = |statistic| {
            let view = statistics.view(&statistic)?;
            Some((view.rows, view.cols, view.data.to_vec()))
        };
        assert_eq!(of(Statistic::SecondMoment), Some((1, 2, vec![2.0, 0.5])));
        assert_eq!(of(Statistic::MeanMagnitude), Some((1, 2, vec![1.0, 0.25])));
        assert_eq!(of(Statistic::SquareSum), Some((1, 2, vec![8.0, 2.0])));
        assert_eq!(of(Statistic::TokenCount), Some((1, 1, vec![4.0])));
        assert_eq!(of(Statistic::Gram), None);
        let rows = |count| of(Statistic::Rows { count });
        assert_eq!(rows(1), Some((1, 2, vec![1.0, 2.0])));
        assert_eq!(rows(9), Some((2, 2, vec![1.0, 2.0, 3.0, 4.0])));
    }

    #[test]
    fn what_is_wanted_adds_up() {
        let wanted = [
            Statistic::Gram,
            Statistic::Rows { count: 3 },
            Statistic::SquareSum,
        ]
        .iter()
        .map(Wanted::by)
        .fold(Wanted::default(), Wanted::and);
        let gram = true;
        assert_eq!(wanted, Wanted { gram, rows: 3 });
        assert_eq!(wanted.bytes(10), 40 * (8 + 3 + 10));
        let has = |gram, rows| statistics().has(Wanted { gram, rows });
        assert!(has(false, 2) && !has(true, 2));
        // Fewer rows than are wanted are enough only if there were no more tokens.
        assert!(!has(false, 3));
    }
}
