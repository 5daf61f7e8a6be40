//! Sequences of tokens of equal length.

use sha2::{Digest, Sha256};

use super::sample::sorted_sample;
use super::stream::{LIMITS, Stream, check_tokens};
use super::{Corpus, Tokenizer};
use crate::error::{Error, ExitCode, Result};
use crate::output::hex;

/// How many windows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many; less text is an error.
    Exactly(usize),
    /// So many, or as many as there are if that is at least one.
    UpTo(usize),
}

/// Which windows are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The first ones.
    First,
    /// Some of all, none twice, in the order of the text.
    Sampled {
        /// The same seed gives the same windows on every machine.
        seed: u64,
    },
}

/// Windows of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// Name of the corpus.
    pub dataset: String,
    /// Tokens of a window.
    pub length: usize,
    /// `count × length` tokens, window after window.
    pub tokens: Vec<u32>,
}

impl Windows {
    /// Number of windows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tokens.len() / self.length
    }

    /// The tokens of a window.
    ///
    /// # Panics
    /// If there is no such window.
    #[must_use]
    pub fn window(&self, index: usize) -> &[u32] {
        &self.tokens[index * self.length..][..self.length]
    }

    /// SHA-256 in hexadecimal of the length (64 bits) and the tokens (32 bits each), all little
    /// endian: equal for equal windows, whatever the corpus is called.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new_with_prefix((self.length as u64).to_le_bytes());
        for token in &self.tokens {
            hash.update(token.to_le_bytes());
        }
        hex(&hash.finalize())
    }
}

/// Cuts a corpus into windows of `length` tokens.
///
/// Every document is tokenized once, as a whole and without the tokens that the tokenizer adds
/// around texts. Documents form one stream, with the tokenizer's end of text between them if
/// tokenizer_config.json names it (`eos_token`). The stream is cut from its beginning into pieces
/// that do not overlap, what remains at the end is dropped, and every window is the tokenizer's
/// [`start`](Tokenizer::start) followed by a piece. No more is read than is needed for the first
/// windows. Of a corpus of more than 8 MiB only a part, drawn with the same seed, is tokenized
/// for a sample.
///
/// # Errors
/// [`InvalidArguments`](crate::ExitCode::InvalidArguments) if `length` is less than 2 or has no
/// room behind the start, if no window is wanted, or if there is too little text;
/// [`Validation`](crate::ExitCode::Validation) if a token is not below `vocabulary`; and the
/// tokenizer's.
pub fn cut(
    corpus: &Corpus,
    tokenizer: &Tokenizer,
    length: usize,
    count: Count,
    choice: Choice,
    vocabulary: usize,
) -> Result<Windows> {
    let start = tokenizer.start();
    let (Count::Exactly(wanted) | Count::UpTo(wanted)) = count;
    let piece = check(start.len(), length, wanted)?;
    check_tokens(start, vocabulary)?;
    let stream = Stream {
        corpus,
        tokenizer,
        vocabulary,
        limits: LIMITS,
    };
    let tokens = stream.tokens(wanted.saturating_mul(piece), choice)?;
    let least = match count {
        Count::Exactly(wanted) => wanted,
        Count::UpTo(_) => 1,
    };
    let available = tokens.len() / piece;
    if available < least {
        return Err(too_little(corpus, tokens.len(), least, length, piece));
    }
    let taken = match choice {
        Choice::First => (0..wanted.min(available)).collect(),
        Choice::Sampled { seed } => sorted_sample(available, wanted, seed),
    };
    let mut windows = Vec::with_capacity(taken.len().saturating_mul(length));
    for index in taken {
        windows.extend(start);
        windows.extend(&tokens[index * piece..][..piece]);
    }
    Ok(Windows {
        dataset: corpus.name.clone(),
        length,
        tokens: windows,
    })
}

/// Adds to an error of [`cut`] which options to change.
pub fn naming(error: Error, options: &str) -> Error {
    match error.class {
        ExitCode::InvalidArguments => {
            let advice = format!("{}: {options}", error.advice());
            error.suggest(advice)
        }
        _ => error,
    }
}

/// Tokens of the text in a window.
fn check(start: usize, length: usize, wanted: usize) -> Result<usize> {
    let refuse = |message: String| Err(Error::invalid_arguments(message));
    if length < 2 {
        return refuse(format!("windows of {length} tokens: at least 2 are needed"));
    }
    if wanted == 0 {
        return refuse("at least one window of text is needed".to_owned());
    }
    match length.checked_sub(start) {
        Some(piece) if piece > 0 => Ok(piece),
        _ => refuse(format!(
            "windows of {length} tokens have no room for text: the tokenizer begins every text \
             with {start} tokens of its own"
        )),
    }
}

/// There are only `tokens`; says what would do.
fn too_little(corpus: &Corpus, tokens: usize, count: usize, length: usize, piece: usize) -> Error {
    let needed = count.saturating_mul(piece);
    let mut ways = Vec::new();
    if tokens >= piece {
        ways.push(format!("at most {} of {length} tokens", tokens / piece));
    }
    let longest = tokens / count;
    if longest > 0 && longest + (length - piece) >= 2 {
        ways.push(format!(
            "{count} of at most {} tokens",
            longest + (length - piece)
        ));
    }
    ways.push("more text".to_owned());
    Error::invalid_arguments(format!(
        "the text \"{}\" has {tokens} tokens; {count} windows of {length} tokens need {needed}: \
         {} are missing",
        corpus.name,
        needed - tokens
    ))
    .suggest(format!("use {}", ways.join(", or ")))
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
