//! Llama 3's rotary factors, as GGUF holds them.

use std::f32::consts::TAU;

use llm_quantize_plugin_api::hf_config::Llama3Scaling;

/// The `head_dim / 2` factors of `rope_freqs.weight`.
///
/// In the order and precision of the converter, which computes single-precision tensors in
/// PyTorch: there `number / tensor` is the reciprocal times the number.
#[must_use]
pub fn rope_factors(scaling: &Llama3Scaling, theta: f64, head_dim: u64) -> Vec<f32> {
    let pairs = head_dim / 2;
    (0..pairs)
        .map(|pair| factor(scaling, wavelength(theta, head_dim, pair)))
        .collect()
}

fn factor(scaling: &Llama3Scaling, wavelength: f32) -> f32 {
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    let longest_kept = (scaling.original_context / high) as f32;
    let shortest_scaled = (scaling.original_context / low) as f32;
    if wavelength < longest_kept {
        return 1.0;
    }
    if wavelength > shortest_scaled {
        return scaling.factor as f32;
    }
    let turns = wavelength.recip() * scaling.original_context as f32;
    let smooth = (turns - low as f32) / (high - low) as f32;
    ((1.0 - smooth) / scaling.factor as f32 + smooth).recip()
}

/// The wavelength of a rotary pair, in tokens.
pub(crate) fn wavelength(theta: f64, head_dim: u64, pair: u64) -> f32 {
    let exponent = (2 * pair) as f32 / head_dim as f32;
    let frequency = (theta as f32).powf(exponent).recip();
    frequency.recip() * TAU
}
