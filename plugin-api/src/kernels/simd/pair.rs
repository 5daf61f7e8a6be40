//! Two vectors side by side.
//!
//! A chain of dependent operations leaves most of a core idle; two independent ones fill it.

use std::ops::{Add, BitAnd, BitOr, Div, Mul, Not, Sub};

use super::{Isa, Mask, Vector, array};
use crate::kernels::float16::Bytes;

/// An instruction set whose vectors are two of another one's.
#[derive(Debug, Clone, Copy)]
pub struct Pair<I>(pub I);

/// Two of something, computed side by side.
#[derive(Debug, Clone, Copy)]
pub struct Two<T>(T, T);

impl<I: Isa> Isa for Pair<I> {
    type F32 = Two<I::F32>;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        Two(self.0.splat(value), self.0.splat(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32]) -> Self::F32 {
        let (a, b) = values.split_at(I::LANES);
        Two(self.0.load(a), self.0.load(b))
    }

    #[inline(always)]
    fn load_i8(self, bytes: &[u8]) -> Self::F32 {
        let (a, b) = bytes.split_at(I::LANES);
        Two(self.0.load_i8(a), self.0.load_i8(b))
    }

    #[inline(always)]
    fn load_f16(self, stored: &[Bytes]) -> Self::F32 {
        let (a, b) = stored.split_at(I::LANES);
        Two(self.0.load_f16(a), self.0.load_f16(b))
    }

    #[inline(always)]
    fn load_bf16(self, stored: &[Bytes]) -> Self::F32 {
        let (a, b) = stored.split_at(I::LANES);
        Two(self.0.load_bf16(a), self.0.load_bf16(b))
    }

    #[inline(always)]
    fn transpose<const S: usize>(self, rows: &[[f32; S]]) -> [Self::F32; S] {
        let (a, b) = rows.split_at(rows.len().min(I::LANES));
        let (a, b) = (self.0.transpose(a), self.0.transpose(b));
        array(|i| Two(a[i], b[i]))
    }
}

impl<V: Vector> Vector for Two<V> {
    type Mask = Two<V::Mask>;

    const LANES: usize = 2 * V::LANES;

    #[inline(always)]
    fn store(self, out: &mut [f32]) {
        let (a, b) = out.split_at_mut(V::LANES);
        self.0.store(a);
        self.1.store(b);
    }

    #[inline(always)]
    fn store_f16(self, out: &mut [Bytes]) {
        let (a, b) = out.split_at_mut(V::LANES);
        self.0.store_f16(a);
        self.1.store_f16(b);
    }

    #[inline(always)]
    fn store_bf16(self, out: &mut [Bytes]) {
        let (a, b) = out.split_at_mut(V::LANES);
        self.0.store_bf16(a);
        self.1.store_bf16(b);
    }

    #[inline(always)]
    fn store_bytes(self, out: &mut [u8]) {
        let (a, b) = out.split_at_mut(V::LANES);
        self.0.store_bytes(a);
        self.1.store_bytes(b);
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        Self(self.0.larger(other.0), self.1.larger(other.1))
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        Self(self.0.smaller(other.0), self.1.smaller(other.1))
    }

    #[inline(always)]
    fn lt(self, other: Self) -> Self::Mask {
        Two(self.0.lt(other.0), self.1.lt(other.1))
    }

    #[inline(always)]
    fn eq(self, other: Self) -> Self::Mask {
        Two(self.0.eq(other.0), self.1.eq(other.1))
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(
            V::select(mask.0, yes.0, no.0),
            V::select(mask.1, yes.1, no.1),
        )
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.round(), self.1.round())
    }

    #[inline(always)]
    fn round_wrapping(self) -> Self {
        Self(self.0.round_wrapping(), self.1.round_wrapping())
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self(self.0.power_of_two(), self.1.power_of_two())
    }

    #[inline(always)]
    fn sum_lanes(self) -> f32 {
        (self.0 + self.1).sum_lanes()
    }

    #[inline(always)]
    fn max_lane(self) -> f32 {
        self.0.larger(self.1).max_lane()
    }

    #[inline(always)]
    fn min_lane(self) -> f32 {
        self.0.smaller(self.1).min_lane()
    }
}

impl<M: Mask> Mask for Two<M> {
    #[inline(always)]
    fn any(self) -> bool {
        (self.0 | self.1).any()
    }
}

macro_rules! lane_by_lane {
    ($($operator:ident $method:ident;)*) => {$(
        impl<T: $operator<Output = T>> $operator for Two<T> {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(self.0.$method(other.0), self.1.$method(other.1))
            }
        }
    )*};
}

lane_by_lane! {
    Add add;
    Sub sub;
    Mul mul;
    Div div;
    BitAnd bitand;
    BitOr bitor;
}

impl<T: Not<Output = T>> Not for Two<T> {
    type Output = Self;

    #[inline(always)]
    fn not(self) -> Self {
        Self(!self.0, !self.1)
    }
}
