//! The quantization levels: names, numbers, and the rules that make each a mixture.
//!
//! This table is the one place to add a level: a row with its base type and, where some tensors
//! deserve another type, rules (see [`crate::mixture`]). Names, numbers and rules are those of
//! llama.cpp's llama-quantize, so that a file's level means the same everywhere.

use crate::blocks::BlockType::{self, *};
use crate::mixture::rules::When::{
    EightExperts, Experts, Falcon, First, FirstFraction, GroupedQuery, Imatrix, MoreBits,
    NoImatrix, NotEightExperts, NotFalcon,
};
use crate::mixture::rules::{Rule, all, attn_output, attn_v, ffn_down, output, token_embd};

/// A quantization level.
#[derive(Debug, Clone, Copy)]
pub struct Level {
    /// The name, as it also appears in file names: `Q4_K_M`.
    pub name: &'static str,
    /// Other names it goes by.
    pub aliases: &'static [&'static str],
    /// The number in `general.file_type` (llama.cpp's `llama_ftype`).
    pub file_type: u32,
    /// The type of tensors that no rule picks.
    pub base: BlockType,
    /// Who should take it, in one line.
    pub description: &'static str,
    /// Bits per weight over a whole model, measured on Llama-3.1-8B; smaller models, with a larger
    /// share of embeddings, take more. MXFP4_MOE's is Qwen3-30B-A3B's, as it is for such models.
    pub bits_per_weight: f32,
    /// Which tensors get another type; the first rule that holds counts.
    pub rules: &'static [Rule],
}

