//! Reads the finished files back through the plugin's own reader.

use std::sync::Arc;

use llm_quantize_plugin_api::{FileView, Job};

use super::staging::Staging;
use super::threads::Threads;
use crate::error::{Error, ExitCode, Result};
use crate::source::MappedFile;

/// Maps the staged files under their planned names and lets the plugin verify them.
///
/// # Errors
/// [`ExitCode::Validation`] if they are not what was planned.
pub fn verify(plugin: &str, job: &dyn Job, staging: &Staging, threads: &Threads) -> Result<()> {
    let files = staging
        .files()
        .iter()
        .zip(&job.plan().files)
        .map(|(staged, planned)| MappedFile::open_as(&staged.path, planned.name.clone()))
        .collect::<Result<Arc<[_]>>>()?;
    // A plugin reads through plain slices and cannot give pages back; without this, an
    // output that is read once would count as memory of this process.
    let mapped = Arc::clone(&files);
    let release = move || {
        for file in mapped.iter() {
            file.release();
        }
    };
    let views: Vec<FileView<'_>> = files
        .iter()
        .map(|file| FileView {
            name: file.name(),
            bytes: file.bytes(),
        })
        .collect();
    threads
        .after_each_task(release, || job.verify(&views))
        .map_err(|error| {
            let mut own = Error::from_plugin(plugin, error);
            if own.class != ExitCode::Interrupted {
                own.message = format!("the output does not verify: {}", own.message);
            }
            own
        })
}
