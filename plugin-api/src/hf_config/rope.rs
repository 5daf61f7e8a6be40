//! Rotary embeddings: both spellings of their configuration.

use super::Config;
use crate::{Error, Result};

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
    Yarn(YarnScaling),
    /// Llama 3.1's.
    Llama3(Llama3Scaling),
    /// Dynamic NTK scaling, which acts beyond the context only.
    Dynamic,
}

/// The parameters of YaRN; what is not set is transformers' to choose.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct YarnScaling {
    /// How much longer the context is.
    pub factor: f64,
    /// The context of the training.
    pub original_context: u64,
    /// `extrapolation_factor`, which transformers does not know.
    pub extrapolation_factor: Option<f64>,
    /// `attention_factor`.
    pub attention_factor: Option<f64>,
    /// `attn_factor`, an older name, which transformers does not know.
    pub attn_factor: Option<f64>,
    /// `beta_fast`.
    pub beta_fast: Option<f64>,
    /// `beta_slow`.
    pub beta_slow: Option<f64>,
    /// `mscale`.
    pub mscale: Option<f64>,
    /// `mscale_all_dim`.
    pub mscale_all_dim: Option<f64>,
    /// `truncate`: whether the bounds between the bands are whole numbers.
    pub truncate: Option<bool>,
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
    /// `context` is the model's, for scalings that do not say what the original one was;
    /// `default_theta` the family's.
    ///
    /// # Errors
    /// If a value is missing or of a wrong type, or the scaling is of another type than
    /// those of [`RopeScaling`].
    pub fn from_config(config: &Config<'_>, context: u64, default_theta: f64) -> Result<Self> {
        let newer = newer(config)?;
        let parameters = parameters(config)?;
        let theta = |object: Option<Config<'_>>| match object {
            Some(object) => object.positive("rope_theta"),
            None => Ok(None),
        };
        let theta = theta(parameters)?
            .or(config.positive("rope_theta")?)
            .or(theta(newer)?)
            .unwrap_or(default_theta);
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
            "yarn" => Ok(Self::Yarn(YarnScaling {
                factor: factor()?,
                original_context: original()?,
                extrapolation_factor: parameters.number("extrapolation_factor")?,
                attention_factor: parameters.number("attention_factor")?,
                attn_factor: parameters.number("attn_factor")?,
                beta_fast: parameters.number("beta_fast")?,
                beta_slow: parameters.number("beta_slow")?,
                mscale: parameters.number("mscale")?,
                mscale_all_dim: parameters.number("mscale_all_dim")?,
                truncate: parameters.flag("truncate")?,
            })),
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
                "config.json: a rotary scaling of type \"{other}\" is not supported"
            ))
            .suggest("supported types: default, linear, dynamic, yarn, llama3")),
        }
    }
}

impl Llama3Scaling {
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

/// The part of a head that is rotated (`partial_rotary_factor`), if the configuration says.
///
/// # Errors
/// If it is no number.
pub fn rotary_part(config: &Config<'_>) -> Result<Option<f64>> {
    const KEY: &str = "partial_rotary_factor";
    let own = match parameters(config)? {
        Some(parameters) => parameters.number(KEY)?,
        None => None,
    };
    Ok(own.or(config.number(KEY)?))
}

fn newer<'a>(config: &Config<'a>) -> Result<Option<Config<'a>>> {
    config.object("rope_parameters", "config.json, rope_parameters")
}

/// The object with the rotary parameters; where there is one for each kind of layers, that of
/// those with full attention.
fn parameters<'a>(config: &Config<'a>) -> Result<Option<Config<'a>>> {
    let older = config.object("rope_scaling", "config.json, rope_scaling")?;
    let Some(parameters) = older.or(newer(config)?) else {
        return Ok(None);
    };
    let full = parameters.object("full_attention", "config.json, rope_parameters")?;
    Ok(full.or(Some(parameters)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rope(config: Value) -> Result<Rope> {
        Rope::from_config(&Config::new(&config, "config.json"), 4096, 10_000.0)
    }

    #[test]
    fn yarn_has_all_its_keys() {
        let scaling = json!({"rope_type": "yarn", "factor": 4, "attention_factor": 0.5,
            "beta_fast": 16, "mscale": 0.7, "mscale_all_dim": 1, "truncate": false});
        let expected = YarnScaling {
            factor: 4.0,
            original_context: 4096,
            attention_factor: Some(0.5),
            beta_fast: Some(16.0),
            mscale: Some(0.7),
            mscale_all_dim: Some(1.0),
            truncate: Some(false),
            ..YarnScaling::default()
        };
        let older = rope(json!({"rope_scaling": scaling, "rope_theta": 5e5}));
        let expected = Rope {
            theta: 5e5,
            scaling: RopeScaling::Yarn(expected),
        };
        assert_eq!(older, Ok(expected));
    }

    #[test]
    fn the_rotated_part_stands_in_either_place() {
        let part = |config: Value| rotary_part(&Config::new(&config, "config.json"));
        assert_eq!(part(json!({})), Ok(None));
        assert_eq!(part(json!({"partial_rotary_factor": 0.5})), Ok(Some(0.5)));
        let newer = json!({"rope_parameters": {"partial_rotary_factor": 0.25}});
        assert_eq!(part(newer), Ok(Some(0.25)));
    }

    #[test]
    fn other_scalings_are_refused_with_the_known_ones() {
        let error = rope(json!({"rope_scaling": {"type": "longrope"}})).unwrap_err();
        assert!(error.message.contains("\"longrope\""));
        assert!(error.suggestion.is_some_and(|text| text.contains("yarn")));
    }
}
