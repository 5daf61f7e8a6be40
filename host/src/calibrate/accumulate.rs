//! Gathers the statistics of a site while tokens pass.

use llm_quantize_plugin_api::kernels::{gram, moments};
use ndarray::{ArrayView2, ArrayViewMut2};

use super::{SiteStatistics, Wanted};
use crate::error::{Error, Result};
use crate::job::Threads;
use crate::text::sorted_sample;

/// What was summed so far at a site.
#[derive(Debug)]
pub struct Accumulator {
    channels: usize,
    tokens: usize,
    squares: Vec<f64>,
    magnitudes: Vec<f64>,
    gram: Option<Vec<f32>>,
    sample: Option<Sample>,
}

/// Rows that were chosen beforehand.
#[derive(Debug)]
struct Sample {
    /// Which tokens, in rising order.
    chosen: Vec<usize>,
    rows: Vec<f32>,
}

impl Accumulator {
    /// Nothing summed yet; `tokens` will pass in all. `seed` decides which of them the sample
    /// has.
    pub fn new(channels: usize, wanted: Wanted, tokens: usize, seed: u64) -> Self {
        Self {
            channels,
            tokens: 0,
            squares: vec![0.0; channels],
            magnitudes: vec![0.0; channels],
            gram: wanted.gram.then(|| vec![0.0; channels * channels]),
            sample: (wanted.rows > 0).then(|| Sample {
                chosen: sorted_sample(tokens, wanted.rows as usize, seed),
                rows: Vec::new(),
            }),
        }
    }

    /// Adds rows, one for each token.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn add(&mut self, rows: &[f32], threads: &Threads) -> Result<()> {
        let count = rows.len() / self.channels.max(1);
        let shape = (count, self.channels);
        let view = ArrayView2::from_shape(shape, rows)
            .map_err(|error| Error::other(format!("activations of a wrong shape: {error}")))?;
        moments::add_moments(threads, view, &mut self.squares, &mut self.magnitudes);
        if let Some(gram) = &mut self.gram {
            let shape = (self.channels, self.channels);
            let into = ArrayViewMut2::from_shape(shape, gram)
                .map_err(|error| Error::other(format!("a Gram matrix: {error}")))?;
            gram::add_gram(threads, view, into);
        }
        if let Some(sample) = &mut self.sample {
            let passed = self.tokens..self.tokens + count;
            let from = sample.rows.len() / self.channels;
            let mine = sample.chosen.iter().skip(from);
            for token in mine.take_while(|token| passed.contains(token)) {
                let start = (token - passed.start) * self.channels;
                sample
                    .rows
                    .extend_from_slice(&rows[start..][..self.channels]);
            }
        }
        self.tokens += count;
        Ok(())
    }

    /// All tokens passed.
    ///
    /// # Errors
    /// If a sum is not finite: the model's activations overflow.
    pub fn finish(self) -> Result<SiteStatistics> {
        let single = |sums: Vec<f64>| finite(sums.into_iter().map(|sum| sum as f32).collect());
        let gram = self.gram.map(|mut gram| {
            let shape = (self.channels, self.channels);
            if let Ok(view) = ArrayViewMut2::from_shape(shape, &mut gram) {
                gram::mirror(view);
            }
            gram
        });
        let statistics = SiteStatistics {
            channels: self.channels,
            tokens: self.tokens as u64,
            square_sum: single(self.squares)?,
            magnitude_sum: single(self.magnitudes)?,
            gram: gram.map(finite).transpose()?,
            rows: self.sample.map(|sample| sample.rows),
            ..SiteStatistics::default()
        };
        Ok(statistics.finished())
    }
}

fn finite(numbers: Vec<f32>) -> Result<Vec<f32>> {
    match numbers.iter().all(|number| number.is_finite()) {
        true => Ok(numbers),
        false => Err(
            Error::validation("the model's activations are not finite on this text")
                .suggest("check the model: does the original answer sensibly?"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        gram: true,
        rows: 2,
    };

    fn gathered(rows: &[f32], step: usize) -> SiteStatistics {
        let threads = Threads::new(2).unwrap();
        let mut sums = Accumulator::new(2, WANTED, rows.len() / 2, 5);
        for rows in rows.chunks(step * 2) {
            sums.add(rows, &threads).unwrap();
        }
        sums.finish().unwrap()
    }

    #[test]
    fn everything_is_summed() {
        let statistics = gathered(&[1.0, -2.0, 3.0, 4.0, 0.0, 1.0], 2);
        assert_eq!(statistics.tokens, 3);
        assert_eq!(statistics.square_sum, [10.0, 21.0]);
        assert_eq!(statistics.magnitude_sum, [4.0, 7.0]);
        assert_eq!(statistics.gram.unwrap(), [10.0, 10.0, 10.0, 21.0]);
        assert_eq!(statistics.rows.unwrap().len(), 4);
    }

    #[test]
    fn the_sample_does_not_depend_on_the_batches() {
        let rows: Vec<f32> = (0..80).map(|n| n as f32).collect();
        let whole = gathered(&rows, 40).rows.unwrap();
        assert_eq!(gathered(&rows, 7).rows.unwrap(), whole);
        assert!(whole[0] % 2.0 == 0.0 && whole[1] == whole[0] + 1.0);
        assert!(whole[2] > whole[0] && whole[3] == whole[2] + 1.0);
    }

    #[test]
    fn activations_that_overflow_are_found() {
        let threads = Threads::new(1).unwrap();
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let mut sums = Accumulator::new(2, WANTED, 1, 0);
            sums.add(&[bad, 0.0], &threads).unwrap();
            let error = sums.finish().unwrap_err();
            assert!(error.message.contains("not finite"), "{error}");
        }
    }
}
