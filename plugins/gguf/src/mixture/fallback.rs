//! Rows that are not whole blocks: which type to take instead.

use crate::blocks::BlockType;
use std::fmt;

/// Why a tensor got another type than it should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeNote {
    /// The tensor's row length.
    pub columns: u64,
    /// The type it should have had.
    pub wanted: BlockType,
    /// The type it got.
    pub chosen: BlockType,
}

impl fmt::Display for ShapeNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = self.wanted.block_weights();
        let (wanted, chosen) = (self.wanted.name(), self.chosen.name());
        let columns = self.columns;
        write!(
            f,
            "{columns} is not a multiple of {weights}: {wanted} → {chosen}"
        )
    }
}

/// Whether rows of this length are whole blocks of the type.
pub(super) fn fits(ty: BlockType, columns: u64) -> bool {
    columns.is_multiple_of(ty.block_weights() as u64)
}

/// The type to use in place of `wanted`: for types with blocks of 256 the next larger one with
/// blocks of 32, and F16 if even those do not fit.
pub(super) fn fallback(wanted: BlockType, columns: u64) -> (BlockType, Option<ShapeNote>) {
    if fits(wanted, columns) {
        return (wanted, None);
    }
    let smaller_blocks = match wanted {
        BlockType::IQ4_XS => BlockType::IQ4_NL,
        BlockType::Q2_K | BlockType::Q3_K | BlockType::TQ1_0 | BlockType::TQ2_0 => BlockType::Q4_0,
        BlockType::Q4_K => BlockType::Q5_0,
        BlockType::Q5_K => BlockType::Q5_1,
        BlockType::Q6_K => BlockType::Q8_0,
        other => other,
    };
    let chosen = match fits(smaller_blocks, columns) {
        true => smaller_blocks,
        false => BlockType::F16,
    };
    let note = ShapeNote {
        columns,
        wanted,
        chosen,
    };
    (chosen, Some(note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use BlockType::*;

    #[test]
    fn blocks_of_256_give_way_to_the_next_larger_type() {
        let of_576 = |ty| fallback(ty, 576).0;
        let wanted = [Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS, TQ1_0, TQ2_0];
        let chosen = [Q4_0, Q4_0, Q5_0, Q5_1, Q8_0, IQ4_NL, Q4_0, Q4_0];
        assert_eq!(wanted.map(of_576), chosen);
        let fitting = [Q4_0, Q8_0, IQ4_NL, MXFP4, F16];
        assert_eq!(fitting.map(of_576), fitting);
        assert_eq!(fallback(Q4_K, 512), (Q4_K, None));
    }

    #[test]
    fn f16_is_the_last_resort() {
        let quantized = [
            Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, IQ4_XS, TQ1_0,
            TQ2_0, MXFP4,
        ];
        for ty in quantized {
            assert_eq!(fallback(ty, 100).0, F16, "{}", ty.name());
        }
    }

    #[test]
    fn the_note_says_why() {
        let note = fallback(Q4_K, 576).1.unwrap();
        assert_eq!(
            note.to_string(),
            "576 is not a multiple of 256: Q4_K → Q5_0"
        );
    }
}
