//! What is known of the distributions at a position while the vocabulary passes by.

use llm_quantize_plugin_api::kernels::divergence::{largest, pair_sums};

use super::Measured;

/// The distributions of two models at a position, as far as tokens were seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// The token that is there.
    target: u32,
    original: Side,
    quantized: Side,
    /// `Σ e^(a - top a) (a - b)` over the logits a of the original and b of the other.
    weighted: f64,
}

/// The logits of one model at a position.
#[derive(Debug, Clone, Copy)]
struct Side {
    /// The largest.
    top: f32,
    /// The token that has it, the first of equals.
    best: u32,
    /// The target's.
    target: f32,
    /// `Σ e^(logit - top)`.
    sum: f64,
}

impl Side {
    const START: Self = Self {
        top: f32::NEG_INFINITY,
        best: 0,
        target: f32::NAN,
        sum: 0.0,
    };

    /// Notes the largest and the target's logit among those of tokens from `first` on. The sum
    /// is taken off the new largest; returns what sums like it are to be multiplied with.
    fn meet(&mut self, first: u32, logits: &[f32], target: u32) -> f64 {
        let place = target.checked_sub(first).map(|place| place as usize);
        if let Some(logit) = place.and_then(|place| logits.get(place)) {
            self.target = *logit;
        }
        let Some((place, top)) = largest(logits).filter(|(_, top)| *top > self.top) else {
            return 1.0;
        };
        let factor = f64::from(self.top - top).exp();
        self.sum *= factor;
        self.top = top;
        self.best = first.saturating_add(u32::try_from(place).unwrap_or(u32::MAX));
        factor
    }

    /// Logarithm of `Σ e^logit`.
    fn log_sum(&self) -> f64 {
        f64::from(self.top) + self.sum.ln()
    }

    fn log_probability(&self) -> f64 {
        f64::from(self.target) - self.log_sum()
    }
}

impl Position {
    pub(super) fn new(target: u32) -> Self {
        Self {
            target,
            original: Side::START,
            quantized: Side::START,
            weighted: 0.0,
        }
    }

    /// Adds the logits of the tokens from `first` on: the original's and the other's.
    pub(super) fn add(&mut self, first: u32, original: &[f32], quantized: &[f32]) {
        self.weighted *= self.original.meet(first, original, self.target);
        self.quantized.meet(first, quantized, self.target);
        let tops = (self.original.top, self.quantized.top);
        let sums = pair_sums(original, quantized, tops);
        self.original.sum += sums.a;
        self.quantized.sum += sums.b;
        self.weighted += sums.weighted;
    }

    /// KL(original ‖ other).
    fn divergence(&self) -> f64 {
        let difference = self.weighted / self.original.sum;
        difference - (self.original.log_sum() - self.quantized.log_sum())
    }

    /// Whether the first of the models whose logits were not all finite is the original;
    /// `None` if all were.
    pub(super) fn original_is_broken(&self) -> Option<bool> {
        let sound = |side: &Side| side.log_probability().is_finite();
        match (sound(&self.original), sound(&self.quantized)) {
            (false, _) => Some(true),
            (true, false) => Some(false),
            (true, true) => None,
        }
    }
}

/// What the positions say of the original.
pub(super) fn original(positions: &[Position]) -> Measured {
    let numbers = positions.iter().map(|p| p.original.log_probability());
    Measured {
        log_probabilities: numbers.collect(),
        divergences: vec![0.0; positions.len()],
        agrees: vec![true; positions.len()],
    }
}

/// What the positions say of the model that was compared with it.
pub(super) fn quantized(positions: &[Position]) -> Measured {
    let numbers = positions.iter().map(|p| p.quantized.log_probability());
    let agrees = positions
        .iter()
        .map(|p| p.original.best == p.quantized.best);
    Measured {
        log_probabilities: numbers.collect(),
        divergences: positions.iter().map(Position::divergence).collect(),
        agrees: agrees.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of 50 tokens in no order.
    fn logits(step: usize) -> Vec<f32> {
        (0..50)
            .map(|i| ((i * step) % 53) as f32 * 0.4 - 10.0)
            .collect()
    }

    fn softmax(logits: &[f32]) -> Vec<f64> {
        let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        logits.iter().map(|x| f64::from(*x).exp() / sum).collect()
    }

    #[test]
    fn any_cut_of_the_vocabulary_gives_the_distributions() {
        let (a, b) = (logits(7), logits(11));
        let (p, q) = (softmax(&a), softmax(&b));
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        for cut in [1, 7, 25, 50] {
            for target in [0, 24, 49] {
                let mut position = Position::new(target);
                for (index, (a, b)) in a.chunks(cut).zip(b.chunks(cut)).enumerate() {
                    position.add((index * cut) as u32, a, b);
                }
                assert_eq!(position.original_is_broken(), None);
                let (first, second) = (original(&[position]), quantized(&[position]));
                let close = |a: f64, b: f64| (a - b).abs() < 2e-6;
                let log = |p: &[f64]| p[target as usize].ln();
                assert!(close(first.log_probabilities[0], log(&p)));
                assert!(close(second.log_probabilities[0], log(&q)));
                assert!(close(second.divergences[0], divergence), "{cut}");
                let best = |logits: &[f32]| largest(logits).unwrap().0;
                assert_eq!(second.agrees[0], best(&a) == best(&b));
                assert_eq!(position.original.best as usize, best(&a));
            }
        }
    }

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let a = logits(7);
        let mut position = Position::new(3);
        for (index, a) in a.chunks(20).enumerate() {
            position.add(index as u32 * 20, a, a);
        }
        let measured = quantized(&[position]);
        assert_eq!((measured.divergences[0], measured.agrees[0]), (0.0, true));
    }

    #[test]
    fn broken_logits_are_told_with_their_model() {
        let (a, mut b) = (logits(7), logits(11));
        b[40] = f32::NAN;
        let mut position = Position::new(3);
        position.add(0, &a, &b);
        assert_eq!(position.original_is_broken(), Some(false));
        let mut position = Position::new(3);
        position.add(0, &b, &a);
        assert_eq!(position.original_is_broken(), Some(true));
    }
}
