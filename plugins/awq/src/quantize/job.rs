//! A planned folder: encodes its units, decodes them again, and verifies the result.

use llm_quantize_plugin_api::hf_folder::copy_rows;
use llm_quantize_plugin_api::{
    ElementType, EncodeCall, EncodeReport, Error, FileView, Host, Job, Plan, Result,
};

use super::layers::Layer;
use super::options::Wishes;
use super::{encode, repack, verify};

/// What a unit of the plan does.
pub enum Role {
    /// Writes a tensor as plain numbers.
    Copy(ElementType),
    /// Quantizes the layers of a block.
    Block(BlockWork),
    /// Writes the groups of a layer of another format.
    Repack(Layer),
}

/// The layers that a unit quantizes. Its inputs are their weights, in order, and vectors: norms and
/// biases that factors are folded into. Its outputs are the `qweight`, `qzeros` and `scales` of
/// each layer, and the vectors as they are stored.
pub struct BlockWork {
    /// By what they read, in the order in which the model runs them; never empty.
    pub sites: Vec<SiteWork>,
    /// Number of vectors.
    pub vectors: usize,
}

/// Layers that read the same.
pub struct SiteWork {
    /// The layers; never empty.
    pub layers: Vec<Layer>,
    /// What factors of their inputs are folded into, if there is such a thing.
    pub target: Option<Target>,
}

/// What factors are folded into.
pub enum Target {
    /// The weight of a norm.
    Norm {
        /// Its place among the unit's vectors.
        vector: usize,
    },
    /// The rows of a layer.
    Rows {
        /// Its place among the block's layers.
        layer: usize,
        /// The place of its bias among the unit's vectors, if it has one.
        bias: Option<usize>,
        /// Numbers of a head, and by how many heads of channels it is shared.
        heads: Option<(usize, usize)>,
    },
}

impl Target {
    /// The vector that is divided.
    pub fn vector(&self) -> Option<usize> {
        match *self {
            Self::Norm { vector } => Some(vector),
            Self::Rows { bias, .. } => bias,
        }
    }

    /// Numbers of a head, and how many heads of channels share it.
    pub fn sharing(&self, channels: usize) -> (usize, usize) {
        match *self {
            Self::Rows {
                heads: Some(heads), ..
            } => heads,
            Self::Rows { .. } | Self::Norm { .. } => (channels, 1),
        }
    }
}

impl BlockWork {
    /// All layers, in the order of the unit's inputs.
    pub fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.sites.iter().flat_map(|site| &site.layers)
    }
}

/// The job.
pub struct AwqJob {
    pub(super) host: Host,
    pub(super) plan: Plan,
    pub(super) blobs: Vec<Vec<u8>>,
    /// One for each unit of the plan.
    pub(super) roles: Vec<Role>,
    pub(super) wishes: Wishes,
}

impl AwqJob {
    fn role(&self, unit: usize) -> Result<&Role> {
        let role = self.roles.get(unit);
        role.ok_or_else(|| Error::internal(format!("there is no unit {unit}")))
    }

    /// All layers that are quantized.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.roles.iter().flat_map(|role| match role {
            Role::Block(work) => work.layers().collect(),
            Role::Repack(layer) => vec![layer],
            Role::Copy(_) => Vec::new(),
        })
    }
}

impl Job for AwqJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.blobs.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        match self.role(call.unit)? {
            Role::Copy(element) => match (call.inputs, call.outputs) {
                ([input], [output]) => {
                    copy_rows(input, *element, output)?;
                    Ok(EncodeReport::default())
                }
                _ => Err(Error::internal("a copy has one input and one output")),
            },
            Role::Block(work) => encode::encode(self, work, call),
            Role::Repack(layer) => repack::encode(self, layer, call),
        }
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        verify::verify(self, files)
    }
}
