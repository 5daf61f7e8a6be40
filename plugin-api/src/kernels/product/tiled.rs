//! Large products on tiles.

use ndarray::{ArrayView2, ArrayViewMut2, s};

use super::amx::{Amx, BLOCK, Sums, Tiles};
use super::halves::{Packed, Side};
use super::{Before, Tile, cuts, tiles};
use crate::kernels::{Parallel, Serial, hand_out};

/// The least size in each direction that is worth packing.
const LEAST: usize = 128;
/// Rows and columns of a task.
const TASK: usize = 512;
/// Steps whose numbers of a block's rows stay in the first cache.
const STEPS: usize = 8;

/// Products on this machine's tiles.
#[derive(Debug, Clone, Copy)]
pub struct Tiled(Amx);

impl Tiled {
    /// If there are tiles, and a product of `rows × columns` sums over `inner` products is large.
    pub fn for_product(rows: usize, columns: usize, inner: usize) -> Option<Self> {
        let large = [rows, columns, inner].iter().all(|size| *size >= LEAST);
        large.then(Amx::detect).flatten().map(Self)
    }

    /// [`linear`](super::linear), whose shapes were checked.
    pub fn linear(
        self,
        parallel: &dyn Parallel,
        x: ArrayView2<'_, f32>,
        weight: ArrayView2<'_, f32>,
        bias: Option<&[f32]>,
        before: Before,
        y: ArrayViewMut2<'_, f32>,
    ) {
        let left = Packed::rows(parallel, x, Side::Left);
        let right = Packed::rows(parallel, weight, Side::Right);
        let tiles = tiles(y, &cuts(x.nrows(), TASK), &cuts(weight.nrows(), TASK));
        hand_out(parallel, tiles, |_, mut tile| {
            self.tile(&left, &right, before, &mut tile);
            tile.add_bias(bias);
        });
    }

    /// [`add_gram`](crate::kernels::gram::add_gram), whose shapes were checked.
    pub fn add_gram(
        self,
        parallel: &dyn Parallel,
        x: ArrayView2<'_, f32>,
        gram: ArrayViewMut2<'_, f32>,
    ) {
        let left = Packed::columns(parallel, x, Side::Left);
        let right = Packed::columns(parallel, x, Side::Right);
        let cuts = cuts(x.ncols(), TASK / 2);
        let mut tiles = tiles(gram, &cuts, &cuts);
        tiles.retain(|tile| tile.row <= tile.column);
        hand_out(parallel, tiles, |_, mut tile| {
            self.tile(&left, &right, Before::Add, &mut tile);
        });
    }

    /// A tile of a result.
    fn tile(self, left: &Packed, right: &Packed, before: Before, tile: &mut Tile<'_>) {
        self.0
            .with_tiles(|tiles| add_up(tiles, left, right, before, tile));
    }
}

/// The right side of many products.
pub struct Prepared {
    tiled: Tiled,
    right: Packed,
}

impl Prepared {
    /// If there are tiles, and the matrix is large.
    pub fn new(parallel: &dyn Parallel, matrix: ArrayView2<'_, f32>) -> Option<Self> {
        let tiled = Tiled::for_product(LEAST, matrix.nrows(), matrix.ncols())?;
        let right = Packed::rows(parallel, matrix, Side::Right);
        Some(Self { tiled, right })
    }

    /// [`linear`](super::Prepared::linear), whose shapes were checked.
    pub fn linear(&self, x: ArrayView2<'_, f32>, y: ArrayViewMut2<'_, f32>) {
        let left = Packed::rows(&Serial, x, Side::Left);
        let (rows, columns) = (cuts(x.nrows(), TASK), cuts(y.ncols(), TASK));
        for mut tile in tiles(y, &rows, &columns) {
            let Self { tiled, right } = self;
            tiled.tile(&left, right, Before::Forget, &mut tile);
        }
    }
}

