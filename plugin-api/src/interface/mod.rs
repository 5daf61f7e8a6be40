//! The interface in safe Rust: what a plugin implements and what it is given.
//!
//! These traits stand on both sides of the boundary. A plugin implements them; the
//! host gets objects that implement them too and forward each call through
//! [`crate::abi`]. The host's own formats implement them directly.

mod error;
mod format;
mod groups;
mod model;
mod plan;
mod plan_check;
mod plan_flow;
mod services;
mod traits;
mod views;

pub use error::{Error, ErrorKind, Result};
pub use format::{
    CalibrationText, CalibrationUse, FormatDescription, LevelInfo, OptionInfo, OptionType,
    PlanRequest, Purpose, Repacking, Routing, parse_size,
};
pub use groups::{AffineGroups, GroupFacts};
pub use model::{ElementType, Fold, ModelDescription, ModelView, Site, TensorInfo};
pub use plan::{
    CalibrationPlan, Container, FileContent, Flow, Grain, Literal, OutputFile, Plan, PlannedTensor,
    Route, RowSplit, Span, Statistic, StatisticRequest, Unit, UnitInput,
};
pub use plan_check::check_plan;
pub use plan_flow::FlowingLayer;
pub(crate) use services::guarded;
pub use services::{CpuLevel, Host, HostServices, InlineHost, LogLevel};
pub use traits::{Converter, Inputs, Job, Quantizer, Reader};
pub use views::{
    DecodeCall, EncodeCall, EncodeReport, FileView, Measure, StatisticView, TensorView,
};
