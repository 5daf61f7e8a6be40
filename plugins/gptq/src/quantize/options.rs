//! The options of the format (`--set KEY=VALUE`) and the group size.

use llm_quantize_plugin_api::hf_folder::quantized::WHOLE_ROW;
use llm_quantize_plugin_api::hf_folder::quantized::options::{
    choice, group_size, is, keep_unfit, option, repacking_refuses, requantize_option, unfit_option,
};
use llm_quantize_plugin_api::hf_folder::shard_size_option;
use llm_quantize_plugin_api::regroup::Zeros;
use llm_quantize_plugin_api::{Error, OptionInfo, OptionType, PlanRequest, Result};

use crate::NAME;
use crate::layout::Version;
use crate::levels::Level;
use crate::solver::{Grid, Order, Settings};

/// Group sizes; the last one is a whole row.
pub const GROUP_SIZES: [i64; 5] = [32, 64, 128, 256, WHOLE_ROW];
const DEFAULT_GROUP: i64 = 128;

const SYM: &str = "sym";
const FORMAT: &str = "format";
const METHOD: &str = "method";
const ORDER: &str = "order";
const DAMPING: &str = "damping";
const SCALES: &str = "scales";
const REFINE: &str = "refine";
const SMOOTH: &str = "smooth";

const ORDERS: [(&str, Order); 3] = [
    ("group-aware", Order::GroupAware),
    ("static", Order::Static),
    ("none", Order::InOrder),
];

/// How codes are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// With the statistics of a calibration.
    Gptq,
    /// The nearest.
    RoundToNearest,
    /// None: groups of another format are taken over.
    Repack,
}

impl Method {
    /// What an output says of it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gptq => METHODS[0],
            Self::RoundToNearest => METHODS[1],
            Self::Repack => "repack",
        }
    }
}

/// Those that can be asked for.
const METHODS: [&str; 2] = ["gptq", "rtn"];

/// What the user asked for beyond the level.
#[derive(Debug, Clone, PartialEq)]
pub struct Wishes {
    /// Bits of a code.
    pub bits: u32,
    /// Inputs that share a scale; -1 for a whole row.
    pub group_size: i64,
    /// Whether all zeros are in the middle.
    pub symmetric: bool,
    /// How zeros are stored.
    pub version: Version,
    /// How codes are chosen.
    pub method: Method,
    /// Whether factors of channels may be folded into norms.
    pub smooth: bool,
    /// Whether layers that do not fit stay as they are, instead of being an error.
    pub keep_unfit: bool,
    /// For all groups; made for a layer by [`settings`](Self::settings).
    solver: Settings,
}

/// The options, for `plugin info` and for checks.
pub fn options() -> Vec<OptionInfo> {
    let defaults = solver_defaults();
    vec![
        option(
            SYM,
            OptionType::Bool,
            "true",
            "the same zero in all groups, as vLLM needs it",
        ),
        option(
            FORMAT,
            choice(&Version::ALL.map(Version::name)),
            "gptq; gptq_v2 with sym=false",
            "how zeros are stored; gptq_v2 is for GPTQModel, transformers and ExLlamaV2",
        ),
        option(
            METHOD,
            choice(&METHODS),
            METHODS[0],
            "rtn rounds to the nearest, without a calibration",
        ),
        option(
            ORDER,
            choice(&ORDERS.map(|(name, _)| name)),
            ORDERS[0].0,
            "which columns are rounded first; costs nothing when the model runs",
        ),
        option(
            DAMPING,
            OptionType::Number,
            &defaults.damping.to_string(),
            "part of the mean that is added to the diagonal of the inputs' Gram matrix",
        ),
        option(
            SCALES,
            choice(&["search", "range"]),
            "search",
            "range takes scales from the largest numbers, without a search",
        ),
        option(
            REFINE,
            OptionType::Integer,
            &defaults.refine.rounds.to_string(),
            "rounds of improving scales and codes after the pass (0 to 100)",
        ),
        option(
            SMOOTH,
            OptionType::Bool,
            "false",
            "fold factors of channels into the norms (as AWQ does) where that makes errors smaller",
        ),
        unfit_option(),
        requantize_option(),
        shard_size_option(),
    ]
}