/// A tile of a result, on the tiles of this thread.
fn add_up(tiles: &mut Tiles, left: &Packed, right: &Packed, before: Before, tile: &mut Tile<'_>) {
    let mut sums = Sums([[0.0; BLOCK]; BLOCK]);
    let (rows, columns) = tile.view.dim();
    for from in (0..left.steps()).step_by(STEPS) {
        let steps = from..(from + STEPS).min(left.steps());
        let adds = before == Before::Add || from > 0;
        for row in (0..rows).step_by(BLOCK) {
            let a = left.block((tile.row + row) / BLOCK, steps.clone());
            for column in (0..columns).step_by(BLOCK) {
                let b = right.block((tile.column + column) / BLOCK, steps.clone());
                tiles.multiply(a, b, &mut sums);
                let (bottom, end) = ((row + BLOCK).min(rows), (column + BLOCK).min(columns));
                let part = tile.view.slice_mut(s![row..bottom, column..end]);
                put(&sums, adds, part);
            }
        }
    }
}

/// Writes sums into a result, or adds them to it.
fn put(sums: &Sums, adds: bool, mut part: ArrayViewMut2<'_, f32>) {
    for (mut row, sums) in part.outer_iter_mut().zip(&sums.0) {
        match row.as_slice_mut() {
            Some(row) => put_row(row.iter_mut(), sums, adds),
            None => put_row(row.iter_mut(), sums, adds),
        }
    }
}

#[inline(always)]
fn put_row<'y>(row: impl Iterator<Item = &'y mut f32>, sums: &[f32; BLOCK], adds: bool) {
    let sums = row.zip(sums);
    match adds {
        true => sums.for_each(|(y, sum)| *y += sum),
        false => sums.for_each(|(y, sum)| *y = *sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Serial;
    use ndarray::Array2;

    fn numbers(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
        let mut state = seed;
        Array2::from_shape_fn((rows, columns), |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8e6 - 1.0
        })
    }

    fn largest(found: &Array2<f32>, exact: &Array2<f64>) -> f64 {
        let pairs = found.iter().zip(exact);
        let scale = exact.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        pairs.fold(0.0f64, |most, (a, b)| most.max((f64::from(*a) - b).abs())) / scale
    }

    #[test]
    fn products_are_nearly_those_of_single_precision() {
        let Some(tiled) = Amx::detect().map(Tiled) else {
            return;
        };
        for (tokens, inputs, outputs) in [(128, 128, 128), (1, 1, 1), (33, 65, 47), (600, 300, 530)]
        {
            let (x, w) = (numbers(tokens, inputs, 1), numbers(outputs, inputs, 5));
            let product = x.mapv(f64::from).dot(&w.t().mapv(f64::from));
            let bias: Vec<f32> = (0..outputs).map(|i| i as f32 / 100.0).collect();
            for (bias, before) in [(None, Before::Forget), (Some(&bias[..]), Before::Add)] {
                let mut y = numbers(tokens, outputs, 9);
                let mut exact = product.clone();
                if before == Before::Add {
                    exact += &y.mapv(f64::from);
                }
                if let Some(bias) = bias {
                    exact += &ndarray::aview1(bias).mapv(f64::from);
                }
                tiled.linear(&Serial, x.view(), w.view(), bias, before, y.view_mut());
                assert!(largest(&y, &exact) < 2e-5, "{}", largest(&y, &exact));
            }
        }
    }

    #[test]
    fn gram_matrices_are_nearly_those_of_single_precision() {
        let Some(tiled) = Amx::detect().map(Tiled) else {
            return;
        };
        for (rows, columns) in [(3, 1), (129, 300), (200, 70)] {
            let x = numbers(rows, columns, 3);
            let wide = x.mapv(f64::from);
            let mut gram = Array2::zeros((columns, columns));
            tiled.add_gram(&Serial, x.view(), gram.view_mut());
            crate::kernels::gram::mirror(gram.view_mut());
            let exact = wide.t().dot(&wide);
            assert!(largest(&gram, &exact) < 2e-5, "{}", largest(&gram, &exact));
        }
    }
}
