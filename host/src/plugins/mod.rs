//! Finding, trusting and loading plugins.
//!
//! [`search`] knows the folders and their order, [`discovery`] reads what lies in them
//! without running any of it: it asks [`trust`] who could have put a library there and
//! [`config`] whether the user pinned another one. Before a library's code runs in this
//! process for the first time, [`probe`] tries it in another one; [`verdicts`] remembers
//! what came of that. [`Registry`] loads what a command needs; [`examine`] has all that
//! can be said about one file.

mod config;
mod discovery;
pub mod examine;
mod guarded;
pub mod probe;
mod registry;
mod search;
mod trust;
mod verdicts;

pub use discovery::{Found, State};
pub use registry::{Plugin, Registry};
pub use search::SearchFolder;
pub use trust::describe as describe_permissions;
pub use verdicts::{Entry, Verdict};
