//! Input that is damaged, degenerate, or does not fit.

use llm_quantize_plugin_api::kernels::Serial;
use ndarray::{Array2, s};

use super::*;

fn factor(gram: &Array2<f32>, settings: &Settings) -> Result<Factor, FactorError> {
    Factor::new(&Serial, gram.view(), 100, settings)
}

#[test]
fn damaged_statistics_are_errors() {
    let settings = Settings::new(SYMMETRIC, 16);
    let good = gram(48, 1);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gram = good.clone();
        gram[[5, 30]] = bad;
        let found = factor(&gram, &settings).unwrap_err();
        assert_eq!(found, FactorError::NotFinite { channel: 5 });
    }
    let mut negative = good.clone();
    negative[[7, 7]] *= -1.0;
    let found = factor(&negative, &settings).unwrap_err();
    assert_eq!(found, FactorError::NotDefinite { damping: 1.0 });
    let part = good.slice(s![.., ..16]);
    let found = Factor::new(&Serial, part, 100, &settings).unwrap_err();
    assert_eq!(found, FactorError::NotSquare(48, 16));
    let found = Factor::new(&Serial, good.view(), 0, &settings).unwrap_err();
    assert_eq!(found, FactorError::NoTokens);
}

#[test]
fn settings_that_do_not_fit_are_errors() {
    let good = gram(48, 1);
    for group in [0, 7, 96] {
        let found = factor(&good, &Settings::new(SYMMETRIC, group)).unwrap_err();
        assert_eq!(found, FactorError::Group { group, inputs: 48 });
    }
    let settings = Settings::new(SYMMETRIC, 16);
    for damping in [-0.1, 1.5, f64::NAN] {
        let found = factor(
            &good,
            &Settings {
                damping,
                ..settings
            },
        );
        assert!(matches!(found, Err(FactorError::Damping(_))));
    }
    let factor = factor(&good, &settings).unwrap();
    let weight = numbers(3, 48, 2);
    let other = Settings::new(SYMMETRIC, 48);
    let found = solve(&Serial, &factor, weight.view(), &other, &|| false);
    assert_eq!(found, Err(SolveError::Settings));
    let narrow = weight.slice(s![.., ..32]);
    let found = solve(&Serial, &factor, narrow, &settings, &|| false);
    assert_eq!(
        found,
        Err(SolveError::Inputs {
            weight: 32,
            factor: 48
        })
    );
    let found = solve(&Serial, &factor, weight.view(), &settings, &|| true);
    assert_eq!(found, Err(SolveError::Cancelled));
}

#[test]
fn weights_that_are_not_finite_are_errors_or_zeros() {
    let settings = Settings::new(SYMMETRIC, 16);
    let factor = factor(&gram(48, 1), &settings).unwrap();
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let mut weight = numbers(3, 48, 2);
        weight[[2, 40]] = bad;
        let found = solve(&Serial, &factor, weight.view(), &settings, &|| false);
        assert_eq!(found, Err(SolveError::NotFinite { row: 2, column: 40 }));
        let rounded = round_to_nearest(&Serial, weight.view(), &settings).dequantize();
        weight[[2, 40]] = 0.0;
        assert_eq!(rounded[[2, 40]], 0.0);
        assert_eq!(
            rounded,
            round_to_nearest(&Serial, weight.view(), &settings).dequantize()
        );
    }
}

#[test]
fn channels_that_were_never_seen_are_simply_rounded() {
    let mut gram = gram(64, 3);
    for channel in [0, 17, 63] {
        gram.row_mut(channel).fill(0.0);
        gram.column_mut(channel).fill(0.0);
    }
    for damping in [0.0, 0.02] {
        let mut settings = Settings::new(SYMMETRIC, 16);
        settings.damping = damping;
        let weight = numbers(20, 64, 4);
        let (solution, _) = solved(&weight, &gram, &settings);
        let rounded = solution.dequantize();
        for ((row, g), scale) in solution.scales.indexed_iter() {
            for column in [0, 17, 63].into_iter().filter(|c| c / 16 == g) {
                let missed = weight[[row, column]] - rounded[[row, column]];
                let clipped = [0, 15].contains(&solution.codes[[row, column]]);
                assert!(missed.abs() < 0.501 * scale.abs() || clipped);
            }
        }
    }
}

#[test]
fn a_layer_that_never_saw_anything_is_rounded_without_error() {
    let settings = Settings::new(SYMMETRIC, 16);
    let weight = numbers(5, 48, 5);
    let (solution, error) = solved(&weight, &Array2::zeros((48, 48)), &settings);
    assert_eq!(error, 0.0);
    check(&solution, SYMMETRIC);
    let missed = (&weight - &solution.dequantize()).mapv(f32::abs);
    assert!(missed.iter().all(|missed| *missed < 0.3));
}

#[test]
fn matrices_of_low_rank_are_factored_with_as_little_damping_as_it_takes() {
    let x = inputs(10, 64, 6);
    let gram = x.t().dot(&x);
    let mut settings = Settings::new(SYMMETRIC, 16);
    let asked = factor(&gram, &settings).unwrap();
    assert_eq!(asked.damping(), settings.damping);
    settings.damping = 0.0;
    let raised = factor(&gram, &settings).unwrap();
    assert!(
        raised.damping() > 0.0 && raised.damping() < 0.01,
        "{}",
        raised.damping()
    );
    // Double precision makes do with what single cannot.
    settings.damping = 1e-5;
    let double = factor(&gram, &settings).unwrap();
    assert_eq!(double.damping(), 1e-5);
}

#[test]
fn an_outlier_channel_needs_no_more_damping() {
    let mut x = inputs(300, 64, 7);
    x.column_mut(9).mapv_inplace(|x| x * 3000.0);
    let gram = x.t().dot(&x);
    let settings = Settings::new(SYMMETRIC, 16);
    let (weight, factor) = (numbers(8, 64, 8), factor(&gram, &settings).unwrap());
    assert_eq!(factor.damping(), settings.damping);
    let (solution, reported) =
        solve(&Serial, &factor, weight.view(), &settings, &|| false).unwrap();
    let nearest = round_to_nearest(&Serial, weight.view(), &settings);
    assert!(error(&weight, &solution, &gram) < 0.5 * error(&weight, &nearest, &gram));
    assert!(reported.is_finite());
}

#[test]
fn empty_layers_are_no_problem() {
    let settings = Settings::new(SYMMETRIC, 16);
    let (solution, error) = solved(&numbers(0, 48, 1), &gram(48, 1), &settings);
    assert_eq!((solution.codes.dim(), error), ((0, 48), 0.0));
}

#[test]
fn memory_grows_with_the_layer() {
    let settings = Settings::new(SYMMETRIC, 128);
    let of = |outputs, inputs| scratch_bytes(outputs, inputs, &settings);
    assert!(of(4096, 4096) > 4 * 4096 * 4096 + 4096 * 4096);
    assert!(of(4096, 14336) > of(4096, 4096));
    assert!(of(u64::MAX, u64::MAX) == u64::MAX);
}
