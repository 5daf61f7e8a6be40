//! Folds factors of a layer's inputs into what computes them.

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::{Error, Result, TensorView};

/// Divides a stored vector (a norm's weight, a bias) by factors, and makes of the factors exactly
/// what the result lacks after it was rounded to its type: so the model computes the same. `None`,
/// and the factors are of no use, if the type cannot hold the result.
///
/// # Errors
/// If there are other factors than numbers.
pub fn divide(vector: &TensorView<'_>, factors: &mut [f32]) -> Result<Option<Vec<u8>>> {
    let count = factors.len();
    if vector.rows() != 1 || vector.cols() != count {
        return Err(Error::internal(format!(
            "{count} factors for {} x {} numbers",
            vector.rows(),
            vector.cols()
        )));
    }
    let element = vector.element();
    let mut exact = vec![0.0; count];
    vector.row_to_f32(0, &mut exact)?;
    let divided: Vec<f32> = exact.iter().zip(&*factors).map(|(x, f)| x / f).collect();
    let mut bytes = vec![0; count * element.bytes()];
    if convert::from_f32(element, &divided, &mut bytes).is_err() {
        return Ok(None);
    }
    let mut stored = divided;
    convert::to_f32(element, &bytes, &mut stored)?;
    for ((factor, exact), stored) in factors.iter_mut().zip(&exact).zip(&stored) {
        // Nothing is rounded in a zero.
        if *exact != 0.0 {
            *factor = exact / stored;
        }
    }
    let usable = factors.iter().all(|f| f.is_finite() && *f != 0.0);
    Ok(usable.then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::ElementType;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the type: what is stored times the factor is the original, and the factor
        /// is nearly the one that was wished for.
        #[test]
        fn what_is_folded_is_not_lost(
            numbers in prop::collection::vec(-8.0f32..8.0, 1..20),
            logarithms in prop::collection::vec(-4.8f32..4.8, 20),
            element in prop::sample::select(vec![
                ElementType::BF16, ElementType::F16, ElementType::F32,
            ]),
        ) {
            // Small numbers of half precision have few digits.
            let numbers: Vec<f32> = numbers.iter().map(|x| x + x.signum() * 0.1).collect();
            let count = numbers.len();
            let mut bytes = vec![0; count * element.bytes()];
            convert::from_f32(element, &numbers, &mut bytes).unwrap();
            let view = TensorView::new(element, 1, count, &bytes).unwrap();
            let wanted: Vec<f32> = logarithms[..count].iter().map(|x| x.exp()).collect();
            let mut factors = wanted.clone();
            let divided = divide(&view, &mut factors).unwrap().unwrap();
            let (mut before, mut after) = (vec![0.0; count], vec![0.0; count]);
            convert::to_f32(element, &bytes, &mut before).unwrap();
            convert::to_f32(element, &divided, &mut after).unwrap();
            for i in 0..count {
                let product = f64::from(after[i]) * f64::from(factors[i]);
                let exact = f64::from(before[i]);
                prop_assert!((product - exact).abs() <= 1e-6 * exact.abs(), "{} {}", product, exact);
                prop_assert!((factors[i] / wanted[i] - 1.0).abs() < 5e-3);
            }
        }
    }

    #[test]
    fn what_no_factor_brings_back_is_not_divided() {
        let half = ElementType::F16;
        for (number, factor) in [(6e-8, 4.0), (6e4, 0.5), (1.0, f32::NAN), (f32::NAN, 2.0)] {
            let mut bytes = vec![0; 2];
            convert::from_f32(half, &[number], &mut bytes).unwrap();
            let view = TensorView::new(half, 1, 1, &bytes).unwrap();
            let divided = divide(&view, &mut [factor]).unwrap();
            assert_eq!(divided, None, "{number} {factor}");
        }
    }

    #[test]
    fn the_quotient_times_the_factor_is_the_original() {
        let numbers = [1.3f32, -0.7, 0.0, 211.0];
        let mut bytes = vec![0; 8];
        convert::from_f32(ElementType::BF16, &numbers, &mut bytes).unwrap();
        let view = TensorView::new(ElementType::BF16, 1, 4, &bytes).unwrap();
        let mut factors = [1.7, 0.3, 3.0, 1.1];
        let wanted = factors;
        let divided = divide(&view, &mut factors).unwrap().unwrap();
        let (mut before, mut after) = ([0.0; 4], [0.0; 4]);
        convert::to_f32(ElementType::BF16, &bytes, &mut before).unwrap();
        convert::to_f32(ElementType::BF16, &divided, &mut after).unwrap();
        for i in 0..4 {
            assert!((after[i] * factors[i] - before[i]).abs() <= 1e-6 * before[i].abs());
            assert!((factors[i] / wanted[i] - 1.0).abs() < 5e-3);
        }
        assert_eq!(factors[2], 3.0);
        // Too large for half precision.
        let half = ElementType::F16;
        let mut bytes = vec![0; 2];
        convert::from_f32(half, &[60_000.0], &mut bytes).unwrap();
        let view = TensorView::new(half, 1, 1, &bytes).unwrap();
        assert_eq!(divide(&view, &mut [0.5]).unwrap(), None);
        assert!(divide(&view, &mut [0.5, 1.0]).is_err());
    }
}
