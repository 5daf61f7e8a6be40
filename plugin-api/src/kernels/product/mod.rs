//! Products of matrices, on many threads where they are in single precision.
//!
//! The result is cut into tiles, and each tile is one serial call of the `gemm` crate. The cut
//! depends on shapes alone, so results do not depend on the number of threads. Where the processor
//! has AMX, large products are those of halves in bfloat16 ([`halves`]): within `1e-5` the same,
//! and several times as fast.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod halves;
#[cfg(target_arch = "x86_64")]
pub(super) mod tiled;

use std::ops::{Add, Div, Mul, Neg, Sub};

use ndarray::{ArrayView2, ArrayViewMut2, Axis};

use super::parallel::{Parallel, hand_out};

/// What becomes of the numbers that the result had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// They are overwritten.
    Forget,
    /// The product is added to them.
    Add,
}

/// Rows and columns of a tile, at most: the first where that gives enough tiles for many threads,
/// else the second. Packing costs a few per cent more in small tiles.
const TILES: [usize; 2] = [512, 256];
const ENOUGH: usize = 24;

/// `Y = X Wᵀ (+ b)` or `Y += X Wᵀ (+ b)`, with a weight of outputs × inputs.
///
/// # Panics
/// If the shapes do not fit.
pub fn linear(
    parallel: &dyn Parallel,
    x: ArrayView2<'_, f32>,
    weight: ArrayView2<'_, f32>,
    bias: Option<&[f32]>,
    before: Before,
    y: ArrayViewMut2<'_, f32>,
) {
    assert_eq!(x.ncols(), weight.ncols(), "inputs of a linear layer");
    assert_eq!(
        y.dim(),
        (x.nrows(), weight.nrows()),
        "outputs of a linear layer"
    );
    assert!(
        bias.is_none_or(|bias| bias.len() == weight.nrows()),
        "bias of a linear layer"
    );
    #[cfg(target_arch = "x86_64")]
    if let Some(tiled) = tiled::Tiled::for_product(x.nrows(), weight.nrows(), x.ncols()) {
        return tiled.linear(parallel, x, weight, bias, before, y);
    }
    let count = |tile: usize| x.nrows().div_ceil(tile) * weight.nrows().div_ceil(tile);
    let tile = if count(TILES[0]) < ENOUGH {
        TILES[1]
    } else {
        TILES[0]
    };
    let tiles = tiles(y, &cuts(x.nrows(), tile), &cuts(weight.nrows(), tile));
    hand_out(parallel, tiles, |_, mut tile| {
        let x = part(x, tile.row, tile.view.nrows());
        let weight = part(weight, tile.column, tile.view.ncols());
        multiply(x, weight.reversed_axes(), 1.0, before, tile.view.view_mut());
        tile.add_bias(bias);
    });
}

/// A matrix of outputs × inputs that many others are multiplied with.
pub struct Prepared<'a> {
    matrix: ArrayView2<'a, f32>,
    #[cfg(target_arch = "x86_64")]
    tiled: Option<tiled::Prepared>,
}

impl<'a> Prepared<'a> {
    /// Does once what each product would have to do.
    pub fn new(parallel: &dyn Parallel, matrix: ArrayView2<'a, f32>) -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            tiled: tiled::Prepared::new(parallel, matrix),
            matrix,
        }
    }

    /// The matrix itself.
    #[must_use]
    pub fn matrix(&self) -> ArrayView2<'a, f32> {
        self.matrix
    }

    /// `Y = X Wᵀ`, with this matrix as `W`, on the caller's thread.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn linear(&self, x: ArrayView2<'_, f32>, y: ArrayViewMut2<'_, f32>) {
        assert_eq!(x.ncols(), self.matrix.ncols(), "inputs of a product");
        assert_eq!(
            y.dim(),
            (x.nrows(), self.matrix.nrows()),
            "outputs of a product"
        );
        #[cfg(target_arch = "x86_64")]
        if let Some(tiled) = &self.tiled {
            return tiled.linear(x, y);
        }
        multiply(x, self.matrix.reversed_axes(), 1.0, Before::Forget, y);
    }
}

