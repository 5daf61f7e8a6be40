//! Factors for the channels of a site's input, folded into the norm before it.
//!
//! Channels with large inputs matter more, and rounding is finer where weights are larger. So
//! weights of such channels are multiplied with a factor, and the norm's weight is divided by it:
//! the model computes the same, and the grid lies better. That is AWQ's idea (Lin et al. 2023,
//! arXiv 2306.00978), here before GPTQ. Its output is an ordinary folder.

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::{ElementType, Error, Result, TensorView};
use ndarray::{Array2, ArrayView2, Axis};

/// The powers of the inputs' magnitudes that are tried as factors, from the least change on.
pub const POWERS: [f64; 3] = [0.2, 0.4, 0.6];
/// No factor is larger, or smaller than its inverse.
const MOST: f64 = 16.0;

/// Factors, and the norm that they are folded into.
#[derive(Debug, Clone, PartialEq)]
pub struct Smoothing {
    /// The power that the factors are of the inputs' magnitudes.
    pub power: f64,
    /// What weights are multiplied with, for each channel: exactly what the rounded norm lacks.
    factors: Vec<f32>,
    /// The norm's weight as it is stored.
    norm: Vec<u8>,
}

impl Smoothing {
    /// Factors that are a power of the inputs' magnitudes; `None` if the norm's type cannot hold
    /// what they make of it.
    ///
    /// # Errors
    /// If the norm cannot be read, or has another number of channels.
    pub fn new(
        norm: &TensorView<'_>,
        gram: ArrayView2<'_, f32>,
        power: f64,
    ) -> Result<Option<Self>> {
        let channels = gram.ncols();
        let original = numbers(norm, channels)?;
        let squares: Vec<f64> = gram.diag().iter().map(|x| f64::from(*x)).collect();
        let seen: Vec<f64> = squares.iter().copied().filter(|x| *x > 0.0).collect();
        let mean = seen.iter().map(|x| x.ln()).sum::<f64>() / seen.len().max(1) as f64;
        let divided = original.iter().zip(&squares).map(|(norm, square)| {
            let factor = match *square > 0.0 {
                // Half the power of squares is the power of magnitudes.
                true => ((square.ln() - mean) * power / 2.0).exp(),
                false => 1.0,
            };
            (f64::from(*norm) / factor.clamp(1.0 / MOST, MOST)) as f32
        });
        let divided: Vec<f32> = divided.collect();
        let element = norm.element();
        let mut stored = vec![0; channels * element.bytes()];
        if convert::from_f32(element, &divided, &mut stored).is_err() {
            return Ok(None);
        }
        let rounded = read(element, &stored)?;
        let factors = original.iter().zip(&rounded);
        let factors: Vec<f32> = factors
            .map(|(norm, stored)| 1.0 / shrunk(*stored, *norm))
            .collect();
        let usable = factors.iter().all(|f| f.is_finite() && *f != 0.0);
        Ok(usable.then_some(Self {
            power,
            factors,
            norm: stored,
        }))
    }

    /// The norm's weight as it is stored.
    #[must_use]
    pub fn norm(&self) -> &[u8] {
        &self.norm
    }

    /// A weight (outputs × channels) for the divided inputs.
    pub fn scale_weight(&self, weight: &mut Array2<f32>) {
        for mut row in weight.rows_mut() {
            let weights = row.iter_mut().zip(&self.factors);
            weights.for_each(|(weight, factor)| *weight *= factor);
        }
    }

    /// The Gram matrix of the divided inputs.
    #[must_use]
    pub fn scaled_gram(&self, gram: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut scaled = gram.to_owned();
        for (mut row, by) in scaled.axis_iter_mut(Axis(0)).zip(&self.factors) {
            let numbers = row.iter_mut().zip(&self.factors);
            numbers.for_each(|(number, factor)| *number /= by * factor);
        }
        scaled
    }
}

/// Brings rows of a weight that was scaled back to the original's inputs: `original` is the
/// model's norm, `stored` what the folder holds.
///
/// # Errors
/// If a norm cannot be read, or has another number of channels.
pub fn unscale(
    rows: &mut [f32],
    channels: usize,
    original: &TensorView<'_>,
    stored: &[u8],
) -> Result<()> {
    let norm = numbers(original, channels)?;
    let stored = read(original.element(), stored)?;
    if stored.len() != channels || channels == 0 {
        return Err(Error::internal("a stored norm of another size"));
    }
    let shrink = stored.iter().zip(&norm);
    let shrink: Vec<f32> = shrink
        .map(|(stored, norm)| shrunk(*stored, *norm))
        .collect();
    for row in rows.chunks_exact_mut(channels) {
        let weights = row.iter_mut().zip(&shrink);
        weights.for_each(|(weight, shrink)| *weight *= shrink);
    }
    Ok(())
}

