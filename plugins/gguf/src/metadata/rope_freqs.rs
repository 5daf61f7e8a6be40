//! The parameters of Llama 3's rotary scaling, found again from its factors.
//!
//! GGUF keeps only the factor of each rotary pair. Factors depend on the wavelengths and
//! on three numbers: the factor of long wavelengths, and the two wavelengths between
//! which it fades in. The latter are given as original context over `low_freq_factor`
//! and `high_freq_factor`, so one of the four parameters is free; it is chosen as people
//! choose it. Whatever is found is checked by computing the factors anew.

use llm_quantize_plugin_api::hf_config::Llama3Scaling;
use llm_quantize_plugin_api::{Error, Result};

use crate::families::{rope_factors, wavelength};

/// Largest relative difference of a factor that rounding explains.
const TOLERANCE: f64 = 1e-5;

/// Original contexts to try: Llama 3.1's, then other usual ones.
const CONTEXTS: [f64; 9] = [
    8192.0, 4096.0, 2048.0, 16_384.0, 32_768.0, 1024.0, 512.0, 256.0, 131_072.0,
];

/// Finds the scaling whose factors these are; `None` if they are all 1.
///
/// # Errors
/// If the number of factors does not fit the head's size, or no scaling gives them.
pub fn solve(factors: &[f32], theta: f64, head_dim: u64) -> Result<Option<Llama3Scaling>> {
    if factors.len() as u64 != head_dim / 2 {
        return Err(Error::corrupt(format!(
            "\"rope_freqs.weight\" has {} factors, but heads have {} rotary pairs",
            factors.len(),
            head_dim / 2
        )));
    }
    if factors
        .iter()
        .any(|factor| !factor.is_finite() || *factor <= 0.0)
    {
        return Err(Error::corrupt(
            "\"rope_freqs.weight\" holds factors that are not above zero",
        ));
    }
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(None);
    }
    let best = candidates(factors, theta, head_dim)
        .into_iter()
        .filter(|scaling| scaling.check().is_ok())
        .map(|scaling| (difference(&scaling, factors, theta, head_dim), scaling))
        // The first of equals, which is the more usual one.
        .reduce(|best, next| if next.0 < best.0 { next } else { best });
    match best {
        Some((difference, scaling)) if difference <= TOLERANCE => Ok(Some(scaling)),
        _ => Err(Error::unsupported(
            "the factors in \"rope_freqs.weight\" are not those of Llama 3's rotary scaling; a \
             Hugging Face configuration cannot express them",
        )),
    }
}

/// Largest relative difference between a scaling's factors and these.
fn difference(scaling: &Llama3Scaling, factors: &[f32], theta: f64, head_dim: u64) -> f64 {
    let computed = rope_factors(scaling, theta, head_dim);
    let differences = computed.iter().zip(factors);
    differences
        .map(|(a, b)| f64::from((a - b).abs()) / f64::from(*b))
        .fold(0.0, f64::max)
}

fn candidates(factors: &[f32], theta: f64, head_dim: u64) -> Vec<Llama3Scaling> {
    let longest = factors.last().copied().map_or(1.0, f64::from);
    let mut found = vec![Llama3Scaling {
        factor: longest,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192.0,
    }];
    let points: Vec<(f64, f64)> = (0..)
        .zip(factors)
        .map(|(pair, factor)| (wavelength(theta, head_dim, pair), factor))
        .map(|(wave, factor)| (1.0 / f64::from(wave), 1.0 / f64::from(*factor)))
        .collect();
    let bands = with_plateau(&points, longest);
    let bands = bands.into_iter().chain(without_plateau(&points));
    found.extend(bands.flat_map(Band::spelled));
    found
}

/// The band in which the factor fades in, by its frequencies per token.
#[derive(Clone, Copy)]
struct Band {
    factor: f64,
    /// `low_freq_factor` / original context.
    low: f64,
    /// `high_freq_factor` / original context.
    high: f64,
}

/// Ratios of the band's ends to try where the factors leave it open; 4 is the usual one.
const RATIOS: [f64; 8] = [4.0, 2.0, 8.0, 1.4, 3.0, 16.0, 1.1, 1.01];

/// If the longest wavelengths have the whole factor: between them and the short ones,
/// the inverse of the factor is linear in the frequency.
fn with_plateau(points: &[(f64, f64)], factor: f64) -> Vec<Band> {
    let whole = 1.0 / factor;
    let inside: Vec<(f64, f64)> = points
        .iter()
        .filter(|(_, inverse)| *inverse != 1.0 && *inverse != whole)
        .map(|(frequency, inverse)| (*frequency, (inverse - whole) / (1.0 - whole)))
        .collect();
    match inside.as_slice() {
        [] => between(points, whole, factor).into_iter().collect(),
        // One equation for two ends.
        [(frequency, smooth)] => RATIOS
            .iter()
            .map(|ratio| {
                let low = frequency / (1.0 + (ratio - 1.0) * smooth);
                Band {
                    factor,
                    low,
                    high: ratio * low,
                }
            })
            .collect(),
        [first, .., last] => {
            let slope = (first.1 - last.1) / (first.0 - last.0);
            let offset = first.1 - slope * first.0;
            vec![Band {
                factor,
                low: -offset / slope,
                high: (1.0 - offset) / slope,
            }]
        }
    }
}