/// All levels, from the largest files to the smallest.
pub const LEVELS: &[Level] = &[
    Level {
        name: "F32",
        aliases: &[],
        file_type: 0,
        base: F32,
        description: "32-bit floats: no quantization, for reference",
        bits_per_weight: 32.0,
        rules: &[],
    },
    Level {
        name: "F16",
        aliases: &[],
        file_type: 1,
        base: F16,
        description: "16-bit floats: no quantization; exact for models trained in half precision",
        bits_per_weight: 16.0,
        rules: &[],
    },
    Level {
        name: "BF16",
        aliases: &[],
        file_type: 32,
        base: BF16,
        description: "bfloat16: no quantization; exact for most published models",
        bits_per_weight: 16.0,
        rules: &[],
    },
    Level {
        name: "Q8_0",
        aliases: &[],
        file_type: 7,
        base: Q8_0,
        description: "8 bits: hardly told apart from the original",
        bits_per_weight: 8.50,
        rules: &[],
    },
    Level {
        name: "Q6_K",
        aliases: &[],
        file_type: 18,
        base: Q6_K,
        description: "6 bits: very close to the original",
        bits_per_weight: 6.56,
        rules: &[],
    },
    Level {
        name: "Q5_1",
        aliases: &[],
        file_type: 9,
        base: Q5_1,
        description: "5 bits with offsets, older type: prefer Q5_K_M",
        bits_per_weight: 6.04,
        rules: &[],
    },
    Level {
        name: "Q5_K_M",
        aliases: &["Q5_K"],
        file_type: 17,
        base: Q5_K,
        description: "5 bits, sensitive tensors at 6: small loss",
        bits_per_weight: 5.70,
        rules: &[attn_v(&[MoreBits], Q6_K), ffn_down(&[MoreBits], Q6_K)],
    },
    Level {
        name: "Q5_K_S",
        aliases: &[],
        file_type: 16,
        base: Q5_K,
        description: "5 bits throughout: small loss",
        bits_per_weight: 5.57,
        rules: &[],
    },
    Level {
        name: "Q5_0",
        aliases: &[],
        file_type: 8,
        base: Q5_0,
        description: "5 bits, older type: prefer Q5_K_S",
        bits_per_weight: 5.57,
        rules: &[ffn_down(&[Imatrix, FirstFraction(8)], Q5_1)],
    },
    Level {
        name: "Q4_1",
        aliases: &[],
        file_type: 3,
        base: Q4_1,
        description: "4 bits with offsets, older type: prefer Q4_K_M",
        bits_per_weight: 5.10,
        rules: &[],
    },
    Level {
        name: "Q4_K_M",
        aliases: &["Q4_K"],
        file_type: 15,
        base: Q4_K,
        description: "4 bits, sensitive tensors at 6: the usual choice",
        bits_per_weight: 4.89,
        rules: &[
            attn_v(&[MoreBits], Q6_K),
            attn_output(&[NotFalcon, EightExperts], Q5_K),
            ffn_down(&[Falcon, FirstFraction(16)], Q6_K),
            ffn_down(&[Falcon, MoreBits], Q5_K),
            ffn_down(&[NotFalcon, MoreBits], Q6_K),
        ],
    },
    Level {
        name: "IQ4_NL",
        aliases: &[],
        file_type: 25,
        base: IQ4_NL,
        description: "4 bits on an uneven scale: as large as Q4_K_S, for rows that are no multiple of 256",
        bits_per_weight: 4.68,
        rules: &[
            attn_v(&[GroupedQuery], Q5_K),
            attn_output(&[NotFalcon, EightExperts], Q5_K),
            ffn_down(&[NoImatrix, FirstFraction(8)], Q5_K),
        ],
    },
    Level {
        name: "Q4_K_S",
        aliases: &[],
        file_type: 14,
        base: Q4_K,
        description: "4 bits, first layers at 5: somewhat smaller than Q4_K_M",
        bits_per_weight: 4.67,
        rules: &[
            attn_v(&[First(4)], Q5_K),
            attn_output(&[NotFalcon, EightExperts], Q5_K),
            ffn_down(&[NotFalcon, FirstFraction(8)], Q5_K),
        ],
    },
    Level {
        name: "Q4_0",
        aliases: &[],
        file_type: 2,
        base: Q4_0,
        description: "4 bits, older type: fast on some hardware, else prefer Q4_K_S",
        bits_per_weight: 4.64,
        rules: &[ffn_down(&[Imatrix, FirstFraction(8)], Q4_1)],
    },
    Level {
        name: "MXFP4_MOE",
        aliases: &["MXFP4"],
        file_type: 38,
        base: MXFP4,
        description: "experts at 4 bits, all else at 8: for models with experts trained so, as gpt-oss",
        bits_per_weight: 4.46,
        rules: &[output(&[], Q8_0), all(&[Experts], MXFP4), all(&[], Q8_0)],
    },
    Level {
        name: "IQ4_XS",
        aliases: &[],
        file_type: 30,
        base: IQ4_XS,
        description: "4 bits on an uneven scale: smaller than Q4_K_S at about its quality",
        bits_per_weight: 4.46,
        rules: &[
            attn_v(&[GroupedQuery], Q5_K),
            attn_output(&[NotFalcon, EightExperts], Q5_K),
            ffn_down(&[NoImatrix, FirstFraction(8)], Q5_K),
        ],
    },
    Level {
        name: "Q3_K_L",
        aliases: &[],
        file_type: 13,
        base: Q3_K,
        description: "3 bits, sensitive tensors at 5: noticeable loss",
        bits_per_weight: 4.30,
        rules: &[
            attn_v(&[], Q5_K),
            attn_output(&[Falcon], Q4_K),
            attn_output(&[NotEightExperts], Q5_K),
            ffn_down(&[Falcon], Q4_K),
            ffn_down(&[], Q5_K),
        ],
    },
    Level {
        name: "Q3_K_M",
        aliases: &["Q3_K"],
        file_type: 12,
        base: Q3_K,
        description: "3 bits, sensitive tensors at 4 and 5: noticeable loss",
        bits_per_weight: 4.00,
        rules: &[
            attn_v(&[First(2)], Q5_K),
            attn_v(&[], Q4_K),
            attn_output(&[NotFalcon, EightExperts], Q5_K),
            attn_output(&[NotFalcon], Q4_K),
            ffn_down(&[FirstFraction(16)], Q5_K),
            ffn_down(&[NotFalcon], Q4_K),
            ffn_down(&[MoreBits], Q4_K),
        ],
    },
    Level {
        name: "Q3_K_S",
        aliases: &[],
        file_type: 11,
        base: Q3_K,
        description: "3 bits throughout: large loss",
        bits_per_weight: 3.64,
        rules: &[attn_output(&[NotFalcon, EightExperts], Q5_K)],
    },
    Level {
        name: "Q2_K",
        aliases: &[],
        file_type: 10,
        base: Q2_K,
        description: "2 bits, sensitive tensors at 3 and 4: the smallest, for very large models",
        bits_per_weight: 3.16,
        rules: &[
            attn_v(&[GroupedQuery], Q4_K),
            attn_v(&[], Q3_K),
            attn_output(&[NotFalcon, EightExperts], Q5_K),
            attn_output(&[NotFalcon], Q3_K),
            ffn_down(&[], Q3_K),
        ],
    },
    Level {
        name: "Q2_K_S",
        aliases: &[],
        file_type: 21,
        base: Q2_K,
        description: "2 bits, few tensors at 4: smaller than Q2_K; needs an importance matrix",
        bits_per_weight: 2.97,
        rules: &[
            attn_v(&[GroupedQuery], Q4_K),
            ffn_down(&[FirstFraction(8)], Q4_K),
        ],
    },
    Level {
        name: "TQ2_0",
        aliases: &[],
        file_type: 37,
        base: TQ2_0,
        description: "ternary, in 2 bits: only for models trained with ternary weights; fast",
        bits_per_weight: 2.52,
        rules: &[token_embd(&[], Q4_K)],
    },
    Level {
        name: "TQ1_0",
        aliases: &[],
        file_type: 36,
        base: TQ1_0,
        description: "ternary, in 1.7 bits: only for models trained with ternary weights",
        bits_per_weight: 2.19,
        rules: &[token_embd(&[], Q4_K)],
    },
];

