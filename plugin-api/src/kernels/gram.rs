//! Gram matrices: products of a matrix's columns with each other.

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::parallel::{Parallel, hand_out};
#[cfg(target_arch = "x86_64")]
use super::product::tiled::Tiled;
use super::product::{Before, Tile, cuts, multiply, tiles};

/// Columns of a tile, at most. Packing costs less in larger tiles.
const TILE: usize = 256;

/// `G += XᵀX` on and above the diagonal, for a matrix of rows × columns; what is below the
/// diagonal is undefined until [`mirror`].
///
/// # Panics
/// If the shapes do not fit.
pub fn add_gram(parallel: &dyn Parallel, x: ArrayView2<'_, f32>, gram: ArrayViewMut2<'_, f32>) {
    assert_eq!(gram.dim(), (x.ncols(), x.ncols()), "sizes of a Gram matrix");
    #[cfg(target_arch = "x86_64")]
    if let Some(tiled) = Tiled::for_product(x.ncols(), x.ncols(), x.nrows()) {
        return tiled.add_gram(parallel, x, gram);
    }
    let cuts = cuts(x.ncols(), TILE);
    let mut tiles = tiles(gram, &cuts, &cuts);
    tiles.retain(|tile| tile.row <= tile.column);
    let tiles: Vec<Tile<'_>> = tiles.into_iter().flat_map(above_diagonal).collect();
    hand_out(parallel, tiles, |_, tile| {
        let (rows, columns) = tile.view.dim();
        let left = x.slice(s![.., tile.row..tile.row + rows]);
        let right = x.slice(s![.., tile.column..tile.column + columns]);
        multiply(left.reversed_axes(), right, 1.0, Before::Add, tile.view);
    });
}

/// A tile on the diagonal without the quarter that lies below; any other as it is.
fn above_diagonal(tile: Tile<'_>) -> Vec<Tile<'_>> {
    let Tile { row, column, view } = tile;
    let half = view.ncols() / 2;
    if row != column || half == 0 {
        return vec![Tile { row, column, view }];
    }
    let halves = [half, view.ncols() - half];
    let mut quarters = tiles(view, &halves, &halves);
    quarters.retain(|quarter| quarter.row <= quarter.column);
    for quarter in &mut quarters {
        quarter.row += row;
        quarter.column += column;
    }
    quarters
}

/// Copies what is above the diagonal to below it.
///
/// # Panics
/// If the matrix is not square.
pub fn mirror(mut gram: ArrayViewMut2<'_, f32>) {
    assert!(gram.is_square(), "a Gram matrix is square");
    // Square by square, as one side is read across its rows.
    const SQUARE: usize = 32;
    let size = gram.nrows();
    for top in (0..size).step_by(SQUARE) {
        for left in (0..=top).step_by(SQUARE) {
            for row in top..(top + SQUARE).min(size) {
                for column in left..(left + SQUARE).min(row) {
                    gram[[row, column]] = gram[[column, row]];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use ndarray::Array2;

    #[test]
    fn sums_over_several_batches() {
        for (rows, columns) in [(3, 1), (40, 70), (20, 1100)] {
            let x = Array2::from_shape_fn((rows, columns), |(r, c)| {
                ((r * 31 + c * 17) % 23) as f32 - 11.0
            });
            let mut gram = Array2::zeros((columns, columns));
            add_gram(&Serial, x.view(), gram.view_mut());
            add_gram(&Serial, x.view(), gram.view_mut());
            mirror(gram.view_mut());
            for ((i, j), sum) in gram.indexed_iter() {
                let exact: f32 = (0..rows).map(|r| x[[r, i]] * x[[r, j]]).sum();
                assert_eq!(*sum, 2.0 * exact, "{i} {j}");
            }
        }
    }
}
