//! The types that cross the boundary.
//!
//! Rules that keep old and new sides compatible:
//! * A struct here never changes: it crosses by value.
//! * A trait grows only after its `last_prefix_field`, by methods with a default
//!   body.
//! * What needs fields that come and go is a JSON document.

// abi_stable's macros (last released 2023) trip lints that are younger than they.
#![allow(
    missing_docs,
    non_local_definitions,
    clippy::undocumented_unsafe_blocks,
    clippy::too_many_arguments,
    clippy::needless_lifetimes
)]

use abi_stable::StableAbi;
use abi_stable::library::RootModule;
use abi_stable::sabi_trait;
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::{RArc, RBox, ROption, RResult, RSlice, RSliceMut, RStr, RString, RVec};

use crate::interface::ErrorKind;

/// An error; see [`crate::Error`].
#[repr(C)]
#[derive(Debug, Clone, StableAbi)]
pub struct RawError {
    /// [`crate::ErrorKind::code`].
    pub kind: u32,
    pub message: RString,
    pub suggestion: ROption<RString>,
}

/// The result of every call.
pub type RawResult<T> = RResult<T, RawError>;

/// See [`crate::TensorView`]. Rows lie `row_bytes` apart.
#[repr(C)]
#[derive(Debug, Clone, Copy, StableAbi)]
pub struct RawTensorView<'a> {
    /// [`crate::ElementType`] as a number.
    pub element: u32,
    pub rows: usize,
    pub cols: usize,
    pub row_bytes: usize,
    pub bytes: RSlice<'a, u8>,
}

/// See [`crate::StatisticView`].
#[repr(C)]
#[derive(Debug, Clone, Copy, StableAbi)]
pub struct RawStatisticView<'a> {
    pub rows: usize,
    pub cols: usize,
    pub data: RSlice<'a, f32>,
}

/// See [`crate::FileView`].
#[repr(C)]
#[derive(Debug, Clone, Copy, StableAbi)]
pub struct RawFileView<'a> {
    pub name: RStr<'a>,
    pub bytes: RSlice<'a, u8>,
}

/// See [`crate::Measure`].
#[repr(C)]
#[derive(Debug, Clone, StableAbi)]
pub struct RawMeasure {
    /// With a subject: the subject, a tab, and the name.
    pub name: RString,
    pub value: f64,
}

/// Where a tensor's bytes lie; see [`crate::Reader::stored`].
#[repr(C)]
#[derive(Debug, Clone, Copy, StableAbi)]
pub struct RawRange {
    pub file: usize,
    pub start: u64,
    pub end: u64,
}

/// See [`crate::AffineGroups`].
#[repr(C)]
#[derive(Debug, Clone, StableAbi)]
pub struct RawGroups {
    pub bits: u32,
    pub group_size: u32,
    pub codes: RVec<u8>,
    pub scales: RVec<f32>,
    pub zeros: RVec<f32>,
    pub permutation: ROption<RVec<u32>>,
}

/// One iteration of [`RawHost::parallel_for`].
#[sabi_trait]
pub trait RawTask: Sync {
    /// Runs iteration `index`. Never unwinds.
    #[sabi(last_prefix_field)]
    fn run(&self, index: usize);
}

