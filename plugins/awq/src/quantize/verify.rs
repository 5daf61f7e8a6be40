//! Reads a finished folder back.

use llm_quantize_plugin_api::hf_folder::quantized::verify_layers;
use llm_quantize_plugin_api::{Error, FileView, Result, hf_folder};

use super::job::AwqJob;
use super::layers::Layer;
use crate::levels::HIGHEST;
use crate::read::folder::{Folder, StoredLayer};

/// Verifies a job's files: what the plan says byte for byte, and that every layer can be read and
/// has scales. Any code and any zero is one.
///
/// # Errors
/// The first difference.
pub fn verify(job: &AwqJob, files: &[FileView<'_>]) -> Result<()> {
    hf_folder::verify(&job.plan, &job.blobs, files)?;
    let folder = Folder::open(files).map_err(|error| Error::verification(error.message))?;
    let planned: Vec<&Layer> = job.layers().collect();
    verify_layers(&job.host, &planned, &folder.layers, |layer, stored| {
        check(files, layer, stored)
    })
}

fn check(files: &[FileView<'_>], layer: &Layer, stored: &StoredLayer) -> Result<()> {
    let (found, planned) = (stored.shape, layer.shape);
    if found != planned {
        return Err(Error::verification(format!(
            "{found:?}, planned was {planned:?}"
        )));
    }
    let groups = stored.packed(files)?.groups(0..planned.outputs)?;
    let zeros = [0.0, f32::from(HIGHEST)];
    groups.check(zeros)
}
