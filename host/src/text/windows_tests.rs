//! Windows of small and real texts.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::ExitCode;
use crate::text::testing::{corpus, numbered, tokenizer};

const VOCABULARY: usize = 1006;

fn cut_words(
    words: usize,
    start: &[&str],
    length: usize,
    count: Count,
    choice: Choice,
) -> Result<Windows> {
    let corpus = corpus(&[&numbered(0..words)]);
    cut(
        &corpus,
        &tokenizer(start),
        length,
        count,
        choice,
        VOCABULARY,
    )
}

fn tiny_llama() -> Tokenizer {
    const FILE: &[u8] = include_bytes!("../../../tests/fixtures/tiny-llama/tokenizer.json");
    const SETTINGS: &[u8] =
        include_bytes!("../../../tests/fixtures/tiny-llama/tokenizer_config.json");
    Tokenizer::from_files(FILE, Some(SETTINGS)).unwrap()
}

#[test]
fn the_first_windows_are_the_beginning_of_the_text() {
    let windows = cut_words(20, &[], 6, Count::Exactly(2), Choice::First).unwrap();
    assert_eq!((windows.count(), windows.length), (2, 6));
    assert_eq!(windows.dataset, "test");
    assert_eq!(windows.tokens, (6..18).collect::<Vec<_>>());
    assert_eq!(windows.window(1), [12, 13, 14, 15, 16, 17]);
}

#[test]
fn every_window_begins_with_the_start() {
    let windows = cut_words(20, &["<s>"], 4, Count::UpTo(9), Choice::First).unwrap();
    assert_eq!(windows.count(), 6);
    assert_eq!(windows.window(0), [0, 6, 7, 8]);
    assert_eq!(windows.window(5), [0, 21, 22, 23]);
}

#[test]
fn as_many_as_there_are_may_be_enough() {
    let count =
        |wanted| cut_words(20, &[], 6, Count::UpTo(wanted), Choice::First).map(|w| w.count());
    assert_eq!(count(2).unwrap(), 2);
    assert_eq!(count(usize::MAX).unwrap(), 3);
}

#[test]
fn too_little_text_says_how_much_there_is_and_what_fits() {
    let refused = |start: &[&str], length, count| {
        let error = cut_words(20, start, length, count, Choice::First).unwrap_err();
        assert_eq!(error.class, ExitCode::InvalidArguments);
        (error.message, error.suggestion.unwrap())
    };
    assert_eq!(
        refused(&[], 6, Count::Exactly(5)),
        (
            "the text \"test\" has 20 tokens; 5 windows of 6 tokens need 30: 10 are missing".into(),
            "use at most 3 of 6 tokens, or 5 of at most 4 tokens, or more text".into()
        )
    );
    let (message, advice) = refused(&["<s>"], 6, Count::Exactly(5));
    assert!(message.ends_with("need 25: 5 are missing"), "{message}");
    assert_eq!(
        advice,
        "use at most 4 of 6 tokens, or 5 of at most 5 tokens, or more text"
    );
    assert_eq!(
        refused(&[], 21, Count::UpTo(3)).1,
        "use 1 of at most 20 tokens, or more text"
    );
    assert_eq!(refused(&[], 21, Count::Exactly(11)).1, "use more text");
    let (message, _) = refused(&[], 1 << 40, Count::Exactly(usize::MAX));
    assert!(message.contains("has 20 tokens"), "{message}");
}

#[test]
fn what_is_advised_works() {
    for (length, count) in [(5, 4), (4, 5), (20, 1)] {
        assert!(cut_words(20, &[], length, Count::Exactly(count), Choice::First).is_ok());
        assert!(cut_words(20, &[], length + 1, Count::Exactly(count), Choice::First).is_err());
        assert!(cut_words(20, &[], length, Count::Exactly(count + 1), Choice::First).is_err());
    }
}

#[test]
fn windows_must_have_room() {
    for (start, length, count, what) in [
        (&[][..], 1, 1, "at least 2"),
        (&[], 0, 1, "at least 2"),
        (&["<s>", "</s>"], 2, 1, "no room"),
        (&[], 8, 0, "at least one window"),
    ] {
        let error = cut_words(20, start, length, Count::Exactly(count), Choice::First).unwrap_err();
        assert_eq!(error.class, ExitCode::InvalidArguments);
        assert!(error.message.contains(what), "{error}");
    }
}

