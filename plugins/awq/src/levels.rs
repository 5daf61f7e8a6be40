//! The level. There is one: no program reads AWQ of other than four bits.

use llm_quantize_plugin_api::LevelInfo;

/// Bits of a code, and of a zero.
pub const BITS: u32 = 4;
/// The largest code and zero.
pub const HIGHEST: u8 = 15;
/// The level's name, and that of the type of its tensors.
pub const LEVEL: &str = "4bit";

const ALIASES: [&str; 4] = ["4-bit", "w4", "w4a16", "int4"];

/// For `plugin info`, with the bits of a weight in groups of 128: the code's, and a scale and a
/// zero for each group.
#[must_use]
pub fn info() -> LevelInfo {
    LevelInfo {
        name: LEVEL.into(),
        aliases: ALIASES.map(Into::into).to_vec(),
        description: "asymmetric; loads in vLLM, transformers, GPTQModel and AutoAWQ".into(),
        bits_per_weight: f64::from(BITS) + f64::from(16 + BITS) / 128.0,
    }
}
