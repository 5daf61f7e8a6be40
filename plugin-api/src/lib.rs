//! The stable plugin interface of llm-quantize: for authors of formats, and for hosts.
//!
//! A plugin is a shared library (`cdylib`) that turns models into a format
//! ([`Quantizer`]), reads them back ([`Converter`]), or both. **It is pure computation
//! between buffers that the host owns**: it never opens a file, starts a thread, prints
//! or exits.
//!
//! 1. *Plan*: the plugin gets the model's description ([`Inputs`]) and the user's
//!    request ([`PlanRequest`]) and answers with a [`Plan`]: files with exact sizes, what
//!    lies where in them, and the units of work.
//! 2. *Encode*: for each unit, or some of its rows, it gets views of the source and
//!    writes into the output ([`Job::encode`]). Many threads call at once.
//! 3. *Verify*: it reads the finished files back ([`Job::verify`]).
//!
//! Everything in [`interface`] is safe Rust. [`export_plugin!`] does the rest: it wraps
//! your types for the stable ABI ([`abi`]), turns panics into errors and embeds the
//! plugin's identity ([`metadata`]) so that a host can read it without running code.
//! Plugins and hosts of one major [`INTERFACE_VERSION`] work together, whichever is older.
//!
//! # Statistics
//!
//! A format that should know which inputs of a layer matter says so in its description
//! ([`CalibrationUse`]). Its units then ask for statistics of the inputs of linear layers
//! ([`Unit::statistics`]), by the weights' Hugging Face names: sums and means, XᵀX, a sample of
//! rows. The host runs the model on the user's text, block by block, and hands them to
//! [`Job::encode`]. A format whose outputs are not models but what such a run found out
//! ([`Purpose::Analysis`]) has units without inputs.
//!
//! # A complete plugin
//!
//! `Cargo.toml`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [dependencies]
//! llm-quantize-plugin-api = "1.2"
//! serde_json = "1"
//! ```
//!
//! `src/lib.rs`:
//!
//! ```no_run
#![doc = include_str!("../examples/absmax8.rs")]
//! # fn main() {}
//! ```
//!
//! Build it, point the host at it with `--plugin-dir`, and
//! `llm-quantize quantize MODEL absmax8 -q INT8` works.
//!
//! # Testing a plugin
//!
//! [`testing`] has a model in memory and a job engine in miniature; [`conformance`]
//! checks what every plugin must do.

pub mod abi;
pub mod conformance;
mod export;
pub mod hf_config;
pub mod hf_folder;
pub mod interface;
pub mod json;
pub mod kernels;
pub mod metadata;
pub mod regroup;
pub mod testing;
mod version;

pub use interface::*;
pub use version::{INTERFACE_VERSION, parse_interface_version};
