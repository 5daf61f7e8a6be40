//! Numeric code that formats share.

pub mod convert;
pub mod simd;
