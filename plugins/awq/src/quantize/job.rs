//! A planned folder: encodes its units, decodes them again, and verifies the result.

use llm_quantize_plugin_api::hf_folder::copy_rows;
use llm_quantize_plugin_api::{
    DecodeCall, ElementType, EncodeCall, EncodeReport, Error, FileView, Host, Job, Plan, Result,
};

use super::layers::{Layer, SiteLayers};
use super::options::Wishes;
use super::{encode, verify};
use crate::layout::Version;
use crate::layout::packed::Packed;

/// What a unit of the plan does.
pub enum Role {
    /// Writes a tensor as plain numbers.
    Copy(ElementType),
    /// Quantizes the layers of a block.
    Block(BlockWork),
}

/// The layers that a unit quantizes. Its inputs are their weights, in order; its outputs the
/// `qweight`, `qzeros` and `scales` of each.
pub struct BlockWork {
    /// By what they read, in the order in which the model runs them; never empty.
    pub sites: Vec<SiteLayers>,
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
        let blocks = self.roles.iter().filter_map(|role| match role {
            Role::Block(work) => Some(work),
            Role::Copy(_) => None,
        });
        blocks.flat_map(BlockWork::layers)
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
        }
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        verify::verify(self, files)
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        let Role::Block(work) = self.role(call.unit)? else {
            let unit = call.unit;
            return Err(Error::internal(format!("unit {unit} has no layers")));
        };
        let outputs = call.outputs.chunks_exact(3).nth(call.input);
        let (Some(layer), Some(&[qweight, qzeros, scales])) =
            (work.layers().nth(call.input), outputs)
        else {
            let (unit, input) = (call.unit, call.input);
            return Err(Error::internal(format!("unit {unit} has no layer {input}")));
        };
        let packed = Packed {
            shape: layer.shape,
            version: Version::Gemm,
            qweight,
            qzeros,
            scales,
            floats: ElementType::F16,
        };
        let place = |row: u64| {
            usize::try_from(row).map_err(|_| Error::internal(format!("there is no row {row}")))
        };
        packed.decode(place(call.rows.start)?..place(call.rows.end)?, call.out)
    }
}
