//! The plugin's tests of its block types. They know the types by the plugin's name.
#![allow(missing_docs)]

extern crate llm_quantize_emulation as llm_quantize_gguf;

#[path = "../../../plugins/gguf/tests/blocks_golden.rs"]
mod blocks_golden;
#[path = "../../../plugins/gguf/tests/blocks_properties.rs"]
mod blocks_properties;
