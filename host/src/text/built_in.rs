//! The text that comes with the program; `corpora/README.md` says where it is from.

use super::Corpus;

/// The line between two documents of a file.
const SCISSORS: &str = "\n-----8<-----\n";

/// Cut from Jane Austen's novels other than *Persuasion*.
const PROSE: &str = include_str!("../../../tests/fixtures/text/calibration.txt");
/// Every second stretch of so many bytes is taken: half of each novel, so that prose is not most
/// of the text.
const STRETCH: usize = 8 << 10;

/// The other kinds of calibration text.
const KINDS: [&str; 7] = [
    include_str!("corpora/dialogue.txt"),
    include_str!("corpora/technical.txt"),
    include_str!("corpora/code.txt"),
    include_str!("corpora/repository.txt"),
    include_str!("corpora/tables.txt"),
    include_str!("corpora/mathematics.txt"),
    include_str!("corpora/languages.txt"),
];

/// Start of *Persuasion*.
const EVALUATION: &str = include_str!("../../../tests/fixtures/text/eval.txt");
/// Some of everything else, in short.
const HELD_OUT: &str = include_str!("corpora/held-out.txt");

/// Prose and the other kinds, mixed.
pub(super) fn calibration() -> Corpus {
    let mut kinds = vec![stretches(PROSE)];
    kinds.extend(KINDS.map(documents));
    corpus("built-in calibration text", mixed(&kinds))
}

/// The reference text first and as it is; what is known about it was measured on it alone.
pub(super) fn evaluation() -> Corpus {
    let mut all = vec![EVALUATION];
    all.extend(documents(HELD_OUT));
    corpus("built-in evaluation text", all)
}

fn corpus(name: &str, documents: Vec<&str>) -> Corpus {
    Corpus {
        name: name.to_owned(),
        documents: documents.into_iter().map(str::to_owned).collect(),
        built_in: true,
    }
}

fn documents(file: &str) -> Vec<&str> {
    let documents = file.split(SCISSORS);
    documents.map(|text| text.trim_matches('\n')).collect()
}

/// Every second stretch of a long text, from one end of a paragraph to another.
fn stretches(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut stretch = 0..0;
    for (end, _) in text.match_indices("\n\n") {
        stretch.end = end;
        if stretch.len() >= STRETCH {
            found.push(text[stretch].trim_matches('\n'));
            stretch = end..end;
        }
    }
    found.into_iter().skip(1).step_by(2).collect()
}

/// Documents of all kinds in one order, each as far from the beginning of the whole as it is
/// from that of its kind: whatever part of the whole is taken has a share of every kind.
fn mixed<'a>(kinds: &[Vec<&'a str>]) -> Vec<&'a str> {
    let mut placed = Vec::new();
    for documents in kinds {
        let total: usize = documents.iter().map(|text| text.len()).sum();
        let mut before = 0;
        for text in documents {
            // Millionths; sorting is stable, so that equal places keep the order of kinds.
            let middle = before + text.len() / 2;
            placed.push((middle * 1_000_000 / total.max(1), *text));
            before += text.len();
        }
    }
    placed.sort_by_key(|&(place, _)| place);
    placed.into_iter().map(|(_, text)| text).collect()
}

#[cfg(test)]
#[path = "built_in_tests.rs"]
mod tests;
