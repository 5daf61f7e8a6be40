//! Rotary position embeddings: pairs of a head's elements, turned by an angle.

use super::norm::norm_row;
use super::simd::{Isa, Kernel, Level, Vector};

/// What is done to each head of a token's queries or keys before attention.
#[derive(Debug, Clone, Copy)]
pub struct HeadPass<'a> {
    /// Weight of the norm of each head and the ε in it.
    pub norm: Option<(&'a [f32], f32)>,
    /// Cosines and sines of the position's angles, one for each pair.
    pub turn: Option<(&'a [f32], &'a [f32])>,
}

/// Applies a pass to heads of `head_dim` elements that lie one after the other.
///
/// Pair `i` is the elements `i` and `i + head_dim / 2`, as in Hugging Face's weights.
///
/// # Panics
/// If there is no whole number of heads, or a table is too short.
pub fn pass_heads(heads: &mut [f32], head_dim: usize, pass: HeadPass<'_>) {
    assert!(heads.len().is_multiple_of(head_dim));
    if let Some((cos, sin)) = pass.turn {
        assert!(head_dim.is_multiple_of(2) && cos.len() == head_dim / 2 && sin.len() == cos.len());
    }
    Level::detect().dispatch(Heads {
        heads,
        head_dim,
        pass,
    });
}

struct Heads<'a> {
    heads: &'a mut [f32],
    head_dim: usize,
    pass: HeadPass<'a>,
}

impl Kernel for Heads<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for head in self.heads.chunks_exact_mut(self.head_dim) {
            if let Some((weight, epsilon)) = self.pass.norm {
                norm_row(isa, head, weight, epsilon);
            }
            if let Some((cos, sin)) = self.pass.turn {
                turn(isa, head, cos, sin);
            }
        }
    }
}

#[inline(always)]
fn turn<I: Isa>(isa: I, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    let whole = cos.len() - cos.len() % I::LANES;
    let mut i = 0;
    while i < whole {
        let (a, b) = (isa.load(&first[i..]), isa.load(&second[i..]));
        let (c, s) = (isa.load(&cos[i..]), isa.load(&sin[i..]));
        (a * c - b * s).store(&mut first[i..]);
        (b * c + a * s).store(&mut second[i..]);
        i += I::LANES;
    }
    for i in whole..cos.len() {
        let (a, b) = (first[i], second[i]);
        first[i] = a * cos[i] - b * sin[i];
        second[i] = b * cos[i] + a * sin[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_turned_and_keep_their_lengths() {
        for head_dim in [2, 6, 64, 80] {
            let pairs = head_dim / 2;
            let angle = |i: usize| i as f64 * 0.37 + 0.2;
            let cos: Vec<f32> = (0..pairs).map(|i| angle(i).cos() as f32).collect();
            let sin: Vec<f32> = (0..pairs).map(|i| angle(i).sin() as f32).collect();
            let heads: Vec<f32> = (0..3 * head_dim).map(|i| (i % 17) as f32 - 8.0).collect();
            let mut turned = heads.clone();
            let pass = HeadPass {
                norm: None,
                turn: Some((&cos, &sin)),
            };
            pass_heads(&mut turned, head_dim, pass);
            for (before, after) in heads.chunks(head_dim).zip(turned.chunks(head_dim)) {
                for i in 0..pairs {
                    let (a, b) = (f64::from(before[i]), f64::from(before[i + pairs]));
                    let (c, s) = (angle(i).cos(), angle(i).sin());
                    assert!((f64::from(after[i]) - (a * c - b * s)).abs() < 1e-5);
                    assert!((f64::from(after[i + pairs]) - (b * c + a * s)).abs() < 1e-5);
                }
            }
        }
    }

    #[test]
    fn the_norm_comes_before_the_turn() {
        let mut head = [3.0, 4.0];
        let pass = HeadPass {
            norm: Some((&[1.0, 2.0], 0.0)),
            turn: Some((&[0.0], &[1.0])),
        };
        pass_heads(&mut head, 2, pass);
        let norm = 12.5f32.sqrt();
        assert!((head[0] + 8.0 / norm).abs() < 1e-6 && (head[1] - 3.0 / norm).abs() < 1e-6);
    }
}