/// The solver's, of a grid that does not matter.
const fn solver_defaults() -> Settings {
    Settings::new(
        Grid {
            bits: 4,
            symmetric: true,
            lowest_zero: 0,
        },
        1,
    )
}

impl Wishes {
    /// Reads the options of a request.
    ///
    /// # Errors
    /// If a value is out of range.
    pub fn from_request(level: &Level, request: &PlanRequest) -> Result<Self> {
        let symmetric = request.option(SYM) != Some("false");
        let version = request.option(FORMAT).and_then(Version::find);
        let version = version.unwrap_or(default_version(symmetric));
        let grid = Grid {
            bits: level.bits,
            symmetric,
            lowest_zero: version.lowest_zero(),
        };
        Ok(Self {
            bits: level.bits,
            group_size: group_size(request, NAME, &GROUP_SIZES, DEFAULT_GROUP)?,
            symmetric,
            version,
            method: match is(request, METHOD, METHODS[1]) {
                true => Method::RoundToNearest,
                false => Method::Gptq,
            },
            smooth: request.flag(SMOOTH),
            keep_unfit: keep_unfit(request),
            solver: solver(grid, request)?,
        })
    }

    /// What groups are repacked into, in this way and size.
    ///
    /// # Errors
    /// If an option is out of range.
    pub fn repacking(
        bits: u32,
        way: Arrangement,
        group_size: i64,
        request: &PlanRequest,
    ) -> Result<Self> {
        let grid = Grid {
            bits,
            symmetric: way.symmetric,
            lowest_zero: way.version.lowest_zero(),
        };
        Ok(Self {
            bits,
            group_size,
            symmetric: way.symmetric,
            version: way.version,
            method: Method::Repack,
            smooth: false,
            keep_unfit: true,
            solver: solver(grid, request)?,
        })
    }

    /// Inputs of a group of a layer.
    #[must_use]
    pub fn group(&self, inputs: usize) -> usize {
        usize::try_from(self.group_size).unwrap_or(inputs)
    }

    /// The solver's settings for layers with so many inputs.
    #[must_use]
    pub fn settings(&self, inputs: usize) -> Settings {
        Settings {
            group: self.group(inputs),
            ..self.solver
        }
    }

    /// What is added to the diagonal, at first.
    #[must_use]
    pub const fn damping(&self) -> f64 {
        self.solver.damping
    }
}

/// How zeros are arranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrangement {
    /// Whether all of them are in the middle.
    pub symmetric: bool,
    /// How they are stored.
    pub version: Version,
}

impl Arrangement {
    /// Those that the options of a request leave, the preferred one first.
    #[must_use]
    pub fn wanted(request: &PlanRequest) -> Vec<Self> {
        let version = request.option(FORMAT).and_then(Version::find);
        let symmetric = request.option(SYM).map(|value| value != "false");
        let all = [true, false].into_iter();
        let wanted = all.filter(|kind| symmetric.is_none_or(|wanted| wanted == *kind));
        let arrange = |symmetric| Self {
            symmetric,
            version: version.unwrap_or(default_version(symmetric)),
        };
        wanted.map(arrange).collect()
    }

    /// What they can say of zeros.
    #[must_use]
    pub const fn zeros(self) -> Zeros {
        match self.symmetric {
            true => Zeros::Middle,
            false => Zeros::Codes {
                lowest: self.version.lowest_zero(),
            },
        }
    }
}

/// Refuses options that say how codes are chosen: repacking chooses none.
///
/// # Errors
/// With the first of them.
pub fn refuse_choosing(request: &PlanRequest) -> Result<()> {
    repacking_refuses(request, &[METHOD, ORDER, DAMPING, SCALES, REFINE, SMOOTH])
}

