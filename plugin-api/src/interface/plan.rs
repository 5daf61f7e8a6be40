//! The plan: everything about an output that is known before its first byte.
//!
//! A plan is pure data. From it the host knows every file's exact size (so it can
//! check the disk and lay the files out), what to read for each piece of work and
//! where the result goes. The same model and request must always give the same
//! plan: an interrupted job is resumed by planning again.

use serde::{Deserialize, Serialize};

/// The answer to a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Canonical name of the level.
    pub level: String,
    /// Whether the output is loose files or one folder.
    pub container: Container,
    /// The files, with exact sizes. The first one is the output's main file.
    pub files: Vec<OutputFile>,
    /// Bytes that the plugin has ready (headers, small constant tensors).
    pub literals: Vec<Literal>,
    /// The work.
    pub units: Vec<Unit>,
    /// The encoded tensors, for `--dry-run` and for reports.
    pub tensors: Vec<PlannedTensor>,
    /// What statistics the units need, if any.
    #[serde(default)]
    pub calibration: Option<CalibrationPlan>,
    /// What the user should know before the work starts: fallbacks, loaders that
    /// will refuse the choice.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Plan {
    /// Sum of the files' sizes; `None` if it overflows.
    pub fn total_bytes(&self) -> Option<u64> {
        self.files
            .iter()
            .try_fold(0u64, |sum, file| sum.checked_add(file.size))
    }
}

/// What the output looks like in the output folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Container {
    /// The files lie in the output folder itself.
    #[default]
    Files,
    /// The files lie in a folder of this name.
    Folder(String),
}

/// One file of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// File name, without any path separator.
    pub name: String,
    /// Exact size in bytes.
    pub size: u64,
    /// Where the content comes from.
    #[serde(default)]
    pub content: FileContent,
}

/// Where a file's content comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileContent {
    /// From literals and units; what none of them covers is zero.
    #[default]
    Built,
    /// A copy of this file of the source ([`super::Inputs::file`]).
    CopyOf(String),
}

/// Bytes that the plugin has ready; [`super::Job::blob`] gives them out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Literal {
    /// Place of the file in [`Plan::files`].
    pub file: usize,
    /// Where it starts in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
    /// Number to ask [`super::Job::blob`] for.
    pub blob: usize,
}

/// One piece of work: some inputs become some ranges of the output.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// For people: usually the name of the tensor or of the block.
    pub label: String,
    /// The model's layer it belongs to, for progress.
    #[serde(default)]
    pub layer: Option<u32>,
    /// What it reads.
    pub inputs: Vec<UnitInput>,
    /// What it writes. No two spans of a plan overlap.
    pub outputs: Vec<Span>,
    /// Set if the unit can be encoded in pieces of rows, by several threads.
    /// Otherwise it is encoded by one call, which may use the host's threads
    /// through [`super::Host::parallel_for`].
    #[serde(default)]
    pub split: Option<RowSplit>,
    /// Calibration statistics it needs; they come in this order.
    #[serde(default)]
    pub statistics: Vec<StatisticRequest>,
    /// Memory that one `encode` call allocates: for a split unit per row, else in
    /// all. The host plans its memory with it.
    #[serde(default)]
    pub scratch_bytes: u64,
}

/// A tensor that a unit reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitInput {
    /// Place in [`super::ModelDescription::tensors`].
    pub tensor: usize,
    /// Give the stored bytes instead of numbers (only in a native view).
    #[serde(default)]
    pub raw: bool,
    /// In a split unit: give every piece the whole tensor, not the piece's rows.
    #[serde(default)]
    pub whole: bool,
    /// Give the groups of a weight that has some ([`ModelDescription::groups`]) instead of its
    /// numbers, as three views: the codes, a byte each ([`ElementType::Raw`]); the scales and the
    /// zeros of each row's groups, in single precision. Since 1.2.
    ///
    /// [`ModelDescription::groups`]: super::ModelDescription::groups
    /// [`ElementType::Raw`]: super::ElementType::Raw
    #[serde(default)]
    pub groups: bool,
}

impl UnitInput {
    /// The numbers of a tensor, row by row.
    pub fn rows_of(tensor: usize) -> Self {
        Self {
            tensor,
            raw: false,
            whole: false,
            groups: false,
        }
    }

    /// The groups of a weight, row by row.
    pub fn groups_of(tensor: usize) -> Self {
        Self {
            groups: true,
            ..Self::rows_of(tensor)
        }
    }
}

/// How a unit can be cut into pieces of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSplit {
    /// Rows of the unit; each input that is not `whole` has as many, and each
    /// output's length is a multiple of them.
    pub rows: u64,
    /// Pieces start at multiples of this and, but for the last, have a multiple of
    /// it as their length (e.g. the rows of a head that are permuted together).
    pub step: u64,
}

/// A range of an output file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Place of the file in [`Plan::files`].
    pub file: usize,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// One tensor of the output, for people.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PlannedTensor {
    /// Name in the output.
    pub name: String,
    /// Stored type in the format's own words, e.g. `Q4_K`.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Bytes in the output.
    pub bytes: u64,
    /// Why it is not of the type that the level asks for, if so.
    #[serde(default)]
    pub note: Option<String>,
    /// How the source's quantized numbers come here; `None` where they are not quantized. Since
    /// 1.2.
    #[serde(default)]
    pub route: Option<Route>,
}

/// How quantized numbers come into another format.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Repacked: the stored values are the same numbers.
    Exact,
    /// Repacked, with scales or zeros rounded.
    NearExact {
        /// The largest change of a weight, relative to the largest weight of its group.
        change: f64,
    },
    /// Written as plain numbers of 16 or 32 bits, to which they are rounded.
    Decoded,
    /// Rounded to codes anew.
    Requantized,
}

/// How the calibration run must proceed for this plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibrationPlan {
    /// What is quantized between two stops of the forward pass.
    pub grain: Grain,
    /// Whose outputs the following layers see.
    pub flow: Flow,
}

/// What a plugin quantizes between two stops of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grain {
    /// The linear layers that share an input ("true sequential").
    Stage,
    /// A whole transformer block.
    Block,
}

/// Whose outputs flow on to the next layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// The original model's.
    Original,
    /// Those of the layers that are already quantized: the layers of units that asked for
    /// statistics are [decoded](super::Job::decode) before any token passes them.
    Quantized,
}

/// One statistic of the inputs of a linear layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatisticRequest {
    /// Hugging Face name of the weight whose inputs are meant, whatever the view.
    pub site: String,
    /// Which statistic.
    pub statistic: Statistic,
}

/// A statistic over the tokens that reach a linear layer with `K` inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistic {
    /// Mean of x² for each channel: `1 × K`.
    SecondMoment,
    /// Sum of x² over all tokens for each channel: `1 × K`.
    SquareSum,
    /// Mean of |x| for each channel: `1 × K`.
    MeanMagnitude,
    /// XᵀX: `K × K`, symmetric, both halves filled.
    Gram,
    /// A seeded sample of input rows: `count × K`.
    Rows {
        /// Rows wanted; there may be fewer.
        count: u32,
    },
    /// Tokens seen: `1 × 1`.
    TokenCount,
}
