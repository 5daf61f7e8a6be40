//! What of a corpus becomes tokens.

use super::*;
use crate::ExitCode;
use crate::text::testing::{corpus, numbered, tokenizer};

/// All tokens of the test tokenizer.
const VOCABULARY: usize = 1006;

fn tokens(corpus: &Corpus, needed: usize, choice: Choice, limits: Limits) -> Vec<u32> {
    let stream = Stream {
        corpus,
        tokenizer: &tokenizer(&[]),
        vocabulary: VOCABULARY,
        limits,
    };
    stream.tokens(needed, choice).unwrap()
}

/// The tokens of `numbered`.
fn ids(range: std::ops::Range<u32>) -> Vec<u32> {
    range.map(|n| n + 6).collect()
}

const SMALL: Limits = Limits {
    whole: 1000,
    piece: 100,
    choice: 2,
};

#[test]
fn the_end_of_text_stands_between_documents_only() {
    let corpus = corpus(&["a b", "b", "a"]);
    let found = tokens(&corpus, 100, Choice::First, LIMITS);
    assert_eq!(found, [3, 4, 1, 4, 1, 3]);
    assert_eq!(
        tokens(&corpus, 100, Choice::Sampled { seed: 1 }, LIMITS),
        found
    );
}

#[test]
fn reading_stops_when_there_is_enough() {
    let corpus = corpus(&["a b", "b", "a"]);
    assert_eq!(tokens(&corpus, 2, Choice::First, LIMITS), [3, 4]);
    assert_eq!(tokens(&corpus, 3, Choice::First, LIMITS), [3, 4, 1, 4]);
    // A choice is one among all.
    assert_eq!(
        tokens(&corpus, 2, Choice::Sampled { seed: 1 }, LIMITS).len(),
        6
    );
}

#[test]
fn first_windows_are_of_whole_documents_however_large() {
    let large = corpus(&[&numbered(0..500), &numbered(500..900)]);
    let mut expected = ids(0..500);
    expected.push(1);
    expected.extend(ids(500..900));
    assert_eq!(tokens(&large, usize::MAX, Choice::First, SMALL), expected);
    assert_eq!(
        tokens(&large, 30, Choice::First, SMALL),
        expected[..500],
        "the first document is enough"
    );
}

#[test]
fn a_sample_of_a_large_corpus_is_drawn_from_all_of_it() {
    let large = corpus(&[&numbered(0..999)]);
    let drawn = |needed, seed| tokens(&large, needed, Choice::Sampled { seed }, SMALL);
    let found = drawn(20, 5);
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    assert!((200..400).contains(&found.len()), "{}", found.len());
    assert!(found.last().unwrap() - found[0] > 500, "from all places");
    assert_eq!(found, drawn(20, 5));
    assert_ne!(found, drawn(20, 6));
    assert!(drawn(300, 5).len() >= 600, "enough to choose from");
    assert_eq!(drawn(1000, 5), ids(0..999), "all, if that is not enough");
}

#[test]
fn pieces_end_with_lines_else_words_else_characters() {
    for (text, limit, end) in [
        ("ab", 2, 2),
        ("ab\ncd\nef", 7, 6),
        ("ab cd ef", 7, 5),
        (" abcdef", 3, 3),
        ("äöü", 3, 2),
        ("😀😀", 1, 4),
    ] {
        assert_eq!(piece_end(text, limit), end, "{text:?} {limit}");
    }
}

#[test]
fn pieces_are_the_whole_text() {
    let text = "ä b\n\nc 😀😀😀  \n d".repeat(3);
    let corpus = corpus(&[&text]);
    for limit in 1..text.len() + 1 {
        let stream = Stream {
            corpus: &corpus,
            tokenizer: &tokenizer(&[]),
            vocabulary: VOCABULARY,
            limits: Limits {
                piece: limit,
                ..SMALL
            },
        };
        let pieces = stream.pieces();
        assert!(pieces.iter().all(|piece| !piece.text.is_empty()));
        let joined: String = pieces.iter().map(|piece| piece.text).collect();
        assert_eq!(joined, text);
    }
}

#[test]
fn tokens_that_the_model_does_not_have_are_refused() {
    assert!(check_tokens(&[0, 7], 8).is_ok());
    let error = check_tokens(&[0, 8, 9], 8).unwrap_err();
    assert_eq!(error.class, ExitCode::Validation);
    assert!(error.message.contains("token 8") && error.message.contains("only 8"));
    assert!(error.advice().contains("same place"));
    let stream = Stream {
        corpus: &corpus(&["a b"]),
        tokenizer: &tokenizer(&[]),
        vocabulary: 4,
        limits: LIMITS,
    };
    assert!(stream.tokens(1, Choice::First).is_err());
}
