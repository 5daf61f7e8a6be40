//! Repacking: from the groups of one format to those of another, without rounding codes anew.
//!
//! A weight in groups is `scale · (code - zero)`. Formats differ in the bits of a code, the size
//! of a group, and what they can say of a zero: nothing (it is in the middle of the codes), a
//! whole number, or an offset in half precision instead of it. So what another format can hold
//! depends on the numbers themselves.
//!
//! 1. The host goes through the groups of a weight once ([`Survey`]) and tells the plugin what it
//!    found ([`GroupFacts`](crate::GroupFacts)).
//! 2. The plugin asks for each of its ways to store a weight how well the groups [fit](fit).
//! 3. When it encodes, it gets the groups ([`Grouped`]) and arranges them in its way.

mod fit;
mod grouped;
mod survey;

pub use fit::{Fit, Zeros};
pub use grouped::{Grouped, VIEWS};
pub use survey::Survey;
