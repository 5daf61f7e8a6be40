//! What a format offers, and what a user asks of it.

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// A format's levels and options: what `plugin info` prints and what the host
/// checks a request against.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FormatDescription {
    /// Name on the command line, lower case, e.g. `gguf`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// All levels, in the order to list them.
    pub levels: Vec<LevelInfo>,
    /// Options of the format's own (`--set KEY=VALUE`).
    #[serde(default)]
    pub options: Vec<OptionInfo>,
    /// Group sizes that `--group-size` may name (-1 is a whole row); empty if the
    /// format has none to choose.
    #[serde(default)]
    pub group_sizes: Vec<i64>,
    /// Files that the host may hand over besides the model, e.g. `imatrix`.
    #[serde(default)]
    pub attachments: Vec<String>,
    /// What an output of this format is.
    #[serde(default)]
    pub purpose: Purpose,
    /// Whether its plans may ask for statistics of a calibration run.
    #[serde(default)]
    pub calibration: CalibrationUse,
    /// Whether it can take over the groups of other formats. Since 1.2.
    #[serde(default)]
    pub repacking: Repacking,
}

/// Whether a format can take over the groups of quantized weights ([`Routing::Repack`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repacking {
    /// No: what is quantized can only be quantized anew.
    #[default]
    Never,
    /// Those of other formats. Its own models it takes in their native view.
    OtherFormats,
    /// Those of any format, its own in another arrangement among them.
    AnyFormat,
}

/// What is done with weights that are quantized already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Routing {
    /// They are quantized anew, to the level.
    #[default]
    Quantize,
    /// Their groups are repacked where the format can hold them, the same numbers but for rounded
    /// scales and zeros. The rest of the model stays in 16 or 32 bits; nothing is quantized.
    Repack {
        /// Whether scales and zeros may not be rounded either.
        exact: bool,
    },
}

/// What an output of a format is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A model: what `quantize` and `convert` make.
    #[default]
    Model,
    /// What a calibration run found out about a model: what `analyze` makes. Such a format has
    /// one level.
    Analysis,
}

/// Whether a format's plans ask for statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationUse {
    /// Never.
    #[default]
    Never,
    /// If the user wants a calibration ([`PlanRequest::calibration`] is set).
    Optional,
    /// Always: [`PlanRequest::calibration`] is always set.
    Always,
}

impl FormatDescription {
    /// Finds a level by name or alias, without regard to case.
    pub fn level(&self, name: &str) -> Option<&LevelInfo> {
        self.levels.iter().find(|level| {
            std::iter::once(&level.name)
                .chain(&level.aliases)
                .any(|known| known.eq_ignore_ascii_case(name))
        })
    }

    /// Like [`level`](Self::level), with an error that lists the known ones.
    pub fn require_level(&self, name: &str) -> Result<&LevelInfo> {
        self.level(name).ok_or_else(|| {
            let known: Vec<&str> = self.levels.iter().map(|l| l.name.as_str()).collect();
            Error::invalid_request(format!(
                "the format \"{}\" has no level \"{name}\"",
                self.name
            ))
            .suggest(format!("choose one of: {}", known.join(", ")))
        })
    }

    /// Checks the keys and values of a request's options against this format's.
    pub fn check_options(&self, options: &[(String, String)]) -> Result<()> {
        for (index, (key, value)) in options.iter().enumerate() {
            let option = self.options.iter().find(|o| o.key == *key).ok_or_else(|| {
                let known: Vec<&str> = self.options.iter().map(|o| o.key.as_str()).collect();
                let hint = match known.as_slice() {
                    [] => format!("\"{}\" has no options of its own", self.name),
                    known => format!("options of \"{}\": {}", self.name, known.join(", ")),
                };
                Error::invalid_request(format!(
                    "the format \"{}\" has no option \"{key}\"",
                    self.name
                ))
                .suggest(hint)
            })?;
            if !option.repeatable && options[..index].iter().any(|(earlier, _)| earlier == key) {
                return Err(Error::invalid_request(format!(
                    "the option \"{key}\" was given more than once"
                )));
            }
            option.value_type.check(key, value)?;
        }
        Ok(())
    }
}

/// One quantization level.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LevelInfo {
    /// Canonical name, e.g. `Q4_K_M`.
    pub name: String,
    /// Other names, e.g. `Q4_K`.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// One line for people.
    pub description: String,
    /// Typical bits per weight.
    pub bits_per_weight: f64,
}

/// One option of a format (`--set KEY=VALUE`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OptionInfo {
    /// The key, in kebab-case.
    pub key: String,
    /// What values it takes.
    pub value_type: OptionType,
    /// The value that holds when none is given, for people.
    pub default: String,
    /// One line for people.
    pub help: String,
    /// May be given more than once.
    #[serde(default)]
    pub repeatable: bool,
}

/// The values of an option.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptionType {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A size in bytes with an optional suffix K, M, G or T (powers of 1024).
    Size,
    /// Any text; the plugin checks it. The string says what is expected.
    Text(String),
    /// One of these, without regard to case.
    Choice(Vec<String>),
}

