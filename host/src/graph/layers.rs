//! What differs from layer to layer: windows and rotary embeddings.

use llm_quantize_plugin_api::hf_config::Config;
use serde_json::Value;

use super::families::{RotaryLayers, Window, Windowed};
use crate::error::{Error, Result};

/// Which layers turn queries and keys by their positions.
#[derive(Debug, Clone, Copy)]
pub enum Rotated<'a> {
    /// All.
    All,
    /// Those with another number than zero.
    Listed(&'a [Value]),
    /// All but every so many-th.
    AllBut(usize),
}

impl<'a> Rotated<'a> {
    /// Reads the configuration of a model with so many layers.
    ///
    /// # Errors
    /// If the list is too short or no list, or the interval is no count.
    pub fn read(rule: RotaryLayers, config: &Config<'a>, layers: usize) -> Result<Self> {
        let RotaryLayers::Listed { interval } = rule else {
            return Ok(Self::All);
        };
        if let Some(list) = list(config, "no_rope_layers")? {
            let numbers = list.iter().all(|entry| flag_of(entry).is_some());
            return match numbers && list.len() >= layers {
                true => Ok(Self::Listed(list)),
                false => Err(Error::validation(format!(
                    "config.json: \"no_rope_layers\" is not a list of {layers} zeros and ones"
                ))),
            };
        }
        let interval = config.count("no_rope_layer_interval")?.unwrap_or(interval);
        Ok(Self::AllBut(
            usize::try_from(interval).unwrap_or(usize::MAX),
        ))
    }

    /// Whether a layer does.
    pub fn is_rotary(&self, layer: usize) -> bool {
        match self {
            Self::All => true,
            Self::Listed(list) => list.get(layer).and_then(flag_of).unwrap_or(true),
            Self::AllBut(interval) => !(layer + 1).is_multiple_of(*interval),
        }
    }
}

/// Older configurations have numbers, some have flags.
fn flag_of(entry: &Value) -> Option<bool> {
    let number = entry.as_u64().map(|number| number != 0);
    number.or(entry.as_bool())
}

/// Which layers have a window.
#[derive(Debug, Clone, Copy)]
enum Which<'a> {
    /// All.
    All,
    /// Those that the configuration calls `sliding_attention`.
    Listed(&'a [Value]),
    /// From this one on.
    From(u64),
    /// Those without rotary embeddings.
    WithoutRotary,
}

/// The windows of a model.
#[derive(Debug, Clone, Copy)]
pub struct Windows<'a> {
    length: Option<usize>,
    which: Which<'a>,
}

const SLIDING: &str = "sliding_attention";

impl<'a> Windows<'a> {
    /// Reads the configuration of a model with so many layers.
    ///
    /// # Errors
    /// If a value is of a wrong type, or the layers' types are others than those with and
    /// without a window, or not as many as the layers.
    pub fn read(rule: Window, config: &Config<'a>, layers: usize) -> Result<Self> {
        let (length, which) = match rule {
            Window::Never => (None, Which::All),
            Window::EveryLayer { default } => (length(config, default)?, Which::All),
            Window::SomeLayers { default, which } => {
                let used = config.flag("use_sliding_window")?.unwrap_or(false);
                let length = match used {
                    true => length(config, default)?,
                    false => None,
                };
                let listed = layer_types(config, layers, length.is_some())?;
                (
                    length,
                    listed.map_or(which_of(which, config)?, Which::Listed),
                )
            }
        };
        Ok(Self { length, which })
    }

    /// How many tokens a token sees in a layer, itself included, if that is limited.
    pub fn window(&self, layer: usize, rotary: bool) -> Option<usize> {
        let windowed = match self.which {
            Which::All => true,
            Which::Listed(list) => list.get(layer).and_then(Value::as_str) == Some(SLIDING),
            Which::From(first) => layer as u64 >= first,
            Which::WithoutRotary => !rotary,
        };
        self.length.filter(|_| windowed)
    }
}

/// `sliding_window`: a size, `null` for none, the default if it is missing.
fn length(config: &Config<'_>, default: Option<u64>) -> Result<Option<usize>> {
    const KEY: &str = "sliding_window";
    if config.is_null(KEY) {
        return Ok(None);
    }
    let length = config.count(KEY)?.or(default);
    Ok(length.and_then(|length| usize::try_from(length).ok()))
}

fn which_of<'a>(which: Windowed, config: &Config<'_>) -> Result<Which<'a>> {
    Ok(match which {
        Windowed::WithoutRotary => Which::WithoutRotary,
        Windowed::Upper { default } => {
            Which::From(config.integer("max_window_layers")?.unwrap_or(default))
        }
    })
}

/// `layer_types`, if it is there; checked, as layers may also be of types that are not known
/// here.
fn layer_types<'a>(
    config: &Config<'a>,
    layers: usize,
    has_window: bool,
) -> Result<Option<&'a [Value]>> {
    const KEY: &str = "layer_types";
    let Some(list) = list(config, KEY)? else {
        return Ok(None);
    };
    if list.len() != layers {
        return Err(Error::validation(format!(
            "config.json: \"{KEY}\" has {} entries, the model {layers} layers",
            list.len()
        )));
    }
    for entry in list {
        match entry.as_str() {
            Some("full_attention") => {}
            Some(SLIDING) if has_window => {}
            Some(SLIDING) => {
                return Err(Error::validation(format!(
                    "config.json: \"{KEY}\" has layers with a sliding window, but \
                     \"use_sliding_window\" and \"sliding_window\" give no window"
                )));
            }
            _ => {
                return Err(Error::unsupported(format!(
                    "config.json: \"{KEY}\" has {entry}, which cannot be run"
                ))
                .suggest("supported: full_attention, sliding_attention"));
            }
        }
    }
    Ok(Some(list))
}

fn list<'a>(config: &Config<'a>, key: &str) -> Result<Option<&'a [Value]>> {
    match config.value(key) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(_) => Err(Error::validation(format!(
            "config.json: \"{key}\" is not a list"
        ))),
    }
}
