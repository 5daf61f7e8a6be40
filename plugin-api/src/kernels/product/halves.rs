//! Single-precision numbers as sums of two bfloat16 numbers each, laid out for tiles.
//!
//! The two halves hold 16 of the 24 bits. Products leave out low halves times low halves, so that
//! what is lost is about `2⁻¹⁷` of each product.

use std::cell::RefCell;

use ndarray::{ArrayView1, ArrayView2, Axis, s};

use super::amx::{BLOCK, Halves, Panel, Row, SIDE, STEP};
use crate::kernels::float16::Bytes;
use crate::kernels::simd::{Isa, Kernel, Level, Vector};
use crate::kernels::{Parallel, hand_out};

/// Panels of a task.
const TASK: usize = 64;

/// A matrix for tiles: block by block of its rows, step by step along them. What is missing in the
/// last ones are zeros.
#[derive(Debug)]
pub struct Packed {
    steps: usize,
    high: Vec<Panel>,
    low: Vec<Panel>,
}

/// Which side of a product a matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its rows are the rows of the result.
    Left,
    /// Its rows are the columns of the result.
    Right,
}

thread_local! {
    /// Room that earlier products had: new memory costs time.
    static SPARE: RefCell<Vec<Vec<Panel>>> = const { RefCell::new(Vec::new()) };
}

impl Packed {
    /// Packs `rows × inner` numbers.
    pub fn rows(parallel: &dyn Parallel, matrix: ArrayView2<'_, f32>, side: Side) -> Self {
        let mut packed = Self::sized(matrix.nrows(), matrix.ncols());
        packed.fill(parallel, |level, place, panels| {
            level.dispatch(PackRows {
                matrix,
                side,
                place,
                panels,
            });
        });
        packed
    }

    /// Packs `inner × rows` numbers: a matrix whose columns are the rows that are meant.
    pub fn columns(parallel: &dyn Parallel, matrix: ArrayView2<'_, f32>, side: Side) -> Self {
        let mut packed = Self::sized(matrix.ncols(), matrix.nrows());
        packed.fill(parallel, |level, place, panels| {
            level.dispatch(PackColumns {
                matrix,
                side,
                place,
                panels,
            });
        });
        packed
    }

    fn sized(rows: usize, inner: usize) -> Self {
        let steps = inner.div_ceil(STEP);
        let panels = rows.div_ceil(BLOCK) * steps;
        let room = || {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            let mut room = spare.unwrap_or_default();
            room.resize(panels, Panel::default());
            room
        };
        Self {
            steps,
            high: room(),
            low: room(),
        }
    }

    fn fill(
        &mut self,
        parallel: &dyn Parallel,
        pack: impl Fn(Level, [usize; 2], [&mut Panel; 2]) + Sync,
    ) {
        let level = Level::detect();
        let steps = self.steps.max(1);
        let parts = self.high.chunks_mut(TASK).zip(self.low.chunks_mut(TASK));
        hand_out(parallel, parts.collect(), |part, (high, low)| {
            let panels = high.iter_mut().zip(low);
            for (number, (high, low)) in (part * TASK..).zip(panels) {
                pack(level, [number / steps, number % steps], [high, low]);
            }
        });
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Some steps of a block.
    pub fn block(&self, block: usize, steps: std::ops::Range<usize>) -> Halves<'_> {
        let first = block * self.steps;
        let range = first + steps.start..first + steps.end;
        Halves {
            high: &self.high[range.clone()],
            low: &self.low[range],
        }
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        let rooms = [
            std::mem::take(&mut self.high),
            std::mem::take(&mut self.low),
        ];
        // At the end of a thread there is nothing to keep it in.
        let _ = SPARE.try_with(|spare| spare.borrow_mut().extend(rooms));
    }
}

/// Packs a panel out of rows.
struct PackRows<'a> {
    matrix: ArrayView2<'a, f32>,
    side: Side,
    place: [usize; 2],
    panels: [&'a mut Panel; 2],
}

impl Kernel for PackRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self {
            matrix,
            side,
            place: [block, step],
            panels: [high, low],
        } = self;
        let columns = step * STEP..((step + 1) * STEP).min(matrix.ncols());
        let count = columns.len();
        let mut numbers = [0.0; STEP];
        for (tile, (high, low)) in high.iter_mut().zip(low).enumerate() {
            let first = block * BLOCK + tile * SIDE;
            for (row, (high, low)) in (first..).zip(high.iter_mut().zip(&mut *low)) {
                numbers.fill(0.0);
                if row < matrix.nrows() {
                    let row = matrix.index_axis(Axis(0), row);
                    match row.to_slice() {
                        Some(row) => numbers[..count].copy_from_slice(&row[columns.clone()]),
                        None => copy(&row.slice(s![columns.clone()]), &mut numbers, 1),
                    }
                }
                split(isa, &numbers, [&mut high.0, &mut low.0]);
            }
            if side == Side::Right {
                transpose(isa, high);
                transpose(isa, low);
            }
        }
    }
}

/// Packs a panel out of columns.
struct PackColumns<'a> {
    matrix: ArrayView2<'a, f32>,
    side: Side,
    place: [usize; 2],
    panels: [&'a mut Panel; 2],
}

