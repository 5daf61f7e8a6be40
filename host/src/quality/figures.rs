//! From numbers at positions to figures with standard errors.

use super::Measured;

/// A figure with its standard error. Positions are taken for independent, which tokens of a
/// text are not quite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Its standard error; 0 where a single position says nothing about it.
    pub error: f64,
}

impl Estimate {
    /// The mean of some numbers.
    pub fn mean(numbers: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let count = numbers.len().max(1) as f64;
        let value = numbers.clone().sum::<f64>() / count;
        let squares: f64 = numbers.map(|number| (number - value).powi(2)).sum();
        let variance = squares / (count - 1.0).max(1.0);
        Self {
            value,
            error: (variance / count).sqrt(),
        }
    }
}

/// The figures of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: Estimate,
    /// Mean KL(original ‖ this).
    pub divergence: Estimate,
    /// Share of positions where the likeliest token is the original's.
    pub agreement: Estimate,
}

impl Figures {
    /// The figures of what was measured.
    pub fn of(measured: &Measured) -> Self {
        let losses = Estimate::mean(measured.log_probabilities.iter().map(|number| -number));
        let perplexity = losses.value.exp();
        let divergence = Estimate::mean(measured.divergences.iter().copied());
        let agrees = measured.agrees.iter();
        Self {
            // To first order, as the error is small.
            perplexity: Estimate {
                value: perplexity,
                error: perplexity * losses.error,
            },
            divergence: Estimate {
                // Never negative but for rounding.
                value: divergence.value.max(0.0),
                ..divergence
            },
            agreement: Estimate::mean(agrees.map(|&agrees| f64::from(u8::from(agrees)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_standard_errors() {
        let mean = Estimate::mean([1.0, 2.0, 3.0, 6.0].into_iter());
        assert_eq!(mean.value, 3.0);
        // Variance 14 / 3, of 4 numbers.
        assert!((mean.error - (14.0f64 / 12.0).sqrt()).abs() < 1e-12);
        let one = Estimate::mean([5.0].into_iter());
        assert_eq!((one.value, one.error), (5.0, 0.0));
    }

    #[test]
    fn figures_of_known_positions() {
        let half = 0.5f64.ln();
        let measured = Measured {
            log_probabilities: vec![half; 4],
            divergences: vec![-1e-9; 4],
            agrees: vec![true, true, true, false],
        };
        let figures = Figures::of(&measured);
        assert!((figures.perplexity.value - 2.0).abs() < 1e-12);
        assert_eq!(figures.perplexity.error, 0.0);
        assert_eq!(figures.divergence.value, 0.0);
        assert_eq!(
            (figures.agreement.value, figures.agreement.error),
            (0.75, 0.25)
        );
    }
}
