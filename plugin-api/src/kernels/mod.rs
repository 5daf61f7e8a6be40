//! Numeric code that formats share.

pub mod activation;
pub mod bits;
#[cfg(feature = "products")]
pub mod cholesky;
pub mod convert;
pub mod divergence;
pub mod exp;
pub mod float16;
#[cfg(feature = "products")]
pub mod gram;
pub mod grouped;
pub mod moments;
pub mod norm;
mod parallel;
#[cfg(feature = "products")]
pub mod product;
pub mod rotary;
pub mod simd;
pub mod softmax;

pub use parallel::{Parallel, Serial, hand_out, try_hand_out};
