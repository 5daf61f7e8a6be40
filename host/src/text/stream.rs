//! A corpus as one stream of tokens, or as much of it as is needed.

use super::sample::shuffled;
use super::{Choice, Corpus, Tokenizer};
use crate::error::{Error, Result};

/// Where a corpus is too large for a sample of all of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a corpus of which all is tokenized.
    whole: usize,
    /// Bytes of the pieces that are drawn from a larger one.
    piece: usize,
    /// The sample is drawn from so many times the tokens that it needs.
    choice: usize,
}

/// 8 MiB take some seconds.
pub(super) const LIMITS: Limits = Limits {
    whole: 8 << 20,
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

/// A piece of a document.
struct Piece<'a> {
    document: usize,
    text: &'a str,
}

impl Stream<'_> {
    /// Tokens of the corpus, in its order. Between documents stands the tokenizer's end of text,
    /// if it has one.
    ///
    /// For the first windows reading stops when there are `needed` tokens. For a sample of a large
    /// corpus pieces that end with a line are drawn until they have enough bytes and tokens to
    /// choose from.
    ///
    /// # Errors
    /// Those of the tokenizer, and if a token is none of the model's.
    pub fn tokens(&self, needed: usize, choice: Choice) -> Result<Vec<u32>> {
        let bytes = self.corpus.documents.iter().map(String::len);
        let small = bytes.fold(0, usize::saturating_add) <= self.limits.whole;
        match choice {
            Choice::First => self.first(needed),
            Choice::Sampled { .. } if small => self.first(usize::MAX),
            Choice::Sampled { seed } => self.drawn(needed, seed),
        }
    }

    fn pieces(&self) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        for (document, mut rest) in self.corpus.documents.iter().map(String::as_str).enumerate() {
            while !rest.is_empty() {
                let (text, after) = rest.split_at(piece_end(rest, self.limits.piece));
                pieces.push(Piece { document, text });
                rest = after;
            }
        }
        pieces
    }

    /// Documents as wholes, from the first, until they have `needed` tokens.
    fn first(&self, needed: usize) -> Result<Vec<u32>> {
        let mut joined = Joined::default();
        for (document, text) in self.corpus.documents.iter().enumerate() {
            let missing = needed.saturating_sub(joined.tokens.len());
            if missing == 0 {
                break;
            }
            let tokens = self.encode(text, missing)?;
            joined.push(self, document, tokens);
        }
        Ok(joined.tokens)
    }

    /// Pieces that are drawn until there are enough, in the order of the text.
    fn drawn(&self, needed: usize, seed: u64) -> Result<Vec<u32>> {
        let pieces = self.pieces();
        let wanted = needed.saturating_mul(self.limits.choice);
        let (mut drawn, mut bytes, mut count) = (Vec::new(), 0, 0);
        for index in shuffled(pieces.len(), seed) {
            let tokens = self.encode(pieces[index].text, usize::MAX)?;
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
            joined.push(self, pieces[index].document, tokens);
        }
        Ok(joined.tokens)
    }

    fn encode(&self, text: &str, needed: usize) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode_until(text, needed)?;
        check_tokens(&tokens, self.vocabulary)?;
        Ok(tokens)
    }
}

/// Tokens of documents one after the other.
#[derive(Default)]
struct Joined {
    tokens: Vec<u32>,
    last: Option<usize>,
}

impl Joined {
    fn push(&mut self, stream: &Stream<'_>, document: usize, tokens: Vec<u32>) {
        if self.last.is_some_and(|last| last != document) {
            self.tokens.extend(stream.tokenizer.end_of_text());
        }
        self.last = Some(document);
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
