//! GGUF's block types without the rest of the plugin. Its tokenizers and benchmarks take minutes to compile for another
//! processor and do no arithmetic that could differ there.
#![cfg(feature = "emulated")]

#[path = "../../../plugins/gguf/src/blocks/mod.rs"]
pub mod blocks;
