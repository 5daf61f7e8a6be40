//! Rotary frequencies, as transformers works them out (`modeling_rope_utils.py`): tensors in
//! single precision, what Python computes in double precision.

use std::f32::consts::TAU;

use llm_quantize_plugin_api::hf_config::{Llama3Scaling, Rope, RopeScaling, YarnScaling};

use super::Rotary;
use crate::error::{Error, Result};

/// The rotary embedding for heads of so many elements.
///
/// Dynamic scaling acts beyond the model's context only, where nothing here goes.
///
/// # Errors
/// If a frequency is not a finite number.
pub fn rotary(rope: &Rope, head_dim: usize) -> Result<Rotary> {
    let wavelengths =
        (0..head_dim / 2).map(|pair| (rope.theta as f32).powf((2 * pair) as f32 / head_dim as f32));
    let mut magnitude = 1.0;
    let frequencies: Vec<f32> = match &rope.scaling {
        RopeScaling::None | RopeScaling::Dynamic => wavelengths.map(f32::recip).collect(),
        RopeScaling::Linear { factor } => wavelengths
            .map(|length| length.recip() / *factor as f32)
            .collect(),
        RopeScaling::Llama3(scaling) => wavelengths
            .map(|length| llama3(scaling, length.recip()))
            .collect(),
        RopeScaling::Yarn(scaling) => {
            magnitude = attention_factor(scaling) as f32;
            yarn(scaling, rope.theta, head_dim, wavelengths)
        }
    };
    if !magnitude.is_finite() || frequencies.iter().any(|frequency| !frequency.is_finite()) {
        return Err(Error::validation(
            "config.json: the parameters of the rotary embedding give infinite frequencies",
        ));
    }
    Ok(Rotary {
        frequencies,
        magnitude,
    })
}

/// Long wavelengths are stretched, short ones kept, those between the two in part.
fn llama3(scaling: &Llama3Scaling, frequency: f32) -> f32 {
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    let (factor, context) = (scaling.factor as f32, scaling.original_context);
    let wavelength = TAU / frequency;
    if wavelength > (context / low) as f32 {
        return frequency / factor;
    }
    if wavelength < (context / high) as f32 {
        return frequency;
    }
    let smooth = (context as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// As [`llama3`], but the bounds are given as turns within the original context, and pairs
/// between the two fade linearly by their number.
fn yarn(
    scaling: &YarnScaling,
    theta: f64,
    head_dim: usize,
    wavelengths: impl Iterator<Item = f32>,
) -> Vec<f32> {
    let (low, high) = yarn_range(scaling, theta, head_dim);
    wavelengths
        .enumerate()
        .map(|(pair, length)| {
            let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            // One minus the kept part, as there: it is not the ramp to the last bit.
            let kept = 1.0 - ramp;
            let stretched = (scaling.factor as f32 * length).recip();
            stretched * (1.0 - kept) + length.recip() * kept
        })
        .collect()
}

/// The pairs at which the fading begins and ends.
fn yarn_range(scaling: &YarnScaling, theta: f64, head_dim: usize) -> (f64, f64) {
    let or = |value: Option<f64>, default| value.filter(|v| *v != 0.0).unwrap_or(default);
    let dim = head_dim as f64;
    let context = scaling.original_context as f64;
    let pair_with =
        |turns: f64| dim * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let mut low = pair_with(or(scaling.beta_fast, 32.0));
    let mut high = pair_with(or(scaling.beta_slow, 1.0));
    if scaling.truncate.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // Else a division by zero.
    (low, if low == high { high + 0.001 } else { high })
}

/// What attention is sharpened with for the longer context.
fn attention_factor(scaling: &YarnScaling) -> f64 {
    if let Some(factor) = scaling.attention_factor {
        return factor;
    }
    let magnitude = |scale: f64| match scaling.factor <= 1.0 {
        true => 1.0,
        false => 0.1 * scale * scaling.factor.ln() + 1.0,
    };
    let given = |value: Option<f64>| value.filter(|value| *value != 0.0);
    match (given(scaling.mscale), given(scaling.mscale_all_dim)) {
        (Some(scale), Some(all)) => magnitude(scale) / magnitude(all),
        _ => magnitude(1.0),
    }
}

#[cfg(test)]
mod tests;
