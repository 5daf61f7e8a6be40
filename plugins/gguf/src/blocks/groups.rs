//! Blocks of 32 weights as groups that other formats can take over, and the other way round.
//!
//! Q4_0, Q5_0 and Q8_0 are `scale · (code - half)`: groups whose zero is in the middle. Q4_1 and
//! Q5_1 are `scale · code + offset`: they hold groups with any zero as well as half precision holds
//! `-scale · zero`, but are none themselves, as their offsets are no whole multiples of the scale.

use llm_quantize_plugin_api::kernels::float16::f16_to_f32;
use llm_quantize_plugin_api::regroup::Zeros;

use super::BlockType;
use super::float::f16_bytes;
use super::small_blocks::{
    Codes, WEIGHTS, pack_fifth_bits, pack_nibbles, unpack_five_bits, unpack_nibbles,
};

/// Weights in a group: those of a block.
pub const GROUP: usize = WEIGHTS;

/// The types that hold groups, from small to large.
pub const GROUPED: [BlockType; 5] = [
    BlockType::Q4_0,
    BlockType::Q4_1,
    BlockType::Q5_0,
    BlockType::Q5_1,
    BlockType::Q8_0,
];

/// Bits of a type's codes, and what it can say of zeros; `None` of types that hold no groups.
#[must_use]
pub const fn arrangement(ty: BlockType) -> Option<(u32, Zeros)> {
    Some(match ty {
        BlockType::Q4_0 => (4, Zeros::Middle),
        BlockType::Q4_1 => (4, Zeros::Offsets),
        BlockType::Q5_0 => (5, Zeros::Middle),
        BlockType::Q5_1 => (5, Zeros::Offsets),
        BlockType::Q8_0 => (8, Zeros::Middle),
        _ => return None,
    })
}

/// Bits of the codes of a type whose blocks are groups.
#[must_use]
pub fn bits_of_groups(ty: BlockType) -> Option<u32> {
    let (bits, zeros) = arrangement(ty)?;
    (zeros == Zeros::Middle).then_some(bits)
}

/// Unpacks a row of blocks that are groups: its codes, and the scale of each group. All zeros are
/// `2^(bits - 1)`. Nothing happens for other types, or lengths that do not fit.
pub fn unpack_row(ty: BlockType, row: &[u8], codes: &mut [u8], scales: &mut [f32]) {
    let codes = codes.as_chunks_mut::<WEIGHTS>().0;
    let blocks = row.chunks_exact(ty.block_bytes());
    for ((block, codes), scale) in blocks.zip(codes).zip(scales) {
        if let Some((found, stored)) = unpack(ty, block) {
            (*codes, *scale) = (stored, found);
        }
    }
}

fn unpack(ty: BlockType, block: &[u8]) -> Option<(f32, Codes)> {
    let (scale, rest) = block.split_first_chunk()?;
    let scale = f16_to_f32(*scale);
    let codes = match ty {
        BlockType::Q4_0 => unpack_nibbles(rest.first_chunk()?),
        BlockType::Q5_0 => {
            let (fifth, low) = rest.split_first_chunk()?;
            unpack_five_bits(low.first_chunk()?, *fifth)
        }
        BlockType::Q8_0 => rest.first_chunk::<WEIGHTS>()?.map(|code| code ^ 0x80),
        _ => return None,
    };
    Some((scale, codes))
}

/// Packs a group of 32 weights `scale · (code - zero)` into a block; `false` if the type cannot hold
/// it.
pub fn pack(ty: BlockType, codes: &[u8], scale: f32, zero: f32, block: &mut [u8]) -> bool {
    let packed = codes
        .first_chunk()
        .and_then(|codes| pack_group(ty, codes, scale, zero, block));
    packed.is_some()
}

fn pack_group(ty: BlockType, codes: &Codes, scale: f32, zero: f32, block: &mut [u8]) -> Option<()> {
    let (bits, zeros) = arrangement(ty)?;
    let most = (1i32 << bits) - 1;
    let whole = (zero.fract() == 0.0 && (0.0..256.0).contains(&zero)).then_some(zero as i32);
    // Where all weights are zero, an offset would have to be exact to keep them so.
    let none = codes.iter().all(|code| f32::from(*code) == zero);
    // Codes become `sign · (code - from) + to`.
    let (from, to) = match zeros {
        Zeros::Middle => (whole?, 1 << (bits - 1)),
        Zeros::Offsets if none => (whole?, 0),
        Zeros::Offsets | Zeros::Codes { .. } => (0, 0),
    };
    // There is one more code below the middle than above; the scale may have any sign.
    let highest = codes.iter().max().map_or(0, |code| i32::from(*code) - from);
    let turned = zeros == Zeros::Middle && highest >= to;
    let sign = if turned { -1 } else { 1 };
    let mut stored: Codes = [0; WEIGHTS];
    for (stored, code) in stored.iter_mut().zip(codes) {
        let code = sign * (i32::from(*code) - from) + to;
        *stored = (0..=most)
            .contains(&code)
            .then(|| u8::try_from(code).ok())??;
    }
    let offset = match none {
        true => 0.0,
        false => 0.0 - scale * zero,
    };
    let mut rest = block;
    put(&mut rest, f16_bytes(scale * sign as f32))?;
    if zeros == Zeros::Offsets {
        put(&mut rest, f16_bytes(offset))?;
    }
    if bits == 8 {
        put(&mut rest, stored.map(|code| code ^ 0x80))?;
    } else {
        if bits == 5 {
            put(&mut rest, pack_fifth_bits(&stored))?;
        }
        put(&mut rest, pack_nibbles(&stored))?;
    }
    rest.is_empty().then_some(())
}

