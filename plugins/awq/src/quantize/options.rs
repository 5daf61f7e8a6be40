//! The options of the format (`--set KEY=VALUE`) and the group size.

use llm_quantize_plugin_api::hf_folder::quantized::WHOLE_ROW;
use llm_quantize_plugin_api::hf_folder::quantized::options::{
    choice, group_size, is, keep_unfit, option, requantize_option, unfit_option,
};
use llm_quantize_plugin_api::hf_folder::shard_size_option;
use llm_quantize_plugin_api::{OptionInfo, OptionType, PlanRequest, Result};

use crate::NAME;
use crate::search::Effort;

/// Group sizes: those that vLLM's and GPTQModel's kernels have.
pub const GROUP_SIZES: [i64; 4] = [32, 64, 128, WHOLE_ROW];
const DEFAULT_GROUP: i64 = 128;

const METHOD: &str = "method";
const DUO: &str = "duo";
const CLIP: &str = "clip";
const GRID: &str = "grid";
const GRID_STEPS: u32 = 10;

/// A switch that is on unless it is put off.
fn unless_off(request: &PlanRequest, key: &str) -> bool {
    !is(request, key, "false")
}

/// How codes are chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Method {
    /// With factors and ranges found with the statistics of a calibration.
    #[default]
    Awq,
    /// The nearest, without a calibration.
    RoundToNearest,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Awq, Self::RoundToNearest];

    /// The value of the option.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::RoundToNearest => "rtn",
        }
    }

    /// The method of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|method| method.name().eq_ignore_ascii_case(name))
    }
}

/// What the user asked for beyond the level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wishes {
    /// Inputs that share a scale; [`WHOLE_ROW`] for a whole row.
    pub group_size: i64,
    /// How codes are chosen.
    pub method: Method,
    /// Whether layers that do not fit stay as they are, instead of being an error.
    pub keep_unfit: bool,
    /// Whether ranges of groups are searched.
    pub clip: bool,
    /// How thoroughly factors are searched.
    pub effort: Effort,
}

/// The options, for `plugin info` and for checks.
pub fn options() -> Vec<OptionInfo> {
    vec![
        option(
            METHOD,
            choice(&Method::ALL.map(Method::name)),
            Method::default().name(),
            "rtn rounds to the nearest, without a calibration",
        ),
        option(
            DUO,
            OptionType::Bool,
            "true",
            "factors by the weights' magnitudes, too",
        ),
        option(
            CLIP,
            OptionType::Bool,
            "true",
            "search the range that each group's grid covers",
        ),
        option(
            GRID,
            OptionType::Integer,
            &GRID_STEPS.to_string(),
            "exponents that are tried for factors at first",
        ),
        unfit_option(),
        requantize_option(),
        shard_size_option(),
    ]
}

impl Wishes {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn from_request(request: &PlanRequest) -> Result<Self> {
        let method = request.option(METHOD).and_then(Method::find);
        Ok(Self {
            group_size: group_size(request, NAME, &GROUP_SIZES, DEFAULT_GROUP)?,
            method: method.unwrap_or_default(),
            keep_unfit: keep_unfit(request),
            clip: unless_off(request, CLIP),
            effort: Effort {
                grid: request
                    .option(GRID)
                    .and_then(|grid| grid.parse().ok())
                    .unwrap_or(GRID_STEPS),
                duo: unless_off(request, DUO),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let wishes = Wishes::from_request(&PlanRequest::default()).unwrap();
        assert_eq!((wishes.group_size, wishes.keep_unfit), (128, false));
        let request = PlanRequest {
            group_size: Some(-1),
            options: vec![
                ("unfit".into(), "keep".into()),
                ("method".into(), "RTN".into()),
            ],
            ..PlanRequest::default()
        };
        let wishes = Wishes::from_request(&request).unwrap();
        assert_eq!((wishes.group_size, wishes.keep_unfit), (WHOLE_ROW, true));
        assert_eq!(wishes.method, Method::RoundToNearest);
        for size in [0, 16, 256] {
            let request = PlanRequest {
                group_size: Some(size),
                ..PlanRequest::default()
            };
            assert!(Wishes::from_request(&request).is_err(), "{size}");
        }
    }

    #[test]
    fn every_option_is_declared_once() {
        let keys: std::collections::HashSet<_> = options().into_iter().map(|o| o.key).collect();
        assert_eq!(keys.len(), options().len());
    }
}
