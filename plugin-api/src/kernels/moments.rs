//! First and second moments of channels: what the inputs of a layer look like.

use ndarray::ArrayView2;

use super::parallel::{Parallel, hand_out};
use super::simd::{Isa, Kernel, Level, Vector};

/// Columns of a task.
const STRIP: usize = 64;

/// Rows that are summed in single precision, before their sum is added in double precision.
const ROWS: usize = 16;

/// Adds the sums of `x²` and `|x|` over the rows of a matrix to those of each column.
///
/// # Panics
/// If the accumulators do not have a number for each column, or rows are not contiguous.
pub fn add_moments(
    parallel: &dyn Parallel,
    x: ArrayView2<'_, f32>,
    squares: &mut [f64],
    magnitudes: &mut [f64],
) {
    assert_eq!(x.ncols(), squares.len());
    assert_eq!(x.ncols(), magnitudes.len());
    let strips = squares.chunks_mut(STRIP).zip(magnitudes.chunks_mut(STRIP));
    let level = Level::detect();
    hand_out(
        parallel,
        strips.collect(),
        |index, (squares, magnitudes)| {
            let mut block: Vec<&[f32]> = Vec::with_capacity(ROWS);
            let from = index * STRIP;
            let columns = from..from + squares.len();
            let mut add = |block: &[&[f32]]| {
                level.dispatch(Sums {
                    block,
                    squares: &mut *squares,
                    magnitudes: &mut *magnitudes,
                });
            };
            for row in x.rows() {
                let Some(row) = row.to_slice() else {
                    panic!("the rows of a matrix are not contiguous");
                };
                block.push(&row[columns.clone()]);
                if block.len() == ROWS {
                    add(&block);
                    block.clear();
                }
            }
            add(&block);
        },
    );
}

/// Adds the sums of up to [`ROWS`] rows.
struct Sums<'a> {
    block: &'a [&'a [f32]],
    squares: &'a mut [f64],
    magnitudes: &'a mut [f64],
}

impl Kernel for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let columns = self.squares.len();
        let (mut squares, mut magnitudes) = ([0.0f32; STRIP], [0.0f32; STRIP]);
        let whole = columns - columns % I::LANES;
        let mut i = 0;
        while i < whole {
            let (mut square, mut magnitude) = (isa.splat(0.0), isa.splat(0.0));
            for row in self.block {
                let x = isa.load(&row[i..]);
                square = square + x * x;
                magnitude = magnitude + x.abs();
            }
            square.store(&mut squares[i..]);
            magnitude.store(&mut magnitudes[i..]);
            i += I::LANES;
        }
        for row in self.block {
            for i in whole..columns {
                squares[i] += row[i] * row[i];
                magnitudes[i] += row[i].abs();
            }
        }
        for i in 0..columns {
            self.squares[i] += f64::from(squares[i]);
            self.magnitudes[i] += f64::from(magnitudes[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use ndarray::Array2;

    #[test]
    fn sums_of_columns_add_up() {
        for (rows, columns) in [(1, 1), (40, 70), (33, 200)] {
            let x = Array2::from_shape_fn((rows, columns), |(r, c)| (r * 7 + c) as f32 - 60.0);
            let (mut squares, mut magnitudes) = (vec![1.0; columns], vec![2.0; columns]);
            add_moments(&Serial, x.view(), &mut squares, &mut magnitudes);
            for (c, column) in x.columns().into_iter().enumerate() {
                let exact = column.iter().map(|x| f64::from(x * x)).sum::<f64>();
                assert_eq!(squares[c], 1.0 + exact);
                let exact = column.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                assert_eq!(magnitudes[c], 2.0 + exact);
            }
        }
    }
}
