//! The numbers that a group can hold.

/// The smallest and the largest magnitude of a scale: those of half precision.
pub(super) const SCALES: [f32; 2] = [5.960_464_5e-8, 65504.0];

/// The numbers `scale × (code − zero)` with codes from 0 to `2^bits − 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Bits of a code: 2, 3, 4 or 8.
    pub bits: u32,
    /// Whether the zero is `2^(bits − 1)` in all groups.
    pub symmetric: bool,
    /// The smallest zero of asymmetric groups: 1 for checkpoints of format v1, which store the zero
    /// minus one, and 0 for v2.
    pub lowest_zero: u8,
}

impl Grid {
    /// The largest code.
    #[must_use]
    pub const fn highest(self) -> u8 {
        (u8::MAX) >> (8 - self.bits)
    }

    /// The zero of symmetric groups.
    #[must_use]
    pub const fn middle(self) -> u8 {
        1 << (self.bits - 1)
    }

    /// Zeros that a group can have.
    #[must_use]
    pub const fn zeros(self) -> [u8; 2] {
        if self.symmetric {
            [self.middle(); 2]
        } else {
            [self.lowest_zero, self.highest()]
        }
    }
}
