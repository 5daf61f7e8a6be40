//! How well a way to store groups holds those of a weight.

use std::cmp::Ordering;

use crate::interface::{GroupFacts, Route};

/// The largest relative change of a weight that still counts as rounding a scale or a zero. Half
/// precision has 11 bits; an offset may be some times as large as the largest weight of its group.
const NEAR: f64 = 1.0 / 64.0;

/// What a way to store groups can say of a zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// Nothing: it is in the middle of the codes, `2^(bits - 1)`. Scales may be negative.
    Middle,
    /// A whole number that a code could be too, from `lowest` on. Scales are positive.
    Codes {
        /// The smallest zero that can be stored.
        lowest: u8,
    },
    /// An offset in its place, `scale · code + offset`, in half precision.
    Offsets,
}

/// How well groups are held.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fit {
    /// The same numbers.
    Exact,
    /// With rounded scales or offsets; so large is the largest relative change.
    Near(f64),
}

impl Fit {
    fn of(change: f64) -> Option<Self> {
        match change {
            0.0 => Some(Self::Exact),
            change if change <= NEAR => Some(Self::Near(change)),
            _ => None,
        }
    }

    /// The route that it makes.
    #[must_use]
    pub const fn route(self) -> Route {
        match self {
            Self::Exact => Route::Exact,
            Self::Near(change) => Route::NearExact { change },
        }
    }

    /// The largest relative change of a weight.
    #[must_use]
    pub const fn change(self) -> f64 {
        match self {
            Self::Exact => 0.0,
            Self::Near(change) => change,
        }
    }

    /// Exact before near, small changes before large ones.
    #[must_use]
    pub fn compare(self, other: Self) -> Ordering {
        self.change().total_cmp(&other.change())
    }
}

impl GroupFacts {
    /// How well codes of so many bits with such zeros hold the groups, if scales are stored in
    /// half precision; `None` if they do not.
    #[must_use]
    pub fn fit(&self, bits: u32, zeros: Zeros) -> Option<Fit> {
        if !self.in_order || !(1..=8).contains(&bits) {
            return None;
        }
        let change = match zeros {
            Zeros::Middle => self.fits_middle(bits).then_some(self.scale_change)?,
            Zeros::Codes { lowest } => {
                self.fits_codes(bits, lowest).then_some(self.scale_change)?
            }
            Zeros::Offsets => (self.bits <= bits).then_some(self.offset_change)?,
        };
        Fit::of(change?)
    }

    fn fits_middle(&self, bits: u32) -> bool {
        let half = 1 << (bits - 1);
        let [low, high] = self.steps;
        self.whole_zeros && low >= -half && high < half
    }

    /// Codes and zeros stay as they are; those of negative scales are mirrored.
    fn fits_codes(&self, bits: u32, lowest: u8) -> bool {
        let highest = (1 << self.bits) - 1;
        let [mut low, mut high] = self.zeros;
        if self.negative_scales {
            (low, high) = (low.min(highest - high), high.max(highest - low));
        }
        self.whole_zeros && self.bits <= bits && low >= i32::from(lowest) && high < 1 << bits
    }

    /// Whether rows of so many columns can be cut into groups of so many, each within one of
    /// these.
    #[must_use]
    pub fn can_be_cut(&self, cols: u64, group: u64) -> bool {
        let within = u64::from(self.group_size).min(cols);
        group > 0 && within.is_multiple_of(group) && cols.is_multiple_of(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What GPTQ's symmetric 4-bit groups are.
    fn symmetric() -> GroupFacts {
        GroupFacts {
            bits: 4,
            group_size: 128,
            in_order: true,
            whole_zeros: true,
            zeros: [8, 8],
            steps: [-8, 7],
            negative_scales: false,
            scale_change: Some(0.0),
            offset_change: Some(0.0),
        }
    }

    #[test]
    fn symmetric_groups_fit_everywhere() {
        let facts = symmetric();
        for (bits, zeros) in [
            (4, Zeros::Middle),
            (8, Zeros::Middle),
            (4, Zeros::Codes { lowest: 1 }),
            (4, Zeros::Offsets),
        ] {
            assert_eq!(facts.fit(bits, zeros), Some(Fit::Exact), "{bits} {zeros:?}");
        }
        assert_eq!(facts.fit(3, Zeros::Middle), None);
        assert_eq!(facts.fit(3, Zeros::Codes { lowest: 0 }), None);
    }

    #[test]
    fn negative_scales_mirror_zeros() {
        let mut facts = symmetric();
        facts.negative_scales = true;
        assert_eq!(
            facts.fit(4, Zeros::Codes { lowest: 7 }),
            Some(Fit::Exact),
            "a zero of 8 becomes 7"
        );
        assert_eq!(facts.fit(4, Zeros::Codes { lowest: 8 }), None);
        facts.zeros = [0, 15];
        assert_eq!(facts.fit(4, Zeros::Codes { lowest: 1 }), None);
    }

    #[test]
    fn other_zeros_need_more_bits_or_zeros_of_their_own() {
        let mut facts = symmetric();
        (facts.zeros, facts.steps) = ([0, 15], [-15, 15]);
        facts.offset_change = Some(4e-4);
        assert_eq!(facts.fit(4, Zeros::Middle), None);
        assert_eq!(facts.fit(5, Zeros::Middle), Some(Fit::Exact));
        assert_eq!(facts.fit(4, Zeros::Codes { lowest: 0 }), Some(Fit::Exact));
        assert_eq!(facts.fit(4, Zeros::Codes { lowest: 1 }), None);
        assert_eq!(facts.fit(4, Zeros::Offsets), Some(Fit::Near(4e-4)));
        facts.offset_change = Some(0.5);
        assert_eq!(facts.fit(4, Zeros::Offsets), None);
    }

    #[test]
    fn permuted_groups_and_broken_zeros_do_not_fit() {
        let mut facts = symmetric();
        facts.in_order = false;
        assert_eq!(facts.fit(8, Zeros::Middle), None);
        let mut facts = symmetric();
        facts.whole_zeros = false;
        assert_eq!(facts.fit(8, Zeros::Middle), None);
        assert_eq!(facts.fit(8, Zeros::Codes { lowest: 0 }), None);
        assert!(facts.fit(4, Zeros::Offsets).is_some());
        let mut facts = symmetric();
        facts.scale_change = None;
        assert_eq!(facts.fit(4, Zeros::Middle), None);
        assert_eq!(symmetric().fit(9, Zeros::Middle), None);
    }

    #[test]
    fn groups_are_cut_within_groups() {
        let facts = symmetric();
        assert!(facts.can_be_cut(512, 32) && facts.can_be_cut(512, 128));
        assert!(!facts.can_be_cut(512, 256) && !facts.can_be_cut(160, 64));
        // A whole row.
        let row = GroupFacts {
            group_size: 576,
            ..symmetric()
        };
        assert!(row.can_be_cut(576, 64) && row.can_be_cut(576, 576));
        assert!(!row.can_be_cut(576, 128) && !row.can_be_cut(576, 0));
    }

    #[test]
    fn exact_is_better_than_near() {
        assert_eq!(Fit::Exact.compare(Fit::Near(1e-4)), Ordering::Less);
        assert_eq!(Fit::Near(1e-3).compare(Fit::Near(1e-4)), Ordering::Greater);
        assert_eq!(Fit::Exact.route(), Route::Exact);
        assert_eq!(Fit::Near(1e-4).route(), Route::NearExact { change: 1e-4 });
    }
}
