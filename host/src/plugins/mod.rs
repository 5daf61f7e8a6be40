//! Finding and loading plugins.
//!
//! [`search`] knows the folders and their order, [`discovery`] reads what lies in them
//! without running any of it, [`Registry`] loads what a command needs.

mod discovery;
mod guarded;
mod registry;
mod search;

pub use discovery::{Found, State, discover};
pub use registry::{Plugin, Registry};
pub use search::{SearchFolder, search_folders};
