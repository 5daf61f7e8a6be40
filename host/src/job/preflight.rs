//! What is checked before any long work.

use std::fs;
use std::path::Path;

use llm_quantize_plugin_api::Plan;

use super::pieces::cut;
use super::staging::Destination;
use super::tensor_source::{TensorSource, buffer_bytes};
use crate::error::{Error, ExitCode, Result};
use crate::output::bytes as human;
use crate::system;

/// Memory of the program itself, its libraries and tables.
const BASE_BYTES: u64 = 32 << 20;

/// The most memory that a plan needs at once, on so many threads.
///
/// Pieces of mapped files count as well: they are in memory while they are read.
pub fn memory_needed(plan: &Plan, source: &dyn TensorSource, threads: usize) -> u64 {
    let model = source.model();
    let mut largest = 0;
    for piece in cut(plan, model) {
        let unit = &plan.units[piece.unit];
        let rows = piece.rows.end - piece.rows.start;
        let inputs: u64 = unit
            .inputs
            .iter()
            .filter_map(|input| Some((model.tensors.get(input.tensor)?, input.whole)))
            .map(|(tensor, whole)| {
                let all = tensor.rows().unwrap_or(0);
                let range = piece.input_rows(unit, whole, all);
                let taken = range.end - range.start;
                let stored = tensor.bytes / all.max(1) * taken;
                stored.saturating_add(buffer_bytes(source, tensor.cols(), taken))
            })
            .sum();
        let outputs: u64 = piece.spans(unit).map(|span| span.len).sum();
        let scratch = match unit.split {
            Some(_) => unit.scratch_bytes.saturating_mul(rows),
            None => unit.scratch_bytes,
        };
        largest = largest.max(inputs.saturating_add(outputs).saturating_add(scratch));
    }
    let literals: u64 = plan.literals.iter().map(|literal| literal.len).sum();
    largest
        .saturating_mul(threads as u64)
        .saturating_add(BASE_BYTES)
        .saturating_add(literals.saturating_mul(2))
}

/// Refuses a plan that does not fit into the memory budget.
///
/// # Errors
/// [`ExitCode::OutOfMemory`], with both figures.
pub fn check_memory(needed: u64, budget: u64) -> Result<()> {
    if needed <= budget {
        return Ok(());
    }
    Err(Error::new(
        ExitCode::OutOfMemory,
        format!(
            "this job needs {} of memory, the budget is {}",
            human(needed),
            human(budget)
        ),
    )
    .suggest("raise --max-memory, use fewer --threads, or free memory"))
}

/// Refuses an output folder that is missing, not a folder or not writable, an
/// output that exists, and an output that would replace its own source.
///
/// A missing folder is created.
///
/// # Errors
/// With the path and what to do.
pub fn check_destination(destination: &Destination, source: &Path, overwrite: bool) -> Result<()> {
    let folder = &destination.folder;
    fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    tempfile::tempfile_in(folder).map_err(|error| {
        Error::io("write to", folder, error).suggest("choose another folder with --output-dir")
    })?;
    for target in &destination.targets {
        if same_place(target, source) {
            return Err(Error::invalid_arguments(format!(
                "{} is the model itself: the output would replace its own source",
                target.display()
            ))
            .suggest("choose another --output-name or --output-dir"));
        }
        if !overwrite && fs::symlink_metadata(target).is_ok() {
            return Err(
                Error::invalid_arguments(format!("{} exists already", target.display()))
                    .suggest("use --overwrite to replace it, or choose another --output-name"),
            );
        }
    }
    Ok(())
}

fn same_place(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b || b.starts_with(&a))
}

/// Refuses a plan that does not fit on the disk.
///
/// # Errors
/// [`ExitCode::DiskSpace`], with both figures.
pub fn check_disk(folder: &Path, needed: u64) -> Result<()> {
    let Some(free) = system::free_disk(folder) else {
        return Ok(());
    };
    if needed <= free {
        return Ok(());
    }
    Err(Error::new(
        ExitCode::DiskSpace,
        format!(
            "the output needs {}, {} has {} free",
            human(needed),
            folder.display(),
            human(free)
        ),
    )
    .suggest("free some space, or choose another disk with --output-dir"))
}
