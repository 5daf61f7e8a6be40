//! What the block tests and the benchmark share: test rows, and ggml loaded
//! from a shared library.

#![allow(dead_code)] // each user takes what it needs

pub mod ggml;
pub mod rows;