/// What the stored norm is of the original. Where both are zero, the norm shuts a channel off:
/// that one has no factor.
fn shrunk(stored: f32, norm: f32) -> f32 {
    if stored == norm { 1.0 } else { stored / norm }
}

fn numbers(norm: &TensorView<'_>, channels: usize) -> Result<Vec<f32>> {
    if norm.rows() != 1 || norm.cols() != channels {
        return Err(Error::internal(format!(
            "a norm of {} x {} numbers for {channels} channels",
            norm.rows(),
            norm.cols()
        )));
    }
    read(norm.element(), norm.bytes())
}

fn read(element: ElementType, bytes: &[u8]) -> Result<Vec<f32>> {
    let mut numbers = vec![0.0; bytes.len() / element.bytes()];
    convert::to_f32(element, bytes, &mut numbers)?;
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn norm(numbers: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; numbers.len() * 2];
        convert::from_f32(ElementType::BF16, numbers, &mut bytes).unwrap();
        bytes
    }

    fn view(bytes: &[u8]) -> TensorView<'_> {
        TensorView::new(ElementType::BF16, 1, bytes.len() / 2, bytes).unwrap()
    }

    const WEIGHT: [[f32; 3]; 2] = [[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]];

    #[test]
    fn the_model_computes_the_same() {
        let original = norm(&[1.3, -0.7, 2.1]);
        let gram = array![[100.0f32, 1.0, 2.0], [1.0, 4.0, 0.5], [2.0, 0.5, 0.01]];
        let smoothing = Smoothing::new(&view(&original), gram.view(), 0.5).unwrap();
        let smoothing = smoothing.unwrap();
        let mut weight = Array2::from(WEIGHT.to_vec());
        smoothing.scale_weight(&mut weight);
        // More where inputs are larger, and the norm less by the same factor.
        assert!(weight[[0, 0]] > 1.5 && weight[[0, 2]] < 0.2, "{weight}");
        let before = read(ElementType::BF16, &original).unwrap();
        let after = read(ElementType::BF16, smoothing.norm()).unwrap();
        for (row, column) in [(0, 0), (0, 1), (1, 2)] {
            let product = f64::from(weight[[row, column]]) * f64::from(after[column]);
            let exact = f64::from(WEIGHT[row][column]) * f64::from(before[column]);
            assert!((product / exact - 1.0).abs() < 1e-6);
        }
        // Energies are those of the same outputs.
        let scaled = smoothing.scaled_gram(gram.view());
        let energy = |w: &Array2<f32>, g: &Array2<f32>| w.dot(g).dot(&w.t()).diag().sum();
        let exact = energy(&Array2::from(WEIGHT.to_vec()), &gram);
        assert!((energy(&weight, &scaled) / exact - 1.0).abs() < 1e-5);
        // And back.
        let mut rows: Vec<f32> = weight.iter().copied().collect();
        unscale(&mut rows, 3, &view(&original), smoothing.norm()).unwrap();
        for (back, weight) in rows.iter().zip(WEIGHT.iter().flatten()) {
            assert!((back / weight - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn channels_that_the_norm_shuts_off_have_no_factor() {
        let original = norm(&[1.0, 0.0, 2.0]);
        let gram = array![[9.0f32, 0.0, 0.1], [0.0, 0.0, 0.0], [0.1, 0.0, 0.01]];
        let smoothing = Smoothing::new(&view(&original), gram.view(), 0.5).unwrap();
        let smoothing = smoothing.unwrap();
        let mut weight = Array2::ones((1, 3));
        smoothing.scale_weight(&mut weight);
        assert!(weight[[0, 0]] > 1.0 && weight[[0, 2]] < 1.0, "{weight}");
        assert_eq!(weight[[0, 1]], 1.0);
        let mut rows = [1.0, 2.0, 3.0];
        unscale(&mut rows[..], 3, &view(&original), smoothing.norm()).unwrap();
        assert_eq!(rows[1], 2.0);
    }

    #[test]
    fn norms_that_their_type_cannot_hold_divided_stay() {
        let large = f32::from_bits(0x7f7f_0000);
        let original = norm(&[1.0, large]);
        let gram = array![[1e6f32, 0.0], [0.0, 1e-6]];
        let smoothing = Smoothing::new(&view(&original), gram.view(), 0.5).unwrap();
        assert_eq!(smoothing, None);
    }

    #[test]
    fn other_sizes_are_refused() {
        let original = norm(&[1.0, 2.0]);
        let gram = Array2::<f32>::eye(3);
        assert!(Smoothing::new(&view(&original), gram.view(), 0.5).is_err());
        assert!(unscale(&mut [0.0; 3], 3, &view(&original), &original).is_err());
        assert!(unscale(&mut [0.0; 2], 2, &view(&original), &original[..2]).is_err());
    }
}
