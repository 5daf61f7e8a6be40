//! What comes with the program.

use std::collections::HashSet;

use super::*;

/// Stretches of words, by which texts are held against each other.
fn shingles(corpus: &Corpus) -> impl Iterator<Item = Vec<&str>> {
    const WORDS: usize = 8;
    corpus.documents.iter().flat_map(|text| {
        let words: Vec<&str> = text.split_whitespace().collect();
        words
            .windows(WORDS)
            .map(<[&str]>::to_vec)
            .collect::<Vec<_>>()
    })
}

fn bytes(documents: &[String]) -> usize {
    documents.iter().map(String::len).sum()
}

#[test]
fn sizes_are_those_that_were_asked_for() {
    let (calibration, evaluation) = (Corpus::calibration(), Corpus::evaluation());
    assert!((250_000..400_000).contains(&bytes(&calibration.documents)));
    assert!((250_000..300_000).contains(&bytes(&evaluation.documents)));
    for corpus in [calibration, evaluation] {
        assert!(corpus.built_in);
        assert!(corpus.documents.iter().all(|text| !text.trim().is_empty()));
        assert!(
            !corpus
                .documents
                .iter()
                .any(|text| text.contains(SCISSORS.trim()))
        );
    }
}

#[test]
fn the_reference_text_is_first_and_unchanged() {
    assert_eq!(Corpus::evaluation().documents[0], EVALUATION);
    assert_eq!(EVALUATION.len(), 250_000);
}

#[test]
fn nothing_that_is_evaluated_was_seen_in_calibration() {
    let (calibration, evaluation) = (Corpus::calibration(), Corpus::evaluation());
    let seen: HashSet<Vec<&str>> = shingles(&calibration).collect();
    let common: Vec<_> = shingles(&evaluation)
        .filter(|words| seen.contains(words))
        .collect();
    assert!(common.is_empty(), "{common:?}");
}

#[test]
fn calibration_text_does_not_repeat_itself() {
    let calibration = Corpus::calibration();
    let all = shingles(&calibration).count();
    let distinct = shingles(&calibration).collect::<HashSet<_>>().len();
    assert!(all - distinct < all / 200, "{distinct} of {all}");
}

#[test]
fn every_fifth_has_all_kinds() {
    let documents = Corpus::calibration().documents;
    let total = bytes(&documents);
    let mut fifths = vec![String::new(); 5];
    let mut before = 0;
    for text in &documents {
        fifths[(before * 5 / total).min(4)] += text;
        before += text.len();
    }
    for (index, text) in fifths.iter().enumerate() {
        assert!(
            text.len() > total / 7,
            "fifth {index}: {} bytes",
            text.len()
        );
        let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
        assert!(has(&["{\n"]), "fifth {index}: code");
        assert!(has(&["Mr. ", "Miss "]), "fifth {index}: prose");
        assert!(
            has(&["User:", "Caller:", "Agent:", "said"]),
            "fifth {index}: dialogue"
        );
        assert!(has(&["ä", "é", "和", "и"]), "fifth {index}: languages");
    }
}

#[test]
fn stretches_are_whole_paragraphs_and_half_of_the_text() {
    let found = stretches(PROSE);
    let taken: usize = found.iter().map(|text| text.len()).sum();
    assert!(
        (PROSE.len() * 2 / 5..PROSE.len() * 3 / 5).contains(&taken),
        "{taken}"
    );
    for text in found {
        assert!(text.len() >= STRETCH - 4);
        let around = format!("\n\n{text}\n\n");
        assert!(PROSE.contains(&around));
    }
}

#[test]
fn documents_of_all_kinds_take_turns() {
    let kinds = [
        vec!["aaaa", "bbbb"],
        vec!["cc", "dd", "ee", "ff"],
        vec!["gg"],
    ];
    assert_eq!(
        mixed(&kinds),
        ["cc", "aaaa", "dd", "gg", "ee", "bbbb", "ff"]
    );
    assert!(mixed(&[]).is_empty());
}
