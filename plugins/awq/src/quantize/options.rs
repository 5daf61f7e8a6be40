//! The options of the format (`--set KEY=VALUE`) and the group size.

use llm_quantize_plugin_api::hf_folder::quantized::WHOLE_ROW;
use llm_quantize_plugin_api::hf_folder::quantized::options::{
    choice, group_size, is, keep_unfit, option, repacking_refuses, requantize_option, unfit_option,
};
use llm_quantize_plugin_api::hf_folder::shard_size_option;
use llm_quantize_plugin_api::{Error, OptionInfo, OptionType, PlanRequest, Result};

use crate::NAME;
use crate::layout::Version;
use crate::search::Effort;

/// Group sizes: those that vLLM's and GPTQModel's kernels have.
pub const GROUP_SIZES: [i64; 4] = [32, 64, 128, WHOLE_ROW];
const DEFAULT_GROUP: i64 = 128;

const VERSION: &str = "version";
const METHOD: &str = "method";
const DUO: &str = "duo";
const CLIP: &str = "clip";
const GRID: &str = "grid";
const GRID_STEPS: u32 = 10;
const MOST_STEPS: u32 = 100;

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
    /// None: groups of another format are taken over.
    Repack,
}

impl Method {
    /// Those that can be asked for.
    pub const ALL: [Self; 2] = [Self::Awq, Self::RoundToNearest];

    /// The value of the option.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Awq => "awq",
            Self::RoundToNearest => "rtn",
            Self::Repack => "repack",
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
    /// How layers are arranged.
    pub version: Version,
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
            VERSION,
            choice(&Version::WRITTEN.map(Version::name)),
            Version::default().name(),
            "how layers are arranged; gemv is for GPTQModel and AutoAWQ on a GPU",
        ),
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
            "exponents that are tried for factors at first (1 to 100)",
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
            version: version(request),
            method: method.unwrap_or_default(),
            keep_unfit: keep_unfit(request),
            clip: unless_off(request, CLIP),
            effort: Effort {
                grid: request.option(GRID).map_or(Ok(GRID_STEPS), steps)?,
                duo: unless_off(request, DUO),
            },
        })
    }

    /// What groups of this size are repacked into.
    ///
    /// # Errors
    /// If an option says how codes are chosen: repacking chooses none.
    pub fn repacking(group_size: i64, request: &PlanRequest) -> Result<Self> {
        repacking_refuses(request, &[METHOD, DUO, CLIP, GRID])?;
        Ok(Self {
            group_size,
            method: Method::Repack,
            keep_unfit: true,
            ..Self::from_request(request)?
        })
    }
}

/// The version that is asked for.
pub fn version(request: &PlanRequest) -> Version {
    let named = request.option(VERSION).and_then(Version::find);
    named.unwrap_or_default()
}

/// A number of exponents.
fn steps(value: &str) -> Result<u32> {
    let number = value.parse().ok();
    let number = number.filter(|number| (1..=MOST_STEPS).contains(number));
    number.ok_or_else(|| {
        Error::invalid_request(format!("the option \"{GRID}\" cannot be \"{value}\"")).suggest(
            format!("{GRID} takes a whole number from 1 to {MOST_STEPS}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::ErrorKind;

    fn wishes(options: &[(&str, &str)]) -> Result<Wishes> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Wishes::from_request(&PlanRequest {
            options: options.iter().map(owned).collect(),
            ..PlanRequest::default()
        })
    }

    #[test]
    fn the_search_is_thorough_unless_less_is_asked_for() {
        let usual = wishes(&[]).unwrap();
        assert_eq!((usual.method, usual.clip), (Method::Awq, true));
        let thorough = Effort {
            grid: GRID_STEPS,
            duo: true,
        };
        assert_eq!(usual.effort, thorough);
        let less = wishes(&[
            ("method", "AWQ"),
            ("clip", "false"),
            ("duo", "false"),
            ("grid", "3"),
        ])
        .unwrap();
        assert_eq!((less.method, less.clip), (Method::Awq, false));
        let quick = Effort {
            grid: 3,
            duo: false,
        };
        assert_eq!(less.effort, quick);
        for grid in ["0", "-1", "101", "4294967296", "many"] {
            let error = wishes(&[("grid", grid)]).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidRequest);
            assert!(error.suggestion.unwrap().contains("1 to 100"), "{grid}");
        }
    }

    /// What is said of an option is what holds without it.
    #[test]
    fn defaults_are_what_is_said() {
        let declared = options();
        let said = declared.iter().map(|o| (&*o.key, &*o.default));
        let searched = ["version", "method", "duo", "clip", "grid", "unfit"];
        let said: Vec<(&str, &str)> = said.filter(|(key, _)| searched.contains(key)).collect();
        assert_eq!(said.len(), searched.len());
        assert_eq!(wishes(&said).unwrap(), wishes(&[]).unwrap());
    }

    #[test]
    fn options_are_read() {
        let wishes = Wishes::from_request(&PlanRequest::default()).unwrap();
        assert_eq!((wishes.group_size, wishes.keep_unfit), (128, false));
        assert_eq!(wishes.version, Version::Gemm);
        let request = PlanRequest {
            group_size: Some(-1),
            options: vec![
                ("unfit".into(), "keep".into()),
                ("method".into(), "RTN".into()),
                ("version".into(), "GEMV".into()),
            ],
            ..PlanRequest::default()
        };
        let wishes = Wishes::from_request(&request).unwrap();
        assert_eq!((wishes.group_size, wishes.keep_unfit), (WHOLE_ROW, true));
        assert_eq!(wishes.method, Method::RoundToNearest);
        assert_eq!(wishes.version, Version::Gemv);
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
