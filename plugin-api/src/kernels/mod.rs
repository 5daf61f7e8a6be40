//! Numeric kernels that formats share, each with a scalar reference.

pub mod convert;
