//! Conversions that the host does itself.

pub mod hf;
