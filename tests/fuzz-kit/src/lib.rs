//! What the crates with fuzz targets share. There are several, because a program can hold the root
//! module of one plugin only: `tests/fuzz` has the host's readers and those for GGUF, and every
//! other plugin has a folder `fuzz` of its own.

// What cannot be had here is a finding.
#![allow(clippy::expect_used)]

pub mod bundle;
pub mod check;
mod look;
pub mod mutate;
mod plan;
pub mod tiny;

pub use look::look_at;
pub use plan::{MemoryModel, plan, tensors};

use llm_quantize_plugin_api::{Host, InlineHost};

/// A reader's name, which is that of its fuzz target and of its folder of seeds, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// A seed: the reader it is for, its file name and content.
pub type Seed = (&'static str, &'static str, Vec<u8>);

/// A host that does everything on the caller's thread.
pub fn host() -> Host {
    Host::new(InlineHost)
}
