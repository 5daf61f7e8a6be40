//! Rotary embeddings: both spellings of their configuration, and Llama 3's factors.

use std::f32::consts::TAU;

use llm_quantize_plugin_api::{Error, Result};

use super::Defaults;
use super::config::Config;

/// The rotary embedding of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the wavelengths.
    pub theta: f64,
    /// How they are stretched for a longer context.
    pub scaling: RopeScaling,
}

/// How rotary wavelengths are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All alike.
    Linear {
        /// How much longer the context is.
        factor: f64,
    },
    /// YaRN.
    Yarn {
        /// How much longer the context is.
        factor: f64,
        /// The context of the training.
        original_context: u64,
        /// `extrapolation_factor`.
        extrapolation_factor: Option<f64>,
        /// `attention_factor`.
        attention_factor: Option<f64>,
        /// `beta_fast`.
        beta_fast: Option<f64>,
        /// `beta_slow`.
        beta_slow: Option<f64>,
    },
    /// Llama 3.1's; GGUF holds the factors as a tensor.
    Llama3(Llama3Scaling),
    /// Dynamic NTK scaling, which acts beyond the context only. GGUF has no word for it
    /// and the converter drops it.
    Dynamic,
}

/// The parameters of Llama 3.1's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// What long wavelengths are multiplied with.
    pub factor: f64,
    /// Wavelengths above `original_context / low_freq_factor` are long.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_context / high_freq_factor` stay as they are.
    pub high_freq_factor: f64,
    /// The context of the training.
    pub original_context: f64,
}

impl Rope {
    /// Reads `rope_theta`, `rope_scaling` (the older spelling) and `rope_parameters` (the
    /// newer one). As in transformers, `rope_scaling` wins over `rope_parameters`.
    ///
    /// `context` is the model's, for scalings that do not say what the original one was.
    ///
    /// # Errors
    /// If a value is missing or of a wrong type, or GGUF has no such scaling.
    pub(super) fn from_config(
        config: &Config<'_>,
        context: u64,
        defaults: &Defaults,
    ) -> Result<Self> {
        let newer = config.object("rope_parameters", "config.json, rope_parameters")?;
        let older = config.object("rope_scaling", "config.json, rope_scaling")?;
        let parameters = older.or(newer);
        let parameters = match parameters {
            Some(parameters) => parameters
                .object("full_attention", "config.json, rope_parameters")?
                .or(Some(parameters)),
            None => None,
        };
        let theta = |object: Option<Config<'_>>| match object {
            Some(object) => object.positive("rope_theta"),
            None => Ok(None),
        };
        let theta = theta(parameters)?
            .or(config.positive("rope_theta")?)
            .or(theta(newer)?)
            .unwrap_or(defaults.rope_theta);
        let scaling = match parameters {
            Some(parameters) => RopeScaling::from_config(config, &parameters, context)?,
            None => RopeScaling::None,
        };
        Ok(Self { theta, scaling })
    }
}

impl RopeScaling {
    fn from_config(model: &Config<'_>, parameters: &Config<'_>, context: u64) -> Result<Self> {
        let kind = match parameters.text("rope_type")? {
            Some(kind) => Some(kind),
            None => parameters.text("type")?,
        };
        let original = || {
            let key = "original_max_position_embeddings";
            let own = model.count(key)?;
            Ok(own.or(parameters.count(key)?).unwrap_or(context))
        };
        let factor = || {
            parameters.positive("factor")?.ok_or_else(|| {
                Error::corrupt("config.json: the rotary scaling has no \"factor\"")
                    .suggest("add it to \"rope_scaling\" (or \"rope_parameters\")")
            })
        };
        match kind.unwrap_or("default").to_ascii_lowercase().as_str() {
            "default" | "none" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: factor()? }),
            "dynamic" => Ok(Self::Dynamic),
            "yarn" => Ok(Self::Yarn {
                factor: factor()?,
                original_context: original()?,
                extrapolation_factor: parameters.number("extrapolation_factor")?,
                attention_factor: match parameters.number("attention_factor")? {
                    Some(factor) => Some(factor),
                    None => parameters.number("attn_factor")?,
                },
                beta_fast: parameters.number("beta_fast")?,
                beta_slow: parameters.number("beta_slow")?,
            }),
            "llama3" => {
                let scaling = Llama3Scaling {
                    factor: parameters.positive("factor")?.unwrap_or(8.0),
                    low_freq_factor: parameters.positive("low_freq_factor")?.unwrap_or(1.0),
                    high_freq_factor: parameters.positive("high_freq_factor")?.unwrap_or(4.0),
                    original_context: original()? as f64,
                };
                scaling.check()?;
                Ok(Self::Llama3(scaling))
            }
            other => Err(Error::unsupported(format!(
                "config.json: GGUF has no rotary scaling of type \"{other}\" for this model"
            ))
            .suggest("supported types: default, linear, dynamic, yarn, llama3")),
        }
    }
}

impl Llama3Scaling {
    /// The `head_dim / 2` factors of `rope_freqs.weight`.
    ///
    /// In the order and precision of the converter, which computes single-precision
    /// tensors in PyTorch: there `number / tensor` is the reciprocal times the number.
    #[must_use]
    pub fn factors(&self, theta: f64, head_dim: u64) -> Vec<f32> {
        let pairs = head_dim / 2;
        (0..pairs)
            .map(|pair| self.factor_of(wavelength(theta, head_dim, pair)))
            .collect()
    }

    fn factor_of(&self, wavelength: f32) -> f32 {
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let longest_kept = (self.original_context / high) as f32;
        let shortest_scaled = (self.original_context / low) as f32;
        if wavelength < longest_kept {
            return 1.0;
        }
        if wavelength > shortest_scaled {
            return self.factor as f32;
        }
        let turns = wavelength.recip() * self.original_context as f32;
        let smooth = (turns - low as f32) / (high - low) as f32;
        ((1.0 - smooth) / self.factor as f32 + smooth).recip()
    }

    /// Refuses what would divide by zero or turn the bands around.
    ///
    /// # Errors
    /// If the high factor is not above the low one.
    pub fn check(&self) -> Result<()> {
        if self.high_freq_factor > self.low_freq_factor {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "config.json: \"high_freq_factor\" is {}, which is not above \"low_freq_factor\", {}",
            self.high_freq_factor, self.low_freq_factor
        )))
    }
}

/// The wavelength of a rotary pair, in tokens.
pub(crate) fn wavelength(theta: f64, head_dim: u64, pair: u64) -> f32 {
    let exponent = (2 * pair) as f32 / head_dim as f32;
    let frequency = (theta as f32).powf(exponent).recip();
    frequency.recip() * TAU
}