/// Writes the next bytes of a block.
fn put<const N: usize>(rest: &mut &mut [u8], bytes: [u8; N]) -> Option<()> {
    let (place, after) = std::mem::take(rest).split_first_chunk_mut()?;
    *place = bytes;
    *rest = after;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::decode_row;
    use super::*;
    use proptest::prelude::*;

    fn decoded(ty: BlockType, block: &[u8]) -> Vec<f32> {
        let mut numbers = vec![0.0; WEIGHTS];
        decode_row(ty, block, &mut numbers).unwrap();
        numbers
    }

    fn packed(ty: BlockType, codes: &[u8], scale: f32, zero: f32) -> Option<Vec<u8>> {
        let mut block = vec![0; ty.block_bytes()];
        pack(ty, codes, scale, zero, &mut block).then_some(block)
    }

    fn numbers(codes: &[u8], scale: f32, zero: f32) -> Vec<f32> {
        let codes = codes.iter();
        codes
            .map(|code| scale * (f32::from(*code) - zero))
            .collect()
    }

    proptest! {
        #[test]
        fn symmetric_groups_are_blocks(
            ty in prop::sample::select(vec![BlockType::Q4_0, BlockType::Q5_0, BlockType::Q8_0]),
            bits in 2u32..=8,
            codes in prop::collection::vec(any::<u8>(), WEIGHTS),
            scale in -64i8..64,
        ) {
            let scale = f32::from(scale) / 8.0;
            let zero = f32::from(1u16 << (bits - 1));
            let codes: Vec<u8> = codes.iter().map(|code| code >> (8 - bits)).collect();
            let Some(block) = packed(ty, &codes, scale, zero) else {
                prop_assert!(bits > bits_of_groups(ty).unwrap());
                return Ok(());
            };
            prop_assert_eq!(decoded(ty, &block), numbers(&codes, scale, zero));
            // And back.
            let (mut found, mut scales) = ([0; WEIGHTS], [0.0]);
            unpack_row(ty, &block, &mut found, &mut scales);
            let half = f32::from(1u16 << (bits_of_groups(ty).unwrap() - 1));
            prop_assert_eq!(numbers(&found, scales[0], half), numbers(&codes, scale, zero));
        }

        #[test]
        fn offsets_hold_any_zero(
            five in any::<bool>(),
            codes in prop::collection::vec(0u8..16, WEIGHTS),
            scale in -64i8..64,
            zero in 0u8..16,
        ) {
            let ty = if five { BlockType::Q5_1 } else { BlockType::Q4_1 };
            let (scale, zero) = (f32::from(scale) / 8.0, f32::from(zero));
            let block = packed(ty, &codes, scale, zero).unwrap();
            prop_assert_eq!(decoded(ty, &block), numbers(&codes, scale, zero));
        }
    }

    #[test]
    fn groups_of_zeros_stay_zeros() {
        // 3 · 2049 / 2048 has more bits than an offset.
        let scale = 2049.0 / 2048.0;
        let block = packed(BlockType::Q4_1, &[3; WEIGHTS], scale, 3.0).unwrap();
        assert_eq!(decoded(BlockType::Q4_1, &block), [0.0; WEIGHTS]);
    }

    #[test]
    fn what_is_not_held_is_said() {
        let codes = [15; WEIGHTS];
        assert_eq!(packed(BlockType::Q4_0, &codes, 1.0, 0.0), None);
        assert!(packed(BlockType::Q5_0, &codes, 1.0, 0.0).is_some());
        assert_eq!(packed(BlockType::Q4_0, &codes, 1.0, 7.5), None);
        assert!(packed(BlockType::Q4_1, &codes, 1.0, 7.5).is_some());
        assert_eq!(packed(BlockType::Q6_K, &codes, 1.0, 8.0), None);
        assert_eq!(packed(BlockType::Q4_0, &codes[..31], 1.0, 8.0), None);
        assert_eq!(bits_of_groups(BlockType::Q4_1), None);
        let sizes = GROUPED.map(BlockType::bits_per_weight);
        assert!(sizes.is_sorted(), "{sizes:?}");
    }
}
