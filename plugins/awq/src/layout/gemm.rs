//! The words of `gemm`: codes of eight neighbouring outputs, shuffled so that AutoAWQ's kernels
//! unpack them two at a time.

use llm_quantize_plugin_api::kernels::{Parallel, hand_out};
use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::PACK;
use crate::levels::HIGHEST;

/// The output of each field of four bits, from the lowest on.
const ORDER: [usize; PACK] = [0, 2, 4, 6, 1, 3, 5, 7];
/// Bytes of a word.
const WORD: usize = 4;
/// Inputs that are packed or unpacked at once: their words of a few outputs stay in the nearest
/// cache until the next outputs need what else is in the same lines.
const INPUTS: usize = 256;

/// The word of eight codes.
#[must_use]
pub fn pack_word(codes: [u8; PACK]) -> u32 {
    let fields = ORDER.iter().enumerate();
    fields.fold(0, |word, (field, &output)| {
        word | u32::from(codes[output] & HIGHEST) << (4 * field)
    })
}

/// The eight codes of a word.
#[must_use]
pub fn unpack_word(word: u32) -> [u8; PACK] {
    let mut codes = [0; PACK];
    for (field, &output) in ORDER.iter().enumerate() {
        codes[output] = (word >> (4 * field)) as u8 & HIGHEST;
    }
    codes
}

/// Packs a matrix of codes, `N × K` with `N` a multiple of eight, into `K` rows of `N / 8` words.
///
/// # Panics
/// If the sizes are others.
pub fn pack(parallel: &dyn Parallel, codes: ArrayView2<'_, u8>, out: &mut [u8]) {
    let (outputs, inputs) = codes.dim();
    assert!(outputs.is_multiple_of(PACK), "whole words");
    assert_eq!(
        out.len(),
        outputs / PACK * inputs * WORD,
        "length of the words"
    );
    let row = outputs / PACK * WORD;
    let parts: Vec<&mut [u8]> = out.chunks_mut((INPUTS * row).max(1)).collect();
    hand_out(parallel, parts, |part, out| {
        let first = part * INPUTS;
        let codes = codes.slice(s![.., first..(first + INPUTS).min(inputs)]);
        for word in 0..outputs / PACK {
            let eight = codes.slice(s![word * PACK..(word + 1) * PACK, ..]);
            for (codes, out) in eight.columns().into_iter().zip(out.chunks_exact_mut(row)) {
                let packed = pack_word(std::array::from_fn(|output| codes[output]));
                out[word * WORD..(word + 1) * WORD].copy_from_slice(&packed.to_le_bytes());
            }
        }
    });
}

/// Unpacks the codes of outputs, as many as `codes` has rows, from `first` on: the reverse of
/// [`pack`].
///
/// # Panics
/// If there are no such outputs, or the sizes are others.
pub fn unpack(packed: &[u8], words: usize, first: usize, mut codes: ArrayViewMut2<'_, u8>) {
    let (wanted, inputs) = codes.dim();
    assert!(first + wanted <= words * PACK, "outputs that are there");
    assert_eq!(packed.len(), words * inputs * WORD, "length of the words");
    let wanted = first..first + wanted;
    for start in (0..inputs).step_by(INPUTS) {
        let block = start..(start + INPUTS).min(inputs);
        for word in wanted.start / PACK..wanted.end.div_ceil(PACK) {
            let outputs = (word * PACK).max(wanted.start)..((word + 1) * PACK).min(wanted.end);
            for input in block.clone() {
                let at = (input * words + word) * WORD;
                let stored = packed[at..].first_chunk().copied().unwrap_or_default();
                let eight = unpack_word(u32::from_le_bytes(stored));
                for output in outputs.clone() {
                    codes[[output - wanted.start, input]] = eight[output % PACK];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::kernels::Serial;
    use ndarray::Array2;
    use proptest::prelude::*;

    #[test]
    fn a_word_is_that_of_autoawq() {
        // Outputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest field on.
        assert_eq!(pack_word([0, 1, 2, 3, 4, 5, 6, 7]), 0x7531_6420);
        assert_eq!(pack_word([15, 0, 0, 0, 0, 0, 0, 0]), 0xF);
        assert_eq!(pack_word([0, 0, 0, 0, 0, 0, 0, 15]), 0xF000_0000);
        assert_eq!(unpack_word(0x7531_6420), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn rows_of_words_are_inputs() {
        // Two inputs of sixteen outputs: output n has the codes n and 15 - n.
        let codes = Array2::from_shape_fn((16, 2), |(n, k)| if k == 0 { n } else { 15 - n } as u8);
        let mut packed = [0; 16];
        pack(&Serial, codes.view(), &mut packed);
        let words = packed.as_chunks().0.iter();
        let words: Vec<u32> = words.map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [0x7531_6420, 0xFDB9_ECA8, 0x8ACE_9BDF, 0x0246_1357]);
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            words in 1usize..9,
            inputs in prop::sample::select(vec![1usize, 31, 255, 256, 257, 600]),
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let codes = Array2::from_shape_simple_fn((words * PACK, inputs), || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 60) as u8
            });
            let mut packed = vec![0xAA; words * inputs * WORD];
            pack(&Serial, codes.view(), &mut packed);
            for (at, stored) in packed.as_chunks().0.iter().enumerate() {
                let (input, word) = (at / words, at % words);
                let eight = std::array::from_fn(|output| codes[[word * PACK + output, input]]);
                prop_assert_eq!(u32::from_le_bytes(*stored), pack_word(eight));
            }
            let first = words * PACK / 3;
            let last = words * PACK - words / 2;
            let mut back = Array2::zeros((last - first, inputs));
            unpack(&packed, words, first, back.view_mut());
            prop_assert_eq!(back, codes.slice(s![first..last, ..]));
        }
    }
}
