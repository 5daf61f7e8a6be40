//! Tokens of pieces against those of the whole.

use super::*;
use crate::text::{Corpus, Tokenizer};

/// Runs of letters are tokens of up to five letters, and every other character is one. Like some
/// real tokenizers it puts a space in front of every text.
fn letters(text: &str) -> Vec<Token> {
    let mut tokens = vec![Token {
        id: 0,
        start: 0,
        end: 0,
    }];
    for (start, char) in text.char_indices() {
        let (id, end) = (u32::from(char), start + char.len_utf8());
        match tokens.last_mut() {
            Some(word) if word.id > 1000 && char.is_alphabetic() && word.end - word.start < 5 => {
                (word.id, word.end) = (word.id * 7 + id, end);
            }
            _ if char.is_alphabetic() => tokens.push(Token {
                id: id + 1000,
                start,
                end,
            }),
            _ => tokens.push(Token { id, start, end }),
        }
    }
    tokens
}

fn pieces(text: &str, needed: usize, piece: usize, overlap: usize) -> Vec<u32> {
    tokens(text, needed, Sizes { piece, overlap }, |text| {
        Ok(letters(text))
    })
    .unwrap()
}

fn whole(text: &str) -> Vec<u32> {
    letters(text).iter().map(|token| token.id).collect()
}

#[test]
fn pieces_have_the_tokens_of_the_whole() {
    let text =
        "It was, äs usual, ä dark and stormy night; the 😀 rain fell – in torrents. ".repeat(9);
    for piece in 200..400 {
        assert_eq!(
            pieces(&text, usize::MAX, piece, 100),
            whole(&text),
            "{piece}"
        );
    }
    assert_eq!(pieces("", 1, 200, 100), whole(""));
}

#[test]
fn reading_stops_when_there_is_enough() {
    let text = "a b c d e f g h ".repeat(100);
    let all = whole(&text);
    for needed in [1, 100, 300, 1000] {
        let some = pieces(&text, needed, 200, 100);
        assert!(
            some.len() >= needed && some.len() < needed + 220,
            "{}",
            some.len()
        );
        assert_eq!(some, all[..some.len()]);
    }
    assert_eq!(pieces(&text, 5000, 200, 100), all);
}

#[test]
fn an_endless_word_is_cut_without_loss() {
    // Fives of letters begin elsewhere in every piece, so that no two pieces agree.
    let text = "abcdefghijk".repeat(100);
    let found = tokens(
        &text,
        usize::MAX,
        Sizes {
            piece: 203,
            overlap: 100,
        },
        |text| Ok(letters(text).split_off(1)),
    )
    .unwrap();
    let fives = text.len().div_ceil(5);
    assert!(
        (fives..fives + 20).contains(&found.len()),
        "{}",
        found.len()
    );
}

#[test]
fn real_tokenizers_give_the_same_in_pieces() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/tiny-llama");
    let file = std::fs::read(format!("{folder}/tokenizer.json")).unwrap();
    // As it is, and with a space in front of every text.
    let mut spaced: serde_json::Value = serde_json::from_slice(&file).unwrap();
    spaced["pre_tokenizer"]["add_prefix_space"] = true.into();
    let spaced = spaced.to_string().into_bytes();
    let text = Corpus::calibration().documents.join("\n\n");
    for file in [file, spaced] {
        let tokenizer = Tokenizer::from_files(&file, None).unwrap();
        let whole = tokenizer.in_pieces(
            &text,
            usize::MAX,
            Sizes {
                piece: 1 << 30,
                overlap: 1 << 10,
            },
        );
        let whole = whole.unwrap();
        for piece in [4000, 10_007, 65_536] {
            let found = tokenizer.in_pieces(
                &text,
                usize::MAX,
                Sizes {
                    piece,
                    overlap: 1000,
                },
            );
            assert!(found.unwrap() == whole, "{piece}");
        }
    }
}
