//! Cholesky factors of symmetric matrices, on many threads.
//!
//! The factor grows from left to right by blocks of columns. A block first takes what the columns
//! on its left subtract from it, one product with a long inner side; then it is multiplied by the
//! inverse of its triangle on the diagonal. Both go by tiles of rows that know nothing of each
//! other, and the tile that holds the next triangle comes first and factors it as well, so that
//! nobody waits for that.

use ndarray::{Array2, ArrayView2, ArrayViewMut2, Axis, s};

use super::parallel::{Parallel, hand_out};
use super::product::{Before, Real, cuts, multiply};
use super::simd::{Isa, Kernel, Level};

/// Columns of a block.
const BLOCK: usize = 128;

/// Rows of a tile, at most, up to [`LARGE`] rows and above: products with the columns on the left
/// pack those of the block anew for each tile.
const TILES: [usize; 2] = [128, 512];
const LARGE: usize = 8192;

/// A pivot is not above the smallest that was allowed: the matrix is not positive definite, or
/// not so in this precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the matrix is not positive definite in row {row}")]
pub struct NotDefinite {
    /// The pivot's row.
    pub row: usize,
}

/// Replaces the lower triangle of a symmetric matrix by the `L` of `L Lᵀ`. What is above the
/// diagonal is neither read nor written.
///
/// Pivots, the squares of `L`'s diagonal, must be above `smallest`. The result does not depend on
/// the number of threads.
///
/// # Errors
/// If a pivot is too small or not a number. The lower triangle is undefined then.
///
/// # Panics
/// If the matrix is not square.
pub fn cholesky<T: Real>(
    parallel: &dyn Parallel,
    mut matrix: ArrayViewMut2<'_, T>,
    smallest: T,
) -> Result<(), NotDefinite> {
    assert!(
        matrix.is_square(),
        "a matrix with a Cholesky factor is square"
    );
    let size = matrix.nrows();
    let tile = TILES[usize::from(size > LARGE)];
    let width = size.min(BLOCK);
    let (mut block, _) = matrix.view_mut().split_at(Axis(0), width);
    let mut inverse = triangle(block.view_mut(), 0, smallest)?;
    let mut from = 0;
    while from + inverse.nrows() < size {
        let to = from + inverse.nrows();
        let (above, below) = matrix.view_mut().split_at(Axis(0), to);
        let left = above.slice(s![from.., ..from]);
        let mut next = Ok(Array2::from_elem((0, 0), T::from(0.0)));
        let mut tasks = Vec::new();
        let (head, mut rest) = below.split_at(Axis(0), (size - to).min(BLOCK));
        tasks.push((head, Some(&mut next)));
        for rows in cuts(rest.nrows(), tile) {
            let (rows, others) = rest.split_at(Axis(0), rows);
            rest = others;
            tasks.push((rows, None));
        }
        hand_out(parallel, tasks, |_, (mut rows, next)| {
            panel(rows.view_mut(), left, inverse.view());
            if let Some(next) = next {
                *next = triangle(rows, to, smallest);
            }
        });
        inverse = next?;
        from = to;
    }
    Ok(())
}

/// Finishes some rows of the block of columns behind `left`.
fn panel<T: Real>(rows: ArrayViewMut2<'_, T>, left: ArrayView2<'_, T>, inverse: ArrayView2<'_, T>) {
    let (done, rest) = rows.split_at(Axis(1), left.ncols());
    let (mut tile, _) = rest.split_at(Axis(1), inverse.ncols());
    subtract(done.view(), left, tile.view_mut());
    let before = tile.to_owned();
    multiply(
        before.view(),
        inverse.reversed_axes(),
        T::from(1.0),
        Before::Forget,
        tile,
    );
}

/// `C −= A Bᵀ`.
fn subtract<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>, c: ArrayViewMut2<'_, T>) {
    if a.ncols() > 0 {
        multiply(a, b.reversed_axes(), T::from(-1.0), Before::Add, c);
    }
}

/// Finishes the triangle of a block of rows that begins in column `from`, and returns its inverse.
fn triangle<T: Real>(
    rows: ArrayViewMut2<'_, T>,
    from: usize,
    smallest: T,
) -> Result<Array2<T>, NotDefinite> {
    let size = rows.nrows();
    let (done, rest) = rows.split_at(Axis(1), from);
    let (mut tile, _) = rest.split_at(Axis(1), size);
    // Upper, so that the rows of the copy are the columns of the factor.
    let mut upper = Array2::from_shape_fn((size, size), |(i, j)| {
        if i <= j { tile[[j, i]] } else { T::from(0.0) }
    });
    subtract(done.view(), done.view(), upper.view_mut());
    let mut inverse = Array2::from_elem((size, size), T::from(0.0));
    let (Some(square), Some(out)) = (upper.as_slice_mut(), inverse.as_slice_mut()) else {
        unreachable!("arrays of this function's own are contiguous");
    };
    let factored = Level::detect().dispatch(Triangle {
        size,
        square,
        smallest,
        inverse: out,
    });
    factored.map_err(|row| NotDefinite { row: from + row })?;
    for i in 0..size {
        for j in 0..=i {
            tile[[i, j]] = upper[[j, i]];
        }
    }
    Ok(inverse)
}