impl OptionType {
    fn check(&self, key: &str, value: &str) -> Result<()> {
        let ok = match self {
            Self::Bool => matches!(value, "true" | "false"),
            Self::Integer => value.parse::<i64>().is_ok(),
            Self::Number => value.parse::<f64>().is_ok_and(f64::is_finite),
            Self::Size => parse_size(value).is_some(),
            Self::Text(_) => true,
            Self::Choice(choices) => choices.iter().any(|c| c.eq_ignore_ascii_case(value)),
        };
        if ok {
            return Ok(());
        }
        Err(
            Error::invalid_request(format!("the option \"{key}\" cannot be \"{value}\""))
                .suggest(format!("{key} takes {}", self.describe())),
        )
    }

    /// What the option takes, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Integer => "a whole number".into(),
            Self::Number => "a number".into(),
            Self::Size => "a size such as 512M or 2G".into(),
            Self::Text(what) => what.clone(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
        }
    }
}

/// Reads a size such as `4096`, `512M` or `2GiB`; suffixes are powers of 1024.
///
/// `None` if it is no size or does not fit into 64 bits.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text[digits.len()..].to_ascii_uppercase();
    let shift = match suffix.trim_end_matches("IB").trim_end_matches('B') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let number: f64 = digits.parse().ok()?;
    let bytes = number * (1u64 << shift) as f64;
    (bytes.is_finite() && (0.0..1.8e19).contains(&bytes)).then_some(bytes as u64)
}

/// What the user asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// One of the plugin's formats.
    pub format: String,
    /// A level as the user typed it; match it with
    /// [`FormatDescription::require_level`].
    pub level: String,
    /// The name that the user chose for the output, if any.
    #[serde(default)]
    pub output_name: Option<String>,
    /// `--group-size`, if given.
    #[serde(default)]
    pub group_size: Option<i64>,
    /// `--set KEY=VALUE`, in order, already checked against the format's options.
    #[serde(default)]
    pub options: Vec<(String, String)>,
    /// The user knows that weights of the source are rounded already, and agreed to
    /// rounding them again.
    #[serde(default)]
    pub requantize: bool,
    /// Name and version of the host, for files that say who made them.
    #[serde(default)]
    pub generator: String,
    /// The text that the model will be run on, if statistics can be had.
    #[serde(default)]
    pub calibration: Option<CalibrationText>,
    /// What is done with weights that are quantized already. Where they are repacked, an empty
    /// [`level`](Self::level) leaves it to the plugin to choose the one that fits best, and
    /// likewise the group size. Only for formats that say so
    /// ([`FormatDescription::repacking`]). Since 1.2.
    #[serde(default)]
    pub routing: Routing,
}

/// The text of a calibration run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibrationText {
    /// Name of the text, without its folder.
    pub dataset: String,
    /// Number of samples.
    pub samples: u32,
    /// Tokens in a sample.
    pub length: u32,
    /// Checksum of the tokens.
    pub fingerprint: String,
}

impl PlanRequest {
    /// The last value of an option.
    pub fn option(&self, key: &str) -> Option<&str> {
        let given = self.options.iter().rev().find(|(k, _)| k == key);
        given.map(|(_, value)| value.as_str())
    }

    /// All values of a repeatable option, in order.
    pub fn option_values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.options
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// Whether a [`OptionType::Bool`] option was set to `true`.
    pub fn flag(&self, key: &str) -> bool {
        self.option(key) == Some("true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format() -> FormatDescription {
        let option = |key: &str, value_type, repeatable| OptionInfo {
            key: key.into(),
            value_type,
            default: String::new(),
            help: String::new(),
            repeatable,
        };
        FormatDescription {
            name: "demo".into(),
            levels: vec![LevelInfo {
                name: "Q4_K_M".into(),
                aliases: vec!["Q4_K".into()],
                ..LevelInfo::default()
            }],
            options: vec![
                option("pure", OptionType::Bool, false),
                option("type", OptionType::Text("REGEX=TYPE".into()), true),
                option("kind", OptionType::Choice(vec!["a".into()]), false),
                option("split", OptionType::Size, false),
            ],
            ..FormatDescription::default()
        }
    }

    fn check(options: &[(&str, &str)]) -> Result<()> {
        let owned: Vec<_> = options
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        format().check_options(&owned)
    }

    #[test]
    fn levels_match_by_alias_and_without_case() {
        assert_eq!(format().require_level("q4_k").unwrap().name, "Q4_K_M");
        let error = format().require_level("Q9").unwrap_err();
        assert!(error.suggestion.unwrap().contains("Q4_K_M"));
    }

    #[test]
    fn options_are_checked() {
        assert!(check(&[("pure", "true"), ("kind", "A"), ("split", "2G")]).is_ok());
        assert!(check(&[("type", "a=b"), ("type", "c=d")]).is_ok());
        assert!(check(&[("pure", "true"), ("pure", "false")]).is_err());
        assert!(check(&[("pure", "yes")]).is_err());
        assert!(check(&[("split", "2X")]).is_err());
        let unknown = check(&[("colour", "red")]).unwrap_err();
        assert!(unknown.suggestion.unwrap().contains("pure, type, kind"));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("1.5k"), Some(1536));
        assert_eq!(parse_size("2GiB"), Some(2 << 30));
        assert_eq!(parse_size("99999999999999T"), None);
        assert_eq!(parse_size("-1"), None);
        assert_eq!(parse_size("G"), None);
    }
}