/// See [`crate::HostServices`].
#[sabi_trait]
pub trait RawHost: Send + Sync {
    fn parallel_for(
        &self,
        count: usize,
        task: RawTask_TO<'_, abi_stable::sabi_types::RRef<'_, ()>>,
    );
    fn log(&self, level: u8, message: RStr<'_>);
    fn progress(&self, done: u64, total: u64);
    fn is_cancelled(&self) -> bool;
    #[sabi(last_prefix_field)]
    fn cpu_level(&self) -> u8;
}

/// See [`crate::Inputs`].
#[sabi_trait]
pub trait RawInputs {
    /// [`crate::ModelDescription`] as JSON.
    fn model(&self) -> RStr<'_>;
    fn file(&self, name: RStr<'_>) -> RawResult<ROption<RSlice<'_, u8>>>;
    #[sabi(last_prefix_field)]
    fn attachment(&self, kind: RStr<'_>) -> ROption<RawFileView<'_>>;
}

/// See [`crate::Quantizer`].
#[sabi_trait]
pub trait RawQuantizer: Send + Sync {
    /// A list of [`crate::FormatDescription`] as JSON.
    fn formats(&self) -> RawResult<RString>;
    /// The request is a [`crate::PlanRequest`] as JSON.
    #[sabi(last_prefix_field)]
    fn plan(&self, inputs: RawInputsRef<'_>, request: RStr<'_>) -> RawResult<RawJobBox>;
}

/// See [`crate::Job`].
#[sabi_trait]
pub trait RawJob: Send + Sync {
    /// [`crate::Plan`] as JSON.
    fn plan(&self) -> RawResult<RString>;
    fn blob(&self, index: usize) -> RSlice<'_, u8>;
    fn encode(
        &self,
        unit: usize,
        first_row: u64,
        end_row: u64,
        inputs: RSlice<'_, RawTensorView<'_>>,
        statistics: RSlice<'_, RawStatisticView<'_>>,
        outputs: RSliceMut<'_, RSliceMut<'_, u8>>,
    ) -> RawResult<RVec<RawMeasure>>;
    #[sabi(last_prefix_field)]
    fn verify(&self, files: RSlice<'_, RawFileView<'_>>) -> RawResult<()>;
    /// Since 1.1.
    fn decode(
        &self,
        unit: usize,
        input: usize,
        first_row: u64,
        end_row: u64,
        vectors: RSlice<'_, RawTensorView<'_>>,
        outputs: RSlice<'_, RSlice<'_, u8>>,
        out: RSliceMut<'_, f32>,
    ) -> RawResult<()> {
        let _ = (input, first_row, end_row, vectors, outputs, out);
        RResult::RErr(RawError {
            kind: ErrorKind::Internal.code(),
            message: format!("unit {unit} cannot be decoded: the plugin is too old").into(),
            suggestion: ROption::RNone,
        })
    }
}

/// See [`crate::Converter`].
#[sabi_trait]
pub trait RawConverter: Send + Sync {
    fn detect(&self, files: RSlice<'_, RawFileView<'_>>) -> bool;
    /// The view is a [`crate::ModelView`] as a number.
    #[sabi(last_prefix_field)]
    fn open(&self, files: RSlice<'_, RawFileView<'_>>, view: u32) -> RawResult<RawReaderBox>;
}

/// See [`crate::Reader`].
#[sabi_trait]
pub trait RawReader: Send + Sync {
    /// [`crate::ModelDescription`] as JSON.
    fn model(&self) -> RawResult<RString>;
    fn file(
        &self,
        files: RSlice<'_, RawFileView<'_>>,
        name: RStr<'_>,
    ) -> RawResult<ROption<RVec<u8>>>;
    fn decode(
        &self,
        files: RSlice<'_, RawFileView<'_>>,
        tensor: usize,
        first_row: u64,
        end_row: u64,
        out: RSliceMut<'_, f32>,
    ) -> RawResult<()>;
    fn stored(&self, tensor: usize) -> ROption<RawRange>;
    #[sabi(last_prefix_field)]
    fn groups(
        &self,
        files: RSlice<'_, RawFileView<'_>>,
        tensor: usize,
        first_row: u64,
        end_row: u64,
    ) -> RawResult<ROption<RawGroups>>;
}

pub type RawTaskRef<'a> = RawTask_TO<'a, abi_stable::sabi_types::RRef<'a, ()>>;
pub type RawHostArc = RawHost_TO<'static, RArc<()>>;
pub type RawInputsRef<'a> = RawInputs_TO<'a, abi_stable::sabi_types::RRef<'a, ()>>;
pub type RawQuantizerBox = RawQuantizer_TO<'static, RBox<()>>;
pub type RawJobBox = RawJob_TO<'static, RBox<()>>;
pub type RawConverterBox = RawConverter_TO<'static, RBox<()>>;
pub type RawReaderBox = RawReader_TO<'static, RBox<()>>;

/// The root of a plugin library.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef, prefix_fields = PluginModulePrefix)))]
pub struct PluginModule {
    pub new_quantizer: extern "C" fn(RawHostArc) -> RawResult<ROption<RawQuantizerBox>>,
    #[sabi(last_prefix_field)]
    pub new_converter: extern "C" fn(RawHostArc) -> RawResult<ROption<RawConverterBox>>,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}

    const BASE_NAME: &'static str = "llm_quantize_plugin";
    const NAME: &'static str = "llm-quantize plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
