//! The stable ABI: the only place that knows abi_stable.
//!
//! Layers, from the wire up:
//!
//! * [`raw`] has the types that cross: trait objects, slices, one error struct.
//!   Documents that must be able to grow (model, request, plan, format
//!   description) cross as JSON text; buffers cross as slices.
//! * [`wire`] turns the interface's types into raw ones and back.
//! * [`export`] (the plugin's side) wraps a plugin's objects for the host and
//!   catches every panic.
//! * [`import`] (the host's side) makes raw objects look like the interface again.
//! * [`layout`] decides whether two sides of different age understand each other.

pub mod export;
pub mod import;
pub mod layout;
#[cfg(feature = "host")]
pub mod load;
pub mod raw;
mod wire;

#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use abi_stable;
