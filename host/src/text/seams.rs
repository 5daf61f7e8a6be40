//! Long texts in pieces, with the tokens of the whole.
//!
//! The `tokenizers` crate needs some 140 bytes of memory for each byte of a text. Long texts are
//! therefore tokenized in pieces that overlap. Near its ends a piece's tokens may be others than
//! those of the whole text: words are cut, and some tokenizers put a space in front. What a token
//! is depends on its surroundings only, so inside the overlap both pieces soon have the same
//! tokens at the same places; there one takes over from the other.

use crate::error::Result;

/// Bytes of a piece.
const PIECE: usize = 256 << 10;
/// Bytes that a piece has in common with the next.
const OVERLAP: usize = 4 << 10;
/// Equal tokens in a row by which two pieces are taken to agree.
const AGREEMENT: usize = 4;

/// A token and the bytes of the text that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub id: u32,
    pub start: usize,
    pub end: usize,
}

/// The sizes, which tests make smaller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub piece: usize,
    pub overlap: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            piece: PIECE,
            overlap: OVERLAP,
        }
    }
}

/// The tokens of a text: the first `needed` and perhaps more, or all if there are fewer.
/// `encode` gives the tokens of a piece, with places in the piece.
///
/// # Errors
/// Those of `encode`.
pub(super) fn tokens(
    text: &str,
    needed: usize,
    sizes: Sizes,
    encode: impl Fn(&str) -> Result<Vec<Token>>,
) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    let (mut start, mut last) = (0_usize, Vec::new());
    loop {
        let end = text.ceil_char_boundary(start.saturating_add(sizes.piece));
        let mut tokens = encode(&text[start..end])?;
        for token in &mut tokens {
            token.start += start;
            token.end += start;
        }
        let (keep, skip) = seam(&last, &tokens, start, sizes.overlap);
        ids.extend(last[..keep].iter().map(|token: &Token| token.id));
        tokens.drain(..skip);
        if end == text.len() {
            ids.extend(tokens.iter().map(|token| token.id));
            return Ok(ids);
        }
        if ids.len() >= needed {
            return Ok(ids);
        }
        last = tokens;
        start = text.floor_char_boundary(end - sizes.overlap);
    }
}

/// How many tokens of a piece are kept and how many of the next, which begins at `start`, are
/// skipped. Both ends of the overlap, a quarter each, are only used if there is no other way.
fn seam(last: &[Token], next: &[Token], start: usize, overlap: usize) -> (usize, usize) {
    let sound = start + overlap / 4..start + overlap - overlap / 4;
    for (skip, token) in next.iter().enumerate() {
        if token.start < sound.start {
            continue;
        }
        if token.end > sound.end {
            break;
        }
        let keep = last.partition_point(|other| other.start < token.start);
        let agreed = next.get(skip..skip + AGREEMENT);
        if agreed.is_some() && agreed == last.get(keep..keep + AGREEMENT) {
            return (keep, skip);
        }
    }
    // One endless word: it is cut in the middle of the overlap.
    let middle = start + overlap / 2;
    let before = |tokens: &[Token]| tokens.partition_point(|token| token.start < middle);
    match last.is_empty() {
        true => (0, 0),
        false => (before(last), before(next)),
    }
}

#[cfg(test)]
#[path = "seams_tests.rs"]
mod tests;
