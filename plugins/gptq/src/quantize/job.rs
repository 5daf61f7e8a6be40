//! A planned folder: encodes its units, decodes them again, and verifies the result.

use llm_quantize_plugin_api::hf_folder::copy_rows;
use llm_quantize_plugin_api::{
    DecodeCall, ElementType, EncodeCall, EncodeReport, Error, FileView, Host, Job, Plan, Result,
};

use super::layers::Layer;
use super::options::Wishes;
use super::{encode, repack, smooth, verify};
use crate::layout::packed::Packed;

/// What a unit of the plan does.
pub enum Role {
    /// Writes a tensor as plain numbers.
    Copy(ElementType),
    /// Quantizes the layers of a site.
    Site(SiteWork),
    /// Writes the groups of a layer of another format.
    Repack(Layer),
}

/// The layers that a unit quantizes. Its inputs are their weights, in order; its outputs the
/// `qweight`, `qzeros` and `scales` of each. The norm comes last in both.
pub struct SiteWork {
    /// The layers; never empty.
    pub layers: Vec<Layer>,
    /// Whether the unit has the norm that its inputs come from.
    pub has_norm: bool,
}

/// The job.
pub struct GptqJob {
    pub(super) host: Host,
    pub(super) plan: Plan,
    pub(super) blobs: Vec<Vec<u8>>,
    /// One for each unit of the plan.
    pub(super) roles: Vec<Role>,
    pub(super) wishes: Wishes,
    /// Tokens of the whole calibration.
    pub(super) tokens: u64,
}

impl GptqJob {
    fn role(&self, unit: usize) -> Result<&Role> {
        let role = self.roles.get(unit);
        role.ok_or_else(|| Error::internal(format!("there is no unit {unit}")))
    }

    /// All layers that are quantized.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.roles.iter().flat_map(|role| match role {
            Role::Site(work) => &work.layers[..],
            Role::Repack(layer) => std::slice::from_ref(layer),
            Role::Copy(_) => &[],
        })
    }
}

impl Job for GptqJob {
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
            Role::Site(work) => encode::encode(self, work, call),
            Role::Repack(layer) => repack::encode(self, layer, call),
        }
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        verify::verify(self, files)
    }

    fn decode(&self, call: DecodeCall<'_>) -> Result<()> {
        let Role::Site(work) = self.role(call.unit)? else {
            let unit = call.unit;
            return Err(Error::internal(format!("unit {unit} has no layers")));
        };
        let outputs = call.outputs.chunks_exact(3).nth(call.input);
        let (Some(layer), Some(&[qweight, qzeros, scales])) =
            (work.layers.get(call.input), outputs)
        else {
            let (unit, input) = (call.unit, call.input);
            return Err(Error::internal(format!("unit {unit} has no layer {input}")));
        };
        let packed = Packed {
            shape: layer.shape,
            version: self.wishes.version,
            qweight,
            qzeros,
            scales,
            scale_type: ElementType::F16,
            g_idx: None,
        };
        let place = |row: u64| {
            usize::try_from(row).map_err(|_| Error::internal(format!("there is no row {row}")))
        };
        packed.decode(place(call.rows.start)?..place(call.rows.end)?, call.out)?;
        match (work.has_norm, call.vectors, call.outputs.last()) {
            (false, ..) => Ok(()),
            (true, [norm], Some(stored)) => {
                smooth::unscale(call.out, layer.shape.inputs, norm, stored)
            }
            (true, ..) => Err(Error::internal("the norm is missing")),
        }
    }
}