/// Some rows of a matrix.
fn part(matrix: ArrayView2<'_, f32>, from: usize, count: usize) -> ArrayView2<'_, f32> {
    let (_, rest) = matrix.split_at(Axis(0), from);
    rest.split_at(Axis(0), count).0
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// Numbers that matrices are made of: `f32` and `f64`.
pub trait Real:
    sealed::Sealed
    + Copy
    + PartialOrd
    + Send
    + Sync
    + 'static
    + From<f32>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The square root.
    #[must_use]
    fn root(self) -> Self;
}

impl Real for f32 {
    fn root(self) -> Self {
        self.sqrt()
    }
}

impl Real for f64 {
    fn root(self) -> Self {
        self.sqrt()
    }
}

/// `C = scale · A B` or `C += scale · A B` on the caller's thread, for any strides.
///
/// # Panics
/// If the shapes do not fit.
pub fn multiply<T: Real>(
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    scale: T,
    before: Before,
    mut c: ArrayViewMut2<'_, T>,
) {
    assert_eq!(a.ncols(), b.nrows(), "inner sizes of a product");
    assert_eq!(c.dim(), (a.nrows(), b.ncols()), "sizes of a product");
    let (a_strides, b_strides) = (a.strides(), b.strides());
    let c_strides = [c.strides()[0], c.strides()[1]];
    // SAFETY: pointers and strides are those of views, whose shapes were checked above; the view
    // of `c` is exclusive, so it does not overlap the others. `T` is `f32` or `f64`, which the
    // crate has kernels for.
    unsafe {
        gemm::gemm(
            c.nrows(),
            c.ncols(),
            a.ncols(),
            c.as_mut_ptr(),
            c_strides[1],
            c_strides[0],
            before == Before::Add,
            a.as_ptr(),
            a_strides[1],
            a_strides[0],
            b.as_ptr(),
            b_strides[1],
            b_strides[0],
            T::from(1.0),
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// A part of a matrix that somebody owns.
pub struct Tile<'a> {
    /// Its first row in the matrix.
    pub row: usize,
    /// Its first column in the matrix.
    pub column: usize,
    /// Its numbers.
    pub view: ArrayViewMut2<'a, f32>,
}

impl Tile<'_> {
    /// Adds its part of the whole matrix's bias, if there is one, to each row.
    fn add_bias(&mut self, bias: Option<&[f32]>) {
        let Some(bias) = bias else { return };
        let bias = &bias[self.column..self.column + self.view.ncols()];
        for mut row in self.view.rows_mut() {
            row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// Cuts a matrix into tiles, row by row of tiles.
///
/// # Panics
/// If the cuts do not add up to the matrix's sizes.
pub fn tiles<'a>(
    matrix: ArrayViewMut2<'a, f32>,
    rows: &[usize],
    columns: &[usize],
) -> Vec<Tile<'a>> {
    assert_eq!(matrix.nrows(), rows.iter().sum::<usize>(), "rows of tiles");
    assert_eq!(
        matrix.ncols(),
        columns.iter().sum::<usize>(),
        "columns of tiles"
    );
    let mut tiles = Vec::with_capacity(rows.len() * columns.len());
    let (mut below, mut row) = (matrix, 0);
    for &height in rows {
        let (mut right, rest) = below.split_at(Axis(0), height);
        below = rest;
        let mut column = 0;
        for &width in columns {
            let (view, rest) = right.split_at(Axis(1), width);
            right = rest;
            tiles.push(Tile { row, column, view });
            column += width;
        }
        row += height;
    }
    tiles
}

/// Cuts a length into parts of at most `most`, about equal and, but for the last, multiples of
/// 64: the `gemm` crate works in panels of up to as many.
#[must_use]
pub fn cuts(length: usize, most: usize) -> Vec<usize> {
    let parts = length.div_ceil(most).max(1);
    let size = length.div_ceil(parts).next_multiple_of(64);
    let mut cuts = Vec::with_capacity(parts);
    let mut rest = length;
    while rest > 0 {
        let cut = rest.min(size);
        cuts.push(cut);
        rest -= cut;
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use ndarray::Array2;

    fn matrix(rows: usize, columns: usize, seed: usize) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |(r, c)| {
            ((r * 31 + c * 17 + seed) % 23) as f32 - 11.0
        })
    }

    #[test]
    fn layers_agree_with_sums() {
        for (tokens, inputs, outputs) in [(1, 1, 1), (5, 33, 7), (600, 40, 530), (3, 64, 1100)] {
            let (x, w) = (matrix(tokens, inputs, 1), matrix(outputs, inputs, 5));
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32).collect();
            for (bias, before) in [(None, Before::Forget), (Some(&bias[..]), Before::Add)] {
                let mut y = matrix(tokens, outputs, 9);
                let old = y.clone();
                linear(&Serial, x.view(), w.view(), bias, before, y.view_mut());
                for ((t, o), y) in y.indexed_iter() {
                    let mut sum: f32 = (0..inputs).map(|i| x[[t, i]] * w[[o, i]]).sum();
                    sum += bias.map_or(0.0, |bias| bias[o]);
                    sum += if before == Before::Add {
                        old[[t, o]]
                    } else {
                        0.0
                    };
                    assert_eq!(*y, sum, "{t} {o}");
                }
            }
        }
    }

    #[test]
    fn prepared_matrices_give_the_same_products() {
        for (rows, inputs, outputs) in [(1, 1, 1), (5, 33, 7), (70, 130, 150), (3, 256, 600)] {
            let (x, w) = (matrix(rows, inputs, 1), matrix(outputs, inputs, 5));
            let prepared = Prepared::new(&Serial, w.view());
            let mut y = matrix(rows, outputs, 9);
            prepared.linear(x.view(), y.view_mut());
            // Whole numbers, small enough to be exact whatever they are computed with.
            assert_eq!(y, x.dot(&w.t()), "{rows} {inputs} {outputs}");
        }
    }

    #[test]
    fn nothing_times_something_is_zero() {
        let mut y = matrix(4, 3, 0);
        let (x, w) = (Array2::zeros((4, 0)), Array2::zeros((3, 0)));
        linear(
            &Serial,
            x.view(),
            w.view(),
            None,
            Before::Forget,
            y.view_mut(),
        );
        assert!(y.iter().all(|y| *y == 0.0));
    }

    #[test]
    fn cuts_add_up() {
        for (length, most) in [
            (0, 16),
            (1, 16),
            (100, 32),
            (576, 512),
            (2048, 512),
            (515, 512),
        ] {
            let cuts = cuts(length, most);
            assert_eq!(cuts.iter().sum::<usize>(), length);
            assert!(
                cuts.iter()
                    .all(|cut| *cut > 0 && *cut <= most.next_multiple_of(64))
            );
        }
    }
}
