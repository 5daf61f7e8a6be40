//! What the instruction sets of four lanes share: transposing, and conversions of stored numbers
//! for which they have no instructions. Those are plain Rust, which the compiler makes vector code
//! of by itself: every processor of the architecture has the instructions.

use super::{Isa, Vector, array};

pub(super) const LANES: usize = 4;

/// A vector of the first four stored numbers, each converted by `one`.
#[inline(always)]
pub(super) fn load<I: Isa, T: Copy>(isa: I, stored: &[T], one: impl Fn(T) -> f32) -> I::F32 {
    let stored = &stored[..LANES];
    isa.load(&array::<f32, LANES>(|i| one(stored[i])))
}

/// Writes the numbers to the first four places, each converted by `one`.
#[inline(always)]
pub(super) fn store<V: Vector, T>(numbers: V, out: &mut [T], one: impl Fn(f32) -> T) {
    let mut lanes = [0.0; LANES];
    numbers.store(&mut lanes);
    for (out, number) in out[..LANES].iter_mut().zip(lanes) {
        *out = one(number);
    }
}

/// Columns of rows; `square` turns four rows of four numbers.
#[inline(always)]
pub(super) fn transpose<I: Isa, const S: usize>(
    isa: I,
    rows: &[[f32; S]],
    square: impl Fn([I::F32; LANES]) -> [I::F32; LANES],
) -> [I::F32; S] {
    const { assert!(S.is_multiple_of(LANES)) }
    // As in `avx2.rs`: from the parts of the rows, square by square.
    let zeros = [0.0; S];
    let mut columns: [I::F32; S] = array(|i| {
        let row = rows.get(i % LANES).unwrap_or(&zeros);
        isa.load(&row[i - i % LANES..])
    });
    for rows in columns.as_chunks_mut::<LANES>().0 {
        *rows = square(*rows);
    }
    columns
}
