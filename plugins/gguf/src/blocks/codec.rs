//! What a block type has to say about itself, and how its code gets to run on the best
//! instruction set.

use std::marker::PhantomData;

use llm_quantize_plugin_api::kernels::simd::{Isa, Kernel, Level};

use super::TypeLayout;
use super::validate::Check;

/// A block type's encoder and decoder.
///
/// Lengths are checked before either is called: rows are whole blocks and bytes fit them. Both
/// functions are `#[inline(always)]`, and so is all they call, because they are compiled for each
/// instruction set.
pub(super) trait Codec {
    /// ggml's name, id and sizes.
    const LAYOUT: TypeLayout;

    /// Where a block keeps numbers that may not be infinite or NaN.
    const CHECK: Check;

    /// Writes the blocks of a row of finite weights. `importance` has the row's length.
    fn encode<I: Isa>(isa: I, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

    /// Reads the weights of blocks.
    fn decode<I: Isa>(isa: I, bytes: &[u8], out: &mut [f32]);
}

/// [`Codec::encode`] on a level of instructions.
pub(super) fn encode<C: Codec>(
    level: Level,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    level.dispatch(Encode {
        codec: PhantomData::<C>,
        row,
        importance,
        out,
    });
}

/// [`Codec::decode`] on a level of instructions.
pub(super) fn decode<C: Codec>(level: Level, bytes: &[u8], out: &mut [f32]) {
    level.dispatch(Decode {
        codec: PhantomData::<C>,
        bytes,
        out,
    });
}

struct Encode<'a, C> {
    codec: PhantomData<C>,
    row: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
}

impl<C: Codec> Kernel for Encode<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        C::encode(isa, self.row, self.importance, self.out);
    }
}

struct Decode<'a, C> {
    codec: PhantomData<C>,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

impl<C: Codec> Kernel for Decode<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        C::decode(isa, self.bytes, self.out);
    }
}

/// Whether no value is NaN or infinite.
pub(super) fn all_finite(level: Level, values: &[f32]) -> bool {
    level.dispatch(AllFinite(values))
}

struct AllFinite<'a>(&'a [f32]);

impl Kernel for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> bool {
        super::float::all_finite(self.0)
    }
}