/// What most programs load: of asymmetric folders in the older version GPTQModel takes its own only.
const fn default_version(symmetric: bool) -> Version {
    match symmetric {
        true => Version::V1,
        false => Version::V2,
    }
}

fn solver(grid: Grid, request: &PlanRequest) -> Result<Settings> {
    let mut settings = Settings::new(grid, 1);
    if let Some(name) = request.option(ORDER) {
        let mut orders = ORDERS.into_iter();
        let found = orders.find(|(known, _)| known.eq_ignore_ascii_case(name));
        settings.order = found.map_or(settings.order, |(_, order)| order);
    }
    if is(request, SCALES, "range") {
        settings.scales.steps = 0;
        settings.scales.trials = false;
    }
    if let Some(damping) = request.option(DAMPING) {
        settings.damping = within(DAMPING, damping, 1e-6, 10.0)?;
    }
    if let Some(rounds) = request.option(REFINE) {
        settings.refine.rounds = within(REFINE, rounds, 0.0, 100.0)? as u32;
    }
    Ok(settings)
}

/// The number of an option, which must lie in a range.
fn within(key: &str, value: &str, low: f64, high: f64) -> Result<f64> {
    let number = value.parse::<f64>().ok();
    number.filter(|n| (low..=high).contains(n)).ok_or_else(|| {
        Error::invalid_request(format!("the option \"{key}\" cannot be \"{value}\""))
            .suggest(format!("{key} takes a number from {low} to {high}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::ErrorKind::InvalidRequest;

    fn wishes(group_size: Option<i64>, options: &[(&str, &str)]) -> Result<Wishes> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let request = PlanRequest {
            group_size,
            options: options.iter().map(owned).collect(),
            ..PlanRequest::default()
        };
        Wishes::from_request(Level::find("4bit").unwrap(), &request)
    }

    #[test]
    fn options_are_read() {
        let wishes = wishes(
            Some(-1),
            &[
                ("sym", "false"),
                ("format", "GPTQ_V2"),
                ("method", "rtn"),
                ("order", "static"),
                ("damping", "0.01"),
                ("scales", "range"),
                ("refine", "3"),
                ("smooth", "true"),
                ("unfit", "keep"),
            ],
        )
        .unwrap();
        assert!(!wishes.symmetric && wishes.keep_unfit && wishes.smooth);
        assert_eq!(wishes.version, Version::V2);
        assert_eq!(wishes.method, Method::RoundToNearest);
        let settings = wishes.settings(576);
        assert_eq!((settings.group, settings.order), (576, Order::Static));
        assert_eq!((settings.damping, settings.refine.rounds), (0.01, 3));
        assert_eq!((settings.scales.steps, settings.grid.lowest_zero), (0, 0));
        assert!(!settings.scales.trials);
    }

    #[test]
    fn the_defaults_are_portable() {
        let wishes = wishes(None, &[]).unwrap();
        assert_eq!((wishes.group_size, wishes.version), (128, Version::V1));
        assert!(wishes.symmetric && wishes.method == Method::Gptq && !wishes.keep_unfit);
        assert!(!wishes.smooth);
        let settings = wishes.settings(256);
        assert_eq!((settings.group, settings.grid.lowest_zero), (128, 1));
        assert_eq!(settings.order, Order::GroupAware);
        let asymmetric = self::wishes(None, &[("sym", "false")]).unwrap();
        assert_eq!(asymmetric.version, Version::V2);
    }

    #[test]
    fn nonsense_is_an_invalid_request() {
        for (group, option) in [
            (Some(0), ("sym", "true")),
            (Some(48), ("sym", "true")),
            (None, ("damping", "0")),
            (None, ("damping", "-1")),
            (None, ("refine", "101")),
        ] {
            let error = wishes(group, &[option]).unwrap_err();
            assert_eq!(error.kind, InvalidRequest, "{group:?} {option:?}");
        }
    }

    #[test]
    fn every_option_is_declared_once() {
        let keys: std::collections::HashSet<_> = options().into_iter().map(|o| o.key).collect();
        assert_eq!(keys.len(), options().len());
    }
}
