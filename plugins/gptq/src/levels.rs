//! The levels: bits of a code.

use llm_quantize_plugin_api::LevelInfo;

/// A level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Canonical name.
    pub name: &'static str,
    /// Bits of a code.
    pub bits: u32,
    description: &'static str,
    aliases: [&'static str; 4],
}

/// All levels, from small to large.
pub const LEVELS: [Level; 4] = [
    Level {
        name: "2bit",
        bits: 2,
        description: "very lossy; GPTQModel and transformers only",
        aliases: ["2-bit", "w2", "w2a16", "int2"],
    },
    Level {
        name: "3bit",
        bits: 3,
        description: "lossy; GPTQModel and transformers only",
        aliases: ["3-bit", "w3", "w3a16", "int3"],
    },
    Level {
        name: "4bit",
        bits: 4,
        description: "the usual choice; loads everywhere",
        aliases: ["4-bit", "w4", "w4a16", "int4"],
    },
    Level {
        name: "8bit",
        bits: 8,
        description: "hardly lossy; loads in vLLM, GPTQModel and transformers",
        aliases: ["8-bit", "w8", "w8a16", "int8"],
    },
];

impl Level {
    /// The level of this name or alias.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        LEVELS.iter().find(|level| {
            let mut names = level.aliases.iter().chain([&level.name]);
            names.any(|known| known.eq_ignore_ascii_case(name))
        })
    }

    /// For `plugin info`, with the bits of a weight in groups of 128: the code's, and a scale
    /// and a zero for each group.
    #[must_use]
    pub fn info(&self) -> LevelInfo {
        LevelInfo {
            name: self.name.into(),
            aliases: self.aliases.iter().map(|name| (*name).into()).collect(),
            description: self.description.into(),
            bits_per_weight: f64::from(self.bits) + f64::from(16 + self.bits) / 128.0,
        }
    }
}

/// The name of the level with so many bits: what a tensor's type is called.
#[must_use]
pub fn type_name(bits: u32) -> String {
    format!("{bits}bit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found_by_what_users_type() {
        for (name, bits) in [("4bit", 4), ("W8A16", 8), ("int3", 3), ("2-BIT", 2)] {
            assert_eq!(Level::find(name).map(|level| level.bits), Some(bits));
        }
        assert_eq!(Level::find("5bit"), None);
    }

    #[test]
    fn names_are_those_of_types() {
        assert!(
            LEVELS
                .iter()
                .all(|level| type_name(level.bits) == level.name)
        );
    }
}
