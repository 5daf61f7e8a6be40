//! Reads a finished folder back.

use llm_quantize_plugin_api::{Error, FileView, Result, hf_folder};

use super::job::GptqJob;
use super::layers::Layer;
use crate::read::folder::Folder;
use crate::solver::Grid;

/// Verifies a job's files: what the plan says byte for byte, and that every layer can be read and
/// holds what the solver may answer. Any code is one; scales and zeros are not.
///
/// # Errors
/// The first difference.
pub fn verify(job: &GptqJob, files: &[FileView<'_>]) -> Result<()> {
    hf_folder::verify(&job.plan, &job.blobs, files)?;
    let folder = Folder::open(files).map_err(refused)?;
    let layers: Vec<&Layer> = job.layers().collect();
    if folder.layers().count() != layers.len() {
        return Err(Error::verification(format!(
            "there are {} quantized layers, planned were {}",
            folder.layers().count(),
            layers.len()
        )));
    }
    let grid = job.wishes.settings(1).grid;
    job.host.parallel_for(layers.len(), |index| {
        check(&folder, files, layers[index], grid).map_err(refused)
    })
}

/// The same error, as one of the verification.
fn refused(error: Error) -> Error {
    Error::verification(error.message)
}

fn check(folder: &Folder, files: &[FileView<'_>], layer: &Layer, grid: Grid) -> Result<()> {
    let fail = |what: String| Err(Error::verification(format!("{}: {what}", layer.module)));
    let Some(stored) = folder.layer(&layer.module) else {
        return fail("the layer is missing".into());
    };
    if stored.shape != layer.shape {
        return fail(format!("{:?}, planned was {:?}", stored.shape, layer.shape));
    }
    let packed = stored.packed(files, folder.quantization.version)?;
    if packed.permutation()?.is_some() {
        return fail("its groups are permuted".into());
    }
    let groups = packed.groups(0..layer.shape.outputs)?;
    if let Some(((row, group), scale)) = groups
        .scales
        .indexed_iter()
        .find(|(_, scale)| !scale.is_finite() || **scale == 0.0)
    {
        return fail(format!("the scale of row {row}, group {group} is {scale}"));
    }
    let [low, high] = grid.zeros().map(f32::from);
    match groups
        .zeros
        .indexed_iter()
        .find(|(_, zero)| !(low..=high).contains(*zero))
    {
        Some(((row, group), zero)) => fail(format!(
            "the zero of row {row}, group {group} is {zero}, outside of {low} to {high}"
        )),
        None => Ok(()),
    }
}
