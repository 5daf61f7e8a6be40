//! The GPTQ plugin: 2, 3, 4 and 8-bit folders for vLLM, transformers, GPTQModel and ExLlama.
//!
//! * [`solver`]: from a weight and the Gram matrix of its inputs to codes, scales and zeros.

pub mod solver;
