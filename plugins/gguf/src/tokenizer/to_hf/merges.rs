//! Ranked merges from the scores of a SentencePiece vocabulary.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Pieces longer than this (in bytes) are not split: no tokenizer merges that far, and the work
/// grows with the square of the length.
const LONGEST: usize = 1024;

/// One way to make a piece: the ids of its two halves.
struct Merge {
    score: f32,
    piece: u32,
    /// Characters in the left half.
    left_length: usize,
    /// Characters in the right half.
    right_length: usize,
    left: u32,
    right: u32,
}

impl Merge {
    /// Higher scores first; among equals longer left halves first, as transformers sorts them.
    fn compare(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(other.left_length.cmp(&self.left_length))
            .then(other.right_length.cmp(&self.right_length))
            .then(self.piece.cmp(&other.piece))
            .then(self.left.cmp(&other.left))
            .then(self.right.cmp(&other.right))
    }
}

/// The merges that give the same tokens as merging by score does, best first.
///
/// SentencePiece joins any two neighbours whose text is a piece, best score first; so every way to
/// cut a piece into two pieces is a merge with the piece's score. `pieces` gives `(id, text,
/// score)` of ordinary pieces. Returns pairs of ids.
pub(super) fn from_scores(pieces: &[(u32, &str, f32)]) -> Vec<(u32, u32)> {
    let ids: HashMap<&str, u32> = pieces.iter().map(|(id, text, _)| (*text, *id)).collect();
    let mut merges = Vec::with_capacity(pieces.len() * 2);
    for (piece, text, score) in pieces {
        if text.len() > LONGEST {
            continue;
        }
        let length = text.chars().count();
        for (left_length, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            if let (Some(left), Some(right)) = (ids.get(left), ids.get(right)) {
                merges.push(Merge {
                    score: *score,
                    piece: *piece,
                    left_length,
                    right_length: length - left_length,
                    left: *left,
                    right: *right,
                });
            }
        }
    }
    merges.sort_unstable_by(Merge::compare);
    merges
        .into_iter()
        .map(|merge| (merge.left, merge.right))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::from_scores;

    #[test]
    fn better_scores_merge_first() {
        let pieces = [
            (0, "ab", -2.0),
            (1, "bc", -1.0),
            (2, "a", -5.0),
            (3, "b", -6.0),
            (4, "c", -7.0),
        ];
        assert_eq!(from_scores(&pieces), [(3, 4), (2, 3)]);
    }

    #[test]
    fn every_way_to_cut_a_piece_is_a_merge() {
        let pieces = [
            (0, "é", -9.0),
            (1, "b", -9.0),
            (2, "éb", -1.0),
            (3, "bb", -2.0),
            (4, "ébb", -3.0),
        ];
        // é+b, b+b, then éb+b before é+bb.
        assert_eq!(from_scores(&pieces), [(0, 1), (1, 1), (2, 1), (0, 3)]);
    }

    #[test]
    fn odd_input_is_harmless() {
        assert!(from_scores(&[]).is_empty());
        let long = "x".repeat(5000);
        assert!(from_scores(&[(0, "x", f32::NAN), (1, &long, 0.0)]).is_empty());
    }
}
