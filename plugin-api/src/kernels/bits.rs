//! Codes of a few bits in 32-bit words: a stream of bits, lowest first, as GPTQ and its relatives
//! store them.
//!
//! Code `i` has the bits from `bits · i` on; where 32 is no multiple of `bits`, a code may begin in
//! one word and end in the next. Words are stored with the low byte first. Every function works
//! on blocks of 32 codes, which fill `bits` words; what is missing of the last one counts as zero.

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::parallel::{Parallel, hand_out};
use crate::interface::{Error, Result};

/// Codes of a block.
const BLOCK: usize = 32;
/// Bytes of a word.
const WORD: usize = 4;
/// Columns of a tile: a column's codes of a block are half a cache line, and so many of these
/// stay in the nearest cache until the next block needs the other half.
const TILE: usize = 128;
/// Codes that one task packs or unpacks.
const TASK: usize = 1 << 20;

/// Words that hold so many codes of so many bits; `None` if they do not fill whole words, or the
/// number overflows.
#[must_use]
pub fn words(bits: u32, codes: usize) -> Option<usize> {
    let total = codes.checked_mul(bits as usize)?;
    total.is_multiple_of(32).then_some(total / 32)
}

/// What is done with blocks of codes of a number of bits that is known when this is compiled.
trait Task {
    fn run<const BITS: usize>(self);
}

/// Runs a task for a number of bits.
fn dispatch(bits: u32, task: impl Task) -> Result<()> {
    match bits {
        2 => task.run::<2>(),
        3 => task.run::<3>(),
        4 => task.run::<4>(),
        5 => task.run::<5>(),
        6 => task.run::<6>(),
        7 => task.run::<7>(),
        8 => task.run::<8>(),
        _ => {
            return Err(Error::internal(format!(
                "codes of {bits} bits cannot be packed"
            )));
        }
    }
    Ok(())
}

#[inline(always)]
fn pack_block<const BITS: usize>(codes: &[u8; BLOCK]) -> [u32; BITS] {
    let mut words = [0; BITS];
    for (index, &code) in codes.iter().enumerate() {
        let code = u32::from(code) & ((1 << BITS) - 1);
        let (word, shift) = (index * BITS / 32, index * BITS % 32);
        words[word] |= code << shift;
        if shift + BITS > 32 {
            words[word + 1] |= code >> (32 - shift);
        }
    }
    words
}

#[inline(always)]
fn unpack_block<const BITS: usize>(words: &[u32; BITS]) -> [u8; BLOCK] {
    std::array::from_fn(|index| {
        let (word, shift) = (index * BITS / 32, index * BITS % 32);
        let mut code = words[word] >> shift;
        if shift + BITS > 32 {
            code |= words[word + 1] << (32 - shift);
        }
        (code & ((1 << BITS) - 1)) as u8
    })
}

fn check(bits: u32, codes: usize, bytes: usize) -> Result<()> {
    if words(bits, codes).and_then(|words| words.checked_mul(WORD)) != Some(bytes) {
        return Err(Error::internal(format!(
            "{codes} codes of {bits} bits do not fill {bytes} bytes"
        )));
    }
    Ok(())
}

