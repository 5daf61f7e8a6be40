//! The text that comes with the program; `corpora/README.md` says where it is from.

use super::Corpus;

/// Start of *Persuasion*.
const EVALUATION: &str = include_str!("../../../tests/fixtures/text/eval.txt");
/// Cut from Jane Austen's other novels.
const PROSE: &str = include_str!("../../../tests/fixtures/text/calibration.txt");

pub(super) fn calibration() -> Corpus {
    corpus("built-in calibration text", vec![PROSE.to_owned()])
}

pub(super) fn evaluation() -> Corpus {
    corpus("built-in evaluation text", vec![EVALUATION.to_owned()])
}

fn corpus(name: &str, documents: Vec<String>) -> Corpus {
    Corpus {
        name: name.to_owned(),
        documents,
        built_in: true,
    }
}
