//! Reads a finished folder back.

use llm_quantize_plugin_api::hf_folder::quantized::verify_layers;
use llm_quantize_plugin_api::{Error, FileView, Result, hf_folder};

use super::job::GptqJob;
use super::layers::Layer;
use crate::read::folder::{Folder, StoredLayer};

/// Verifies a job's files: what the plan says byte for byte, and that every layer can be read and
/// holds what the solver may answer. Any code is one; scales and zeros are not.
///
/// # Errors
/// The first difference.
pub fn verify(job: &GptqJob, files: &[FileView<'_>]) -> Result<()> {
    hf_folder::verify(&job.plan, &job.blobs, files)?;
    let folder = Folder::open(files).map_err(|error| Error::verification(error.message))?;
    let planned: Vec<&Layer> = job.layers().collect();
    let zeros = job.wishes.settings(1).grid.zeros().map(f32::from);
    verify_layers(&job.host, &planned, &folder.layers, |layer, stored| {
        check(files, layer, stored, zeros)
    })
}

fn check(
    files: &[FileView<'_>],
    layer: &Layer,
    stored: &StoredLayer,
    zeros: [f32; 2],
) -> Result<()> {
    if stored.shape != layer.shape {
        let (found, planned) = (stored.shape, layer.shape);
        return Err(Error::verification(format!(
            "{found:?}, planned was {planned:?}"
        )));
    }
    let packed = stored.packed(files)?;
    if packed.permutation()?.is_some() {
        return Err(Error::verification("its groups are permuted"));
    }
    let groups = packed.groups(0..layer.shape.outputs)?;
    groups.check(zeros)
}