#[test]
fn the_start_must_be_of_the_models_vocabulary_too() {
    let tokenizer = tokenizer(&["</s>"]);
    let cut = |vocabulary| {
        cut(
            &corpus(&["<s> <s>"]),
            &tokenizer,
            2,
            Count::UpTo(1),
            Choice::First,
            vocabulary,
        )
    };
    assert!(cut(2).is_ok());
    assert_eq!(cut(1).unwrap_err().class, ExitCode::Validation);
}

#[test]
fn the_fingerprint_is_of_length_and_tokens() {
    let windows = |length, tokens: &[u32], dataset: &str| {
        let (tokens, dataset) = (tokens.to_vec(), dataset.to_owned());
        Windows {
            dataset,
            length,
            tokens,
        }
        .fingerprint()
    };
    let one = windows(2, &[1, 2, 3, 4], "a");
    // printf '\2\0\0\0\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0\4\0\0\0' | sha256sum
    assert_eq!(
        one,
        "f9f41d3b9931a9099e0071a61663e96cd51a45b9e7594662555a3ea6ebacc028"
    );
    assert_eq!(one, windows(2, &[1, 2, 3, 4], "b"));
    assert_ne!(one, windows(4, &[1, 2, 3, 4], "a"));
    assert_ne!(one, windows(2, &[1, 2, 3, 5], "a"));
}

#[test]
fn the_reference_text_has_the_reference_tokens() {
    // tests/fixtures/reference.json has the numbers of transformers.
    let text = Corpus::evaluation().documents.swap_remove(0);
    let tokenizer = tiny_llama();
    assert!(tokenizer.start().is_empty());
    let tokens = tokenizer.encode(&text).unwrap();
    assert_eq!(tokens.len(), 73_847);
    let prompt = "It is a truth universally acknowledged, that";
    let expected = [
        1010, 363, 259, 1866, 448, 73, 1188, 565, 1764, 738, 756, 12, 333,
    ];
    assert_eq!(tokenizer.encode(prompt).unwrap(), expected);
    let windows = cut(
        &Corpus::evaluation(),
        &tokenizer,
        512,
        Count::Exactly(64),
        Choice::First,
        2048,
    )
    .unwrap();
    assert_eq!(windows.tokens, tokens[..64 * 512]);
}

proptest! {
    #[test]
    fn windows_are_pieces_of_the_stream_that_do_not_overlap(
        words in 30usize..900,
        length in 2usize..12,
        wanted in 1usize..60,
        with_start: bool,
        seed: Option<u64>,
    ) {
        let start = if with_start { &["<s>"][..] } else { &[] };
        let piece = length - start.len();
        let choice = seed.map_or(Choice::First, |seed| Choice::Sampled { seed });
        let windows = cut_words(words, start, length, Count::UpTo(wanted), choice).unwrap();
        prop_assert_eq!(windows.count(), wanted.min(words / piece));
        prop_assert_eq!(windows.tokens.len(), windows.count() * length);
        let mut places = Vec::new();
        for index in 0..windows.count() {
            let (head, body) = windows.window(index).split_at(start.len());
            prop_assert!(head.iter().all(|&token| token == 0));
            // Tokens are numbered, so the first one is the place.
            prop_assert!(body.windows(2).all(|pair| pair[0] + 1 == pair[1]));
            prop_assert_eq!((body[0] as usize - 6) % piece, 0);
            places.push(body[0]);
        }
        prop_assert!(places.is_sorted());
        prop_assert_eq!(places.iter().collect::<HashSet<_>>().len(), places.len());
        if choice == Choice::First {
            prop_assert!(places.first().is_none_or(|&first| first == 6));
        }
        let again = cut_words(words, start, length, Count::UpTo(wanted), choice).unwrap();
        prop_assert_eq!(again.fingerprint(), windows.fingerprint());
        prop_assert_eq!(again, windows);
    }
}

#[test]
fn other_seeds_give_other_windows() {
    let of = |seed| cut_words(900, &[], 9, Count::Exactly(10), Choice::Sampled { seed }).unwrap();
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    assert_ne!(of(1).fingerprint(), of(2).fingerprint());
}