/// Factors a small matrix: `Uᵀ U`, with the upper triangle in and out, and the inverse of `Uᵀ`.
struct Triangle<'a, T> {
    size: usize,
    square: &'a mut [T],
    smallest: T,
    inverse: &'a mut [T],
}

impl<T: Real> Kernel for Triangle<'_, T> {
    /// Or the row of the pivot that is too small.
    type Output = Result<(), usize>;

    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> Result<(), usize> {
        let size = self.size;
        for k in 0..size {
            let (above, below) = self.square.split_at_mut((k + 1) * size);
            let row = &mut above[k * size..];
            let pivot = row[k];
            // The comparison is false for NaN.
            let definite = pivot > self.smallest && pivot < T::from(f32::MAX);
            if !definite {
                return Err(k);
            }
            let scale = T::from(1.0) / pivot.root();
            row[k..].iter_mut().for_each(|x| *x = *x * scale);
            for (i, below) in (k + 1..size).zip(below.chunks_exact_mut(size)) {
                subtract_scaled(&mut below[i..], row[i], &row[i..]);
            }
        }
        // Row i of the inverse of L = Uᵀ: (e_i − Σ_{k<i} L_ik row_k) / L_ii.
        for i in 0..size {
            let (above, below) = self.inverse.split_at_mut(i * size);
            let row = &mut below[..size];
            row[i] = T::from(1.0);
            for (k, above) in above.chunks_exact(size).enumerate() {
                subtract_scaled(&mut row[..=k], self.square[k * size + i], &above[..=k]);
            }
            let scale = T::from(1.0) / self.square[i * size + i];
            row[..=i].iter_mut().for_each(|x| *x = *x * scale);
        }
        Ok(())
    }
}

/// `to −= factor · from`.
#[inline(always)]
fn subtract_scaled<T: Real>(to: &mut [T], factor: T, from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *to - factor * *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;

    /// A positive definite matrix.
    fn matrix(size: usize) -> Array2<f64> {
        let x = Array2::from_shape_fn((size + 3, size), |(i, j)| {
            ((i * 31 + j * 17 + i * j) % 23) as f64 / 8.0 - 1.3
        });
        x.t().dot(&x) + Array2::<f64>::eye(size) * (0.05 * size as f64)
    }

    /// Runs tasks from the last to the first.
    struct Backwards;

    impl Parallel for Backwards {
        fn for_each(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
            (0..count).rev().for_each(task);
        }
    }

    fn check<T: Real + Into<f64>>(matrix: &Array2<f64>, factor: &Array2<T>, tolerance: f64) {
        let lower = Array2::from_shape_fn(factor.dim(), |(i, j)| {
            if j <= i { factor[[i, j]].into() } else { 0.0 }
        });
        let difference = matrix - &lower.dot(&lower.t());
        let worst = difference
            .iter()
            .fold(0.0, |worst: f64, x| worst.max(x.abs()));
        assert!(worst < tolerance * matrix[[0, 0]], "{worst}");
    }

    #[test]
    fn the_factor_times_its_transpose_is_the_matrix() {
        for size in [0, 1, 2, 31, 128, 129, 300, 517] {
            let matrix = matrix(size);
            // What is above the diagonal must not matter, and stay.
            let mut double = matrix.clone();
            for i in 0..size {
                double.slice_mut(s![i, i + 1..]).fill(f64::NAN);
            }
            let mut single = double.mapv(|x| x as f32);
            let mut again = single.clone();
            cholesky(&Serial, double.view_mut(), 0.0).unwrap();
            cholesky(&Serial, single.view_mut(), 0.0).unwrap();
            cholesky(&Backwards, again.view_mut(), 0.0).unwrap();
            if size > 0 {
                check(&matrix, &double, 1e-13);
                check(&matrix, &single, 1e-5);
            }
            for ((i, j), x) in single.indexed_iter() {
                assert_eq!(x.is_nan(), j > i);
                assert_eq!(x.to_bits(), again[[i, j]].to_bits());
            }
        }
    }

    #[test]
    fn pivots_that_are_too_small_are_found() {
        for row in [0, 5, 200] {
            let mut bad = matrix(300);
            bad[[row, row]] = -1.0;
            let found = cholesky(&Serial, bad.view_mut(), 0.0);
            assert_eq!(found, Err(NotDefinite { row }));
            let mut broken = matrix(300);
            broken[[row, row]] = f64::NAN;
            let found = cholesky(&Serial, broken.view_mut(), 0.0);
            assert_eq!(found, Err(NotDefinite { row }));
        }
        let pivot = matrix(1)[[0, 0]];
        assert!(cholesky(&Serial, matrix(1).view_mut(), pivot * 0.99).is_ok());
        assert!(cholesky(&Serial, matrix(1).view_mut(), pivot * 1.01).is_err());
    }
}
