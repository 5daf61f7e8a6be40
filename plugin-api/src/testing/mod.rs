//! Helps authors test a plugin in its own process, without a host.

mod build;
mod model;
mod statistics;

pub use build::{BuiltFile, build, decode, views};
pub use model::TestModel;