/// Packs one stream of codes; `out` is as long as they are. Of each code the low bits count.
///
/// # Errors
/// If the codes do not fill the words, or such codes cannot be packed.
pub fn pack(bits: u32, codes: &[u8], out: &mut [u8]) -> Result<()> {
    struct Pack<'a>(&'a [u8], &'a mut [u8]);
    impl Task for Pack<'_> {
        fn run<const BITS: usize>(self) {
            let blocks = self.0.chunks(BLOCK);
            for (codes, out) in blocks.zip(self.1.chunks_mut(BITS * WORD)) {
                let mut block = [0; BLOCK];
                block[..codes.len()].copy_from_slice(codes);
                let words = pack_block::<BITS>(&block);
                for (word, out) in words.iter().zip(out.chunks_exact_mut(WORD)) {
                    out.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
    check(bits, codes.len(), out.len())?;
    dispatch(bits, Pack(codes, out))
}

/// Unpacks one stream of codes: the reverse of [`pack`].
///
/// # Errors
/// If the codes do not fill the words, or such codes cannot be packed.
pub fn unpack(bits: u32, words: &[u8], codes: &mut [u8]) -> Result<()> {
    struct Unpack<'a>(&'a [u8], &'a mut [u8]);
    impl Task for Unpack<'_> {
        fn run<const BITS: usize>(self) {
            let blocks = self.1.chunks_mut(BLOCK);
            for (codes, stored) in blocks.zip(self.0.chunks(BITS * WORD)) {
                let mut words = [0; BITS];
                for (word, stored) in words.iter_mut().zip(stored.as_chunks::<WORD>().0) {
                    *word = u32::from_le_bytes(*stored);
                }
                let block = unpack_block::<BITS>(&words);
                codes.copy_from_slice(&block[..codes.len()]);
            }
        }
    }
    check(bits, codes.len(), words.len())?;
    dispatch(bits, Unpack(words, codes))
}

/// One code of a stream; `None` beyond its end.
#[must_use]
pub fn code_at(bits: u32, words: &[u8], index: usize) -> Option<u8> {
    let bit = index.checked_mul(bits as usize)?;
    // A code of up to eight bits lies in two bytes; the last one may lie in one.
    let low = *words.get(bit / 8)?;
    let high = words.get(bit / 8 + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([low, high]) >> (bit % 8);
    Some((pair & (0xFF >> 8u32.checked_sub(bits)?)) as u8)
}

/// Packs the rows of a matrix of codes into the columns of a matrix of words: `codes` is
/// `N × K`, `out` has `K · bits / 32` rows of `N` words.
///
/// # Errors
/// If the codes do not fill the words, or such codes cannot be packed.
pub fn pack_columns(
    parallel: &dyn Parallel,
    bits: u32,
    codes: ArrayView2<'_, u8>,
    out: &mut [u8],
) -> Result<()> {
    struct Pack<'a>(&'a dyn Parallel, ArrayView2<'a, u8>, &'a mut [u8]);
    impl Task for Pack<'_> {
        fn run<const BITS: usize>(self) {
            let Self(parallel, codes, out) = self;
            let (columns, depth) = codes.dim();
            let blocks = (TASK / (columns * BLOCK)).max(1);
            let parts: Vec<&mut [u8]> = out.chunks_mut(blocks * BITS * columns * WORD).collect();
            hand_out(parallel, parts, |part, out| {
                let first = part * blocks * BLOCK;
                let last = (first + blocks * BLOCK).min(depth);
                pack_part::<BITS>(codes.slice(s![.., first..last]), out);
            });
        }
    }
    check(bits, codes.len(), out.len())?;
    check(
        bits,
        codes.ncols(),
        words(bits, codes.ncols()).unwrap_or(0) * WORD,
    )?;
    if out.is_empty() {
        return Ok(());
    }
    dispatch(bits, Pack(parallel, codes, out))
}

fn pack_part<const BITS: usize>(codes: ArrayView2<'_, u8>, out: &mut [u8]) {
    let (columns, depth) = codes.dim();
    for start in (0..columns).step_by(TILE) {
        let tile = start..(start + TILE).min(columns);
        for first in (0..depth).step_by(BLOCK) {
            let len = BLOCK.min(depth - first);
            let rows = &mut out[first * BITS / 32 * columns * WORD..];
            for column in tile.clone() {
                let mut block = [0; BLOCK];
                let source = codes.slice(s![column, first..first + len]);
                match source.as_slice() {
                    Some(source) => block[..len].copy_from_slice(source),
                    None => source
                        .iter()
                        .zip(&mut block)
                        .for_each(|(code, b)| *b = *code),
                }
                let words = pack_block::<BITS>(&block);
                for (row, word) in words[..len * BITS / 32].iter().enumerate() {
                    let at = (row * columns + column) * WORD;
                    rows[at..at + WORD].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
}

/// Unpacks columns of a matrix of words into the rows of a matrix of codes: the reverse of
/// [`pack_columns`]. `packed` has `columns` words in a row; the columns from `first` on, as many
/// as `codes` has rows, are unpacked.
///
/// # Errors
/// If the codes do not fill the words, there are no such columns, or such codes cannot be
/// packed.
pub fn unpack_columns(
    bits: u32,
    packed: &[u8],
    columns: usize,
    first: usize,
    codes: ArrayViewMut2<'_, u8>,
) -> Result<()> {
    struct Unpack<'a>(&'a [u8], usize, usize, ArrayViewMut2<'a, u8>);
    impl Task for Unpack<'_> {
        fn run<const BITS: usize>(self) {
            unpack_part::<BITS>(self.0, self.1, self.2, self.3);
        }
    }
    let (wanted, depth) = codes.dim();
    let all = columns.saturating_mul(depth);
    check(bits, all, packed.len())?;
    check(bits, depth, words(bits, depth).unwrap_or(0) * WORD)?;
    if first.checked_add(wanted).is_none_or(|end| end > columns) {
        return Err(Error::internal(format!(
            "there are no {wanted} columns from {first} on among {columns}"
        )));
    }
    dispatch(bits, Unpack(packed, columns, first, codes))
}

fn unpack_part<const BITS: usize>(
    packed: &[u8],
    columns: usize,
    first_column: usize,
    mut codes: ArrayViewMut2<'_, u8>,
) {
    let (wanted, depth) = codes.dim();
    for start in (0..wanted).step_by(TILE) {
        let tile = start..(start + TILE).min(wanted);
        for first in (0..depth).step_by(BLOCK) {
            let len = BLOCK.min(depth - first);
            let rows = &packed[first * BITS / 32 * columns * WORD..];
            for column in tile.clone() {
                let mut words = [0; BITS];
                for (row, word) in words[..len * BITS / 32].iter_mut().enumerate() {
                    let at = (row * columns + first_column + column) * WORD;
                    if let Some(stored) = rows.get(at..).and_then(|rest| rest.first_chunk()) {
                        *word = u32::from_le_bytes(*stored);
                    }
                }
                let block = unpack_block::<BITS>(&words);
                let mut target = codes.slice_mut(s![column, first..first + len]);
                match target.as_slice_mut() {
                    Some(target) => target.copy_from_slice(&block[..len]),
                    None => target
                        .iter_mut()
                        .zip(&block)
                        .for_each(|(t, code)| *t = *code),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use ndarray::Array2;
    use proptest::prelude::*;

    fn le(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn words_are_those_of_the_format() {
        for (bits, codes, expected) in [
            (8, vec![1, 2, 3, 255], vec![0xFF03_0201]),
            (4, vec![1, 2, 3, 4, 5, 6, 7, 15], vec![0xF765_4321]),
            (
                2,
                vec![0, 1, 2, 3, 0, 1, 2, 3, 3, 3, 3, 3, 0, 0, 0, 1],
                vec![0x40FF_E4E4],
            ),
            // Code 10 has two bits in the first word and one in the second, code 21 one and two.
            (
                3,
                (0..32).map(|i| u8::from(i == 10 || i == 21) * 7).collect(),
                vec![0xC000_0000, 0x8000_0001, 0x0000_0003],
            ),
        ] {
            let mut packed = vec![0; expected.len() * 4];
            pack(bits, &codes, &mut packed).unwrap();
            assert_eq!(packed, le(&expected), "{bits} bits");
            let mut back = vec![0; codes.len()];
            unpack(bits, &packed, &mut back).unwrap();
            assert_eq!(back, codes, "{bits} bits");
            for (index, code) in codes.iter().enumerate() {
                assert_eq!(code_at(bits, &packed, index), Some(*code), "{bits} bits");
            }
            assert_eq!(code_at(bits, &packed, codes.len()), None);
        }
    }

    #[test]
    fn columns_hold_the_rows() {
        // Two outputs of 16 inputs: two rows of two words.
        let codes = Array2::from_shape_fn((2, 16), |(n, k)| (n * 5 + k) as u8 % 16);
        let mut packed = vec![0; 16];
        pack_columns(&Serial, 4, codes.view(), &mut packed).unwrap();
        assert_eq!(
            packed,
            le(&[0x7654_3210, 0xCBA9_8765, 0xFEDC_BA98, 0x4321_0FED])
        );
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(words(3, 32), Some(3));
        assert_eq!(words(3, 16), None);
        assert_eq!(words(4, usize::MAX), None);
        assert!(pack(3, &[0; 16], &mut [0; 6]).is_err());
        assert!(pack(4, &[0; 8], &mut [0; 8]).is_err());
        assert!(pack(9, &[0; 32], &mut [0; 36]).is_err());
        let mut codes = Array2::zeros((2, 8));
        assert!(unpack_columns(4, &[0; 12], 3, 1, codes.view_mut()).is_ok());
        assert!(unpack_columns(4, &[0; 12], 3, 2, codes.view_mut()).is_err());
        assert!(unpack_columns(4, &[0; 8], 3, 0, codes.view_mut()).is_err());
        // Twelve codes are six for each of two columns: no whole words.
        assert!(pack_columns(&Serial, 4, Array2::zeros((4, 6)).view(), &mut [0; 12]).is_err());
        assert!(pack_columns(&Serial, 4, Array2::zeros((0, 8)).view(), &mut []).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            bits in prop::sample::select(vec![2u32, 3, 4, 5, 6, 7, 8]),
            columns in 1usize..200,
            blocks in 1usize..4,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8 & ((1u16 << bits) - 1) as u8
            };
            let step = if matches!(bits, 2 | 4 | 8) { 32 / bits as usize } else { 32 };
            let depth = step * (blocks * 3 - 1);
            let codes = Array2::from_shape_simple_fn((columns, depth), &mut next);
            let row_words = words(bits, depth).unwrap();
            let mut packed = vec![0xAA; row_words * columns * 4];
            pack_columns(&Serial, bits, codes.view(), &mut packed).unwrap();
            // Every column is the stream of its row.
            for (column, row) in codes.outer_iter().enumerate() {
                let mut stream = vec![0; row_words * 4];
                pack(bits, row.as_slice().unwrap(), &mut stream).unwrap();
                for (index, word) in stream.chunks_exact(4).enumerate() {
                    let at = (index * columns + column) * 4;
                    prop_assert_eq!(&packed[at..at + 4], word);
                }
                let mut back = vec![0; depth];
                unpack(bits, &stream, &mut back).unwrap();
                prop_assert_eq!(&back[..], row.as_slice().unwrap());
            }
            let first = columns / 3;
            let mut back = Array2::zeros((columns - first, depth));
            unpack_columns(bits, &packed, columns, first, back.view_mut()).unwrap();
            prop_assert_eq!(back, codes.slice(s![first.., ..]));
        }
    }
}
