//! A corpus as one stream of tokens, or as much of it as is needed.

use super::sample::shuffled;
use super::{Choice, Corpus, Tokenizer};
use crate::error::{Error, Result};

/// Where a corpus is too large to be tokenized as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a corpus whose documents are tokenized as wholes, by which the tokens are the
    /// same as in other programs.
    whole: usize,
    /// Bytes of the pieces that a larger corpus is tokenized in.
    piece: usize,
    /// A sample of a larger corpus is drawn from so many times the tokens that it needs.
    choice: usize,
}

/// 16 MiB take some seconds and some hundred megabytes of memory.
pub(super) const LIMITS: Limits = Limits {
    whole: 16 << 20,
    piece: 256 << 10,
    choice: 4,
};

/// Turns a corpus into tokens.
pub(super) struct Stream<'a> {
    pub corpus: &'a Corpus,
    pub tokenizer: &'a Tokenizer,
    /// Number of tokens that the model has.
    pub vocabulary: usize,
    pub limits: Limits,
}

/// A document or a piece of it.
struct Piece<'a> {
    document: usize,
    text: &'a str,
}

impl Stream<'_> {
    /// Tokens of the corpus, in its order. Between documents stands the tokenizer's end of text,
    /// if it has one.
    ///
    /// For the first windows reading stops when there are `needed` tokens. Large corpora are
    /// read in pieces that end with a line; for a sample of one, pieces are drawn until they
    /// have enough bytes and tokens to choose from.
    ///
    /// # Errors
    /// Those of the tokenizer, and if a token is none of the model's.
    pub fn tokens(&self, needed: usize, choice: Choice) -> Result<Vec<u32>> {
        let bytes = self.corpus.documents.iter().map(String::len);
        let small = bytes.fold(0, usize::saturating_add) <= self.limits.whole;
        let pieces = self.pieces(if small { usize::MAX } else { self.limits.piece });
        match choice {
            Choice::First => self.joined(&pieces, needed),
            Choice::Sampled { .. } if small => self.joined(&pieces, usize::MAX),
            Choice::Sampled { seed } => self.drawn(&pieces, needed, seed),
        }
    }

    fn pieces(&self, limit: usize) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        for (document, mut rest) in self.corpus.documents.iter().map(String::as_str).enumerate() {
            while !rest.is_empty() {
                let (text, after) = rest.split_at(piece_end(rest, limit));
                pieces.push(Piece { document, text });
                rest = after;
            }
        }
        pieces
    }

    /// The first pieces that have `needed` tokens together.
    fn joined(&self, pieces: &[Piece<'_>], needed: usize) -> Result<Vec<u32>> {
        let mut joined = Joined::default();
        for piece in pieces {
            joined.push(self, piece, self.encode(piece)?);
            if joined.tokens.len() >= needed {
                break;
            }
        }
        Ok(joined.tokens)
    }

    /// Pieces that are drawn until there are enough, in the order of the text.
    fn drawn(&self, pieces: &[Piece<'_>], needed: usize, seed: u64) -> Result<Vec<u32>> {
        let wanted = needed.saturating_mul(self.limits.choice);
        let (mut drawn, mut bytes, mut count) = (Vec::new(), 0, 0);
        for index in shuffled(pieces.len(), seed) {
            let tokens = self.encode(&pieces[index])?;
            bytes += pieces[index].text.len();
            count += tokens.len();
            drawn.push((index, tokens));
            if bytes >= self.limits.whole && count >= wanted {
                break;
            }
        }
        drawn.sort_unstable_by_key(|&(index, _)| index);
        let mut joined = Joined::default();
        for (index, tokens) in drawn {
            joined.push(self, &pieces[index], tokens);
        }
        Ok(joined.tokens)
    }

    fn encode(&self, piece: &Piece<'_>) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode(piece.text)?;
        check_tokens(&tokens, self.vocabulary)?;
        Ok(tokens)
    }
}

/// Pieces one after the other.
#[derive(Default)]
struct Joined {
    tokens: Vec<u32>,
    last: Option<usize>,
}

impl Joined {
    fn push(&mut self, stream: &Stream<'_>, piece: &Piece<'_>, tokens: Vec<u32>) {
        if self.last.is_some_and(|last| last != piece.document) {
            self.tokens.extend(stream.tokenizer.end_of_text());
        }
        self.last = Some(piece.document);
        self.tokens.extend(tokens);
    }
}

/// Where a piece of about `limit` bytes ends: behind a line, else behind a word, else anywhere.
fn piece_end(text: &str, limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    let limit = text.floor_char_boundary(limit);
    let within = &text[..limit];
    let line = within.rfind('\n').map(|at| at + 1);
    // A word begins with its space in most tokenizers. A space in front is no end.
    let word = || within.rfind(' ').filter(|&at| at > 0);
    let end = line.or_else(word).unwrap_or(limit);
    // Even the first character may be longer than the limit.
    end.max(text.chars().next().map_or(0, char::len_utf8))
}

/// Checks that all tokens are of the model's vocabulary.
///
/// # Errors
/// [`Validation`](crate::ExitCode::Validation) with the first that is not.
pub(super) fn check_tokens(tokens: &[u32], vocabulary: usize) -> Result<()> {
    let outside = tokens.iter().find(|&&token| token as usize >= vocabulary);
    match outside {
        None => Ok(()),
        Some(token) => Err(Error::validation(format!(
            "the tokenizer gives token {token}, and the model has only {vocabulary}"
        ))
        .suggest(
            "tokenizer.json and the weights are of different models: get both from the same place",
        )),
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
