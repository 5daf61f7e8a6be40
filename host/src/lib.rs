//! The llm-quantize host: files, threads, memory, progress and the command line.
//!
//! The host never parses or writes a format's bytes; that is what plugins are for.

pub mod calibrate;
pub mod cli;
pub mod convert;
pub mod demo;
pub mod error;
pub mod fatal;
pub mod forward;
pub mod graph;
pub mod hub;
pub mod info;
pub mod job;
pub mod output;
pub mod plugins;
pub mod quality;
pub mod source;
pub mod system;
pub mod text;

pub use error::{Error, ExitCode, Result};
