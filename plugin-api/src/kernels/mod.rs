//! Numeric code that formats share.

pub mod convert;
pub mod float16;
pub mod simd;