/// A band that lies between two neighbouring frequencies.
fn between(points: &[(f64, f64)], whole: f64, factor: f64) -> Option<Band> {
    let first_scaled = points.iter().position(|(_, inverse)| *inverse == whole)?;
    let below = points.get(first_scaled)?.0;
    // If all are scaled, the band lies above them.
    let kept = first_scaled.checked_sub(1).and_then(|at| points.get(at));
    let above = kept.map_or(below * 8.0, |(frequency, _)| *frequency);
    let step = (above / below).cbrt();
    Some(Band {
        factor,
        low: below * step,
        high: above / step,
    })
}

/// If even the longest wavelength lies in the band, only the upper end is known; the
/// lower one is taken at the usual ratio.
fn without_plateau(points: &[(f64, f64)]) -> Option<Band> {
    let mut inside = points.iter().filter(|(_, inverse)| *inverse != 1.0);
    let first = inside.next()?;
    let last = inside.next_back()?;
    let slope = (first.1 - last.1) / (first.0 - last.0);
    let offset = first.1 - slope * first.0;
    let high = (1.0 - offset) / slope;
    let low = high / 4.0;
    Some(Band {
        factor: 1.0 / (slope * low + offset),
        low,
        high,
    })
}

impl Band {
    /// Ways to write the band: with an original context that makes the low factor 1, or a
    /// usual one; with numbers rounded as people write them, or exact.
    fn spelled(self) -> Vec<Llama3Scaling> {
        let usable = [self.factor, self.low, self.high];
        if usable
            .iter()
            .any(|number| !number.is_finite() || *number <= 0.0)
        {
            return Vec::new();
        }
        let contexts = [(1.0 / self.low).round()].into_iter().chain(CONTEXTS);
        let mut ways = Vec::new();
        for context in contexts.filter(|context| *context >= 1.0) {
            for round in [rounded, |exact| exact] {
                ways.push(Llama3Scaling {
                    factor: round(self.factor),
                    low_freq_factor: round(self.low * context),
                    high_freq_factor: round(self.high * context),
                    original_context: context,
                });
            }
        }
        // Low factor 1 first, then the order above.
        ways.sort_by_key(|way| way.low_freq_factor != 1.0);
        ways
    }
}

/// The nearest number with two decimals, if it is near enough to be meant.
fn rounded(exact: f64) -> f64 {
    let near = (exact * 100.0).round() / 100.0;
    match (near - exact).abs() <= 1e-3 * exact {
        true => near,
        false => exact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::testdata::golden;
    use proptest::prelude::*;

    fn scaling(factor: f64, low: f64, high: f64, context: f64) -> Llama3Scaling {
        Llama3Scaling {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_context: context,
        }
    }

    fn again(scaling: Llama3Scaling, theta: f64, head_dim: u64) -> Option<Llama3Scaling> {
        solve(&rope_factors(&scaling, theta, head_dim), theta, head_dim).unwrap()
    }

    #[test]
    fn usual_scalings_are_found_exactly() {
        for (theta, head_dim, context, factor) in [
            (500_000.0, 128, 8192.0, 8.0),
            (500_000.0, 64, 8192.0, 32.0),
            (10_000.0, 64, 8192.0, 8.0),
            (10_000.0, 64, 256.0, 8.0),
            (130_000.0, 96, 2048.0, 16.0),
        ] {
            let usual = scaling(factor, 1.0, 4.0, context);
            assert_eq!(
                again(usual, theta, head_dim),
                Some(usual),
                "{theta} {head_dim}"
            );
        }
    }

    #[test]
    fn the_converters_factors_are_reproduced() {
        for entry in golden()["rope"].as_array().unwrap() {
            let bits: Vec<u32> = serde_json::from_value(entry[1].clone()).unwrap();
            let factors: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
            let (theta, head_dim) = (entry[0][0].as_f64().unwrap(), entry[0][1].as_u64().unwrap());
            let found = solve(&factors, theta, head_dim).unwrap().unwrap();
            assert!(
                difference(&found, &factors, theta, head_dim) <= TOLERANCE,
                "{found:?}"
            );
            assert_eq!(found.original_context.fract(), 0.0);
        }
    }

    #[test]
    fn factors_of_one_are_no_scaling() {
        assert_eq!(solve(&[1.0; 32], 10_000.0, 64).unwrap(), None);
    }

    #[test]
    fn other_factors_are_refused() {
        assert!(solve(&[1.0; 31], 10_000.0, 64).is_err());
        assert!(solve(&[f32::NAN; 32], 10_000.0, 64).is_err());
        assert!(solve(&[0.0; 32], 10_000.0, 64).is_err());
        let ramp: Vec<f32> = (1..=32).map(|n| n as f32).collect();
        assert!(solve(&ramp, 10_000.0, 64).is_err());
        let mut off = rope_factors(&scaling(8.0, 1.0, 4.0, 8192.0), 500_000.0, 128);
        off[40] *= 1.01;
        assert!(solve(&off, 500_000.0, 128).is_err());
    }

    proptest! {
        #[test]
        fn any_scaling_is_reproduced(
            factor in 1.5f64..64.0,
            low in 0.5f64..2.0,
            ratio in 2.0f64..8.0,
            context in 128u32..20_000,
            theta in 5e3f64..2e6,
            head_dim in prop::sample::select(vec![8u64, 16, 64, 80, 128, 256]),
        ) {
            let original = scaling(factor, low, low * ratio, f64::from(context));
            let factors = rope_factors(&original, theta, head_dim);
            let Some(found) = solve(&factors, theta, head_dim).unwrap() else {
                prop_assert!(factors.iter().all(|factor| *factor == 1.0));
                return Ok(());
            };
            prop_assert!(difference(&found, &factors, theta, head_dim) <= TOLERANCE);
        }
    }
}
