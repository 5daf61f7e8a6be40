//! Conversions: what can be taken over of quantized weights, and by which routes it comes.

pub mod hf;
pub mod routes;
pub mod survey;