impl Kernel for PackColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self {
            matrix,
            side,
            place: [block, step],
            panels: [high, low],
        } = self;
        // Row `2 i` and row `2 i + 1` side by side.
        let mut numbers = [0.0; STEP];
        for (tile, (high, low)) in high.iter_mut().zip(low).enumerate() {
            let first = block * BLOCK + tile * SIDE;
            let columns = first.min(matrix.ncols())..(first + SIDE).min(matrix.ncols());
            for (pair, (high, low)) in high.iter_mut().zip(&mut *low).enumerate() {
                numbers.fill(0.0);
                for odd in 0..2 {
                    let row = step * STEP + 2 * pair + odd;
                    if row < matrix.nrows() {
                        let row = matrix.index_axis(Axis(0), row);
                        match row.to_slice() {
                            Some(row) => {
                                let row = &row[columns.clone()];
                                let places = numbers[odd..].iter_mut().step_by(2);
                                places.zip(row).for_each(|(place, x)| *place = *x);
                            }
                            None => copy(&row.slice(s![columns.clone()]), &mut numbers[odd..], 2),
                        }
                    }
                }
                split(isa, &numbers, [&mut high.0, &mut low.0]);
            }
            if side == Side::Left {
                transpose(isa, high);
                transpose(isa, low);
            }
        }
    }
}

fn copy(row: &ArrayView1<'_, f32>, numbers: &mut [f32], step: usize) {
    let places = numbers.iter_mut().step_by(step);
    places.zip(row).for_each(|(place, x)| *place = *x);
}

/// The nearest bfloat16 numbers, and the nearest of what they lack.
#[inline(always)]
fn split<I: Isa>(isa: I, numbers: &[f32; STEP], [high, low]: [&mut [Bytes; STEP]; 2]) {
    let lanes = I::LANES;
    for from in (0..STEP).step_by(lanes) {
        let number = isa.load(&numbers[from..]);
        number.store_bf16(&mut high[from..]);
        let rest = number - isa.load_bf16(&high[from..]);
        rest.store_bf16(&mut low[from..]);
    }
}

/// Exchanges rows and columns of pairs.
#[inline(always)]
fn transpose<I: Isa>(isa: I, tile: &mut [Row; SIDE]) {
    let pairs = tile.map(|row| bytemuck::cast::<[Bytes; STEP], [f32; SIDE]>(row.0));
    for (from, rows) in pairs.chunks(I::LANES).enumerate() {
        let columns = isa.transpose::<SIDE>(rows);
        let mut out = [0.0; 32];
        for (row, column) in tile.iter_mut().zip(columns) {
            column.store(&mut out);
            let start = from * I::LANES;
            let count = rows.len();
            let bytes: &mut [f32; SIDE] = bytemuck::cast_mut(&mut row.0);
            bytes[start..start + count].copy_from_slice(&out[..count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use ndarray::Array2;

    fn matrix(rows: usize, inner: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, inner), |(row, column)| {
            let number = (row * 37 + column * 11) % 101;
            (number as f32 - 50.0) / 7.0
        })
    }

    fn value(bytes: Bytes) -> f32 {
        half::bf16::from_le_bytes(bytes).to_f32()
    }

    /// The number at a row and a place along it, and what its halves add up to.
    fn check(packed: &Packed, side: Side, exact: &Array2<f32>) {
        let (blocks, steps) = (exact.nrows().div_ceil(BLOCK), packed.steps());
        for (row, place) in (0..blocks * BLOCK).flat_map(|r| (0..steps * STEP).map(move |p| (r, p)))
        {
            let halves = packed.block(row / BLOCK, 0..steps);
            let (tile, row_of_tile) = (row % BLOCK / SIDE, row % SIDE);
            let (step, within) = (place / STEP, place % STEP);
            let [line, at] = match side {
                Side::Left => [row_of_tile, within],
                Side::Right => [within / 2, 2 * row_of_tile + within % 2],
            };
            let of = |panels: &[Panel]| value(panels[step][tile][line].0[at]);
            let (high, low) = (of(halves.high), of(halves.low));
            let number = exact.get((row, place)).copied().unwrap_or(0.0);
            assert_eq!(high, half::bf16::from_f32(number).to_f32(), "{row} {place}");
            assert!(
                (high + low - number).abs() <= number.abs() / 65536.0,
                "{row} {place}: {high} + {low} for {number}"
            );
        }
    }

    #[test]
    fn halves_add_up_and_lie_where_tiles_want_them() {
        for (rows, inner) in [(1, 1), (32, 32), (33, 31), (70, 100)] {
            let exact = matrix(rows, inner);
            for side in [Side::Left, Side::Right] {
                check(&Packed::rows(&Serial, exact.view(), side), side, &exact);
            }
        }
    }

    #[test]
    fn columns_are_packed_as_rows_are() {
        let exact = matrix(70, 45);
        let stored = exact.t().as_standard_layout().into_owned();
        for side in [Side::Left, Side::Right] {
            let rows = Packed::rows(&Serial, exact.view(), side);
            // With its rows one after the other, and with gaps between their numbers.
            for view in [stored.view(), exact.t()] {
                let columns = Packed::columns(&Serial, view, side);
                assert_eq!((&columns.high, &columns.low), (&rows.high, &rows.low));
            }
            let gaps = Packed::rows(&Serial, stored.t(), side);
            assert_eq!((&gaps.high, &gaps.low), (&rows.high, &rows.low));
        }
    }

    #[test]
    fn room_of_earlier_products_leaves_nothing_behind() {
        drop(Packed::rows(&Serial, matrix(70, 100).view(), Side::Left));
        let exact = matrix(33, 31);
        let packed = Packed::rows(&Serial, exact.view(), Side::Left);
        check(&packed, Side::Left, &exact);
    }
}
