//! In which order the pieces are taken, and how far the source is read ahead of them.

use std::cmp::Reverse;
use std::sync::Mutex;

/// Pieces up to this size are taken in the plan's order. It is some milliseconds of work,
/// which is all that a thread can then wait for the others at the end.
const SMALL: u64 = 8 << 20;

/// So much of the source is asked for before it is needed: enough to keep a fast disk busy
/// while the threads compute, little enough to be still there, when it is needed, in a
/// container with little memory.
const AHEAD: u64 = 32 << 20;

/// The order in which pieces are taken: those that could not be cut small come first, the
/// larger ones before the smaller, and then all others as the plan has them.
///
/// Whoever is free takes the next piece, so threads wait for each other only at the end,
/// and only as long as the last pieces take: those must not be large. Small pieces stay in
/// the plan's order, and so do large ones of the same magnitude: a thread then reads and
/// writes next to what was just read and written, and layers are finished, and told and
/// recorded, one after the other.
pub fn order(mut places: Vec<usize>, bytes: impl Fn(usize) -> u64) -> Vec<usize> {
    // Magnitude: none for the small ones, else the power of two.
    places.sort_by_cached_key(|place| Reverse((bytes(*place) / SMALL).checked_ilog2()));
    places
}

/// A window that moves over the source, before the pieces that are taken.
pub struct Ahead {
    /// Bytes of the source before each piece, in the order in which they are taken.
    starts: Vec<u64>,
    /// The first piece that was not asked for.
    next: Mutex<usize>,
}

impl Ahead {
    /// For pieces of these sizes, in the order in which they are taken.
    pub fn new(sizes: impl Iterator<Item = u64>) -> Self {
        let starts = sizes.scan(0u64, |end, size| {
            let start = *end;
            *end = end.saturating_add(size);
            Some(start)
        });
        Self {
            starts: starts.collect(),
            next: Mutex::default(),
        }
    }

    /// A thread begins with a piece: calls `ask`, with the most bytes that it should ask
    /// for, for each later piece that comes into the window.
    pub fn begins(&self, index: usize, mut ask: impl FnMut(usize, u64)) {
        // If another thread is at it, that is enough.
        let Ok(mut next) = self.next.try_lock() else {
            return;
        };
        let Some(start) = self.starts.get(index) else {
            return;
        };
        let end = start.saturating_add(AHEAD);
        // Of this piece itself there is nothing to be had in advance.
        *next = (*next).max(index + 1);
        while let Some(start) = self.starts.get(*next)
            && *start < end
        {
            ask(*next, end - start);
            *next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_cannot_be_cut_comes_first_and_the_rest_stays_in_order() {
        let sizes = [1, 2, 100, 1, 7, 9, 90, 1000, 1].map(|size| size * MIB);
        let order = order((0..sizes.len()).collect(), |place| sizes[place]);
        assert_eq!(order, [7, 2, 6, 5, 0, 1, 3, 4, 8]);
    }

    #[test]
    fn what_is_done_does_not_come_back() {
        let order = order(vec![4, 5, 7], |place| if place == 7 { 1 << 40 } else { 0 });
        assert_eq!(order, [7, 4, 5]);
    }

    #[test]
    fn the_window_moves_over_each_piece_once() {
        let ahead = Ahead::new(
            [1, 16, 10, 10, 500, 3, 3]
                .map(|size| size * MIB)
                .into_iter(),
        );
        let begins = |index| {
            let mut asked = Vec::new();
            ahead.begins(index, |place, most| asked.push((place, most / MIB)));
            asked
        };
        // 1 MiB is being done, 32 MiB from its start on are in the window.
        assert_eq!(begins(0), [(1, 31), (2, 15), (3, 5)]);
        assert_eq!(begins(0), []);
        // Of a large piece only its beginning.
        assert_eq!(begins(2), [(4, 12)]);
        assert_eq!(begins(1), []);
        // A piece that has begun is not asked for, though nobody did before.
        assert_eq!(begins(5), [(6, 29)]);
        assert_eq!(begins(6), []);
        assert_eq!(begins(7), []);
    }
}