impl Level {
    /// The level of this name or alias, whatever its case.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        LEVELS
            .iter()
            .find(|level| level.names().any(|own| own.eq_ignore_ascii_case(name)))
    }

    /// The level with this number in `general.file_type`.
    #[must_use]
    pub fn from_file_type(file_type: u32) -> Option<&'static Self> {
        LEVELS.iter().find(|level| level.file_type == file_type)
    }

    /// Whether tensors of this type are of no use without an importance matrix, so that
    /// llama-quantize refuses to make them; embeddings and the output are an exception.
    #[must_use]
    pub fn requires_imatrix(&self, ty: BlockType) -> bool {
        matches!((self.name, ty), ("Q2_K_S", Q2_K))
    }

    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_numbers_are_unique() {
        let names: Vec<_> = LEVELS.iter().flat_map(Level::names).collect();
        let numbers: HashSet<_> = LEVELS.iter().map(|level| level.file_type).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert_eq!(numbers.len(), LEVELS.len());
        assert_eq!(LEVELS.len(), 23);
    }

    #[test]
    fn levels_are_found_by_name_alias_and_number() {
        let name = |text| Level::find(text).map(|level| level.name);
        assert_eq!(name("q4_k_m"), Some("Q4_K_M"));
        assert_eq!(name("Q3_K"), Some("Q3_K_M"));
        assert_eq!(name("q4_k"), Some("Q4_K_M"));
        assert_eq!(name("Q5_k"), Some("Q5_K_M"));
        assert_eq!(name("bf16"), Some("BF16"));
        assert_eq!(name("mxfp4"), Some("MXFP4_MOE"));
        assert_eq!(name("Q4"), None);
        assert_eq!(
            Level::from_file_type(15).map(|level| level.name),
            Some("Q4_K_M")
        );
        assert!(Level::from_file_type(4).is_none());
    }

    #[test]
    fn only_two_bits_of_the_small_mixture_need_an_importance_matrix() {
        let needs = |name, ty| Level::find(name).unwrap().requires_imatrix(ty);
        assert!(needs("Q2_K_S", Q2_K));
        assert!(!needs("Q2_K_S", Q4_K) && !needs("Q2_K", Q2_K) && !needs("TQ1_0", TQ1_0));
    }

    #[test]
    fn the_table_goes_from_large_to_small_and_no_level_is_below_its_base() {
        assert!(LEVELS.is_sorted_by(|a, b| a.bits_per_weight >= b.bits_per_weight));
        for level in LEVELS {
            let base = level.base.block_bytes() as f32 * 8.0 / level.base.block_weights() as f32;
            assert!(level.bits_per_weight >= base - 0.01, "{}", level.name);
            assert!(level.bits_per_weight < base + 1.0, "{}", level.name);
        }
    }
}
