//! What is checked before any long work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use llm_quantize_plugin_api::{Plan, Unit};

use super::pieces::cut;
use super::staging::{Destination, held};
use super::sweep;
use super::tensor_source::{TensorSource, buffer_bytes};
use crate::error::{Error, ExitCode, Result};
use crate::output::bytes as human;
use crate::system;

/// Memory of the program itself, its libraries and tables.
const BASE_BYTES: u64 = 32 << 20;

/// The most memory that a plan needs at once, on so many threads.
///
/// Pieces of mapped files count as well: they are in memory while they are read, and until
/// the next sweep. `wave` says which units are encoded together: a wave may have fewer pieces
/// than there are threads.
pub fn memory_needed(
    plan: &Plan,
    source: &dyn TensorSource,
    threads: usize,
    wave: impl Fn(&Unit) -> Option<usize>,
) -> u64 {
    let model = source.model();
    let waves: Vec<Option<usize>> = plan.units.iter().map(wave).collect();
    let mut in_flight: BTreeMap<Option<usize>, Vec<u64>> = BTreeMap::new();
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
        let piece_bytes = inputs.saturating_add(outputs).saturating_add(scratch);
        in_flight
            .entry(waves[piece.unit])
            .or_default()
            .push(piece_bytes);
    }
    let largest = in_flight.into_values().map(|mut pieces| {
        pieces.sort_unstable_by(|a, b| b.cmp(a));
        let together = pieces.into_iter().take(threads.max(1));
        together.fold(0, u64::saturating_add)
    });
    let literals: u64 = plan.literals.iter().map(|literal| literal.len).sum();
    largest
        .max()
        .unwrap_or(0)
        .saturating_add(sweep::most(threads))
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

/// Refuses an output folder that is missing, not a folder or not writable, and an
/// output that would replace its own source.
///
/// A missing folder is created.
///
/// # Errors
/// With the path and what to do.
pub fn check_destination(destination: &Destination, source: &Path) -> Result<()> {
    let folder = &destination.folder;
    fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, error))?;
    tempfile::tempfile_in(folder).map_err(|error| {
        Error::io("write to", folder, error).suggest("choose another folder with --output-dir")
    })?;
    match destination
        .targets
        .iter()
        .find(|target| same_place(target, source))
    {
        None => Ok(()),
        Some(target) => Err(Error::invalid_arguments(format!(
            "{} is the model itself: the output would replace its own source",
            target.display()
        ))
        .suggest("choose another --output-name or --output-dir")),
    }
}

/// Refuses to replace an output that exists.
///
/// # Errors
/// With its path and what to do.
pub fn check_absent<'a>(targets: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let mut targets = targets.into_iter();
    match targets.find(|target| fs::symlink_metadata(target).is_ok()) {
        None => Ok(()),
        Some(target) => Err(Error::invalid_arguments(format!(
            "{} exists already",
            target.display()
        ))
        .suggest("use --overwrite to replace it, or choose another --output-name")),
    }
}

fn same_place(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b || b.starts_with(&a))
}

/// Refuses a plan that does not fit on the disk. What an earlier run has reserved, it
/// need not find again.
///
/// # Errors
/// [`ExitCode::DiskSpace`], with all figures.
pub fn check_disk(destination: &Destination, total: u64) -> Result<()> {
    let Some(free) = system::free_disk(&destination.folder) else {
        return Ok(());
    };
    let held = destination.temporary().into_iter().map(|path| held(&path));
    let needed = total.saturating_sub(held.fold(0, u64::saturating_add));
    match needed <= free {
        true => Ok(()),
        false => Err(disk_full(&destination.folder, needed, free)),
    }
}

/// The disk is too small, and by how much.
pub fn disk_full(folder: &Path, needed: u64, free: u64) -> Error {
    Error::new(
        ExitCode::DiskSpace,
        format!(
            "the output needs {}, {} has {} free: {} are missing",
            human(needed),
            folder.display(),
            human(free),
            human(needed.saturating_sub(free))
        ),
    )
    .suggest("free some space, or choose another disk with --output-dir")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{SourceModel, fixtures};
    use llm_quantize_plugin_api::ModelView;

    #[test]
    fn what_is_reserved_need_not_be_free() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination {
            folder: dir.path().to_owned(),
            targets: vec![dir.path().join("m.gguf")],
        };
        let error = check_disk(&destination, u64::MAX).unwrap_err();
        assert_eq!(error.class, ExitCode::DiskSpace);
        assert!(error.message.contains("missing"), "{error}");
        fs::write(dir.path().join(".m.gguf.partial"), vec![1; 1 << 20]).unwrap();
        let free = system::free_disk(dir.path()).unwrap();
        // Nearly: others write to this disk as well.
        check_disk(&destination, free.saturating_sub(16 << 20)).unwrap();
        check_disk(&destination, 1 << 20).unwrap();
    }

    #[test]
    fn only_what_is_encoded_together_counts_together() {
        let folder = tempfile::tempdir().unwrap();
        fixtures::write_llama(folder.path());
        let path = folder.path().to_string_lossy();
        let source = SourceModel::open(&path, &[], ModelView::HuggingFace).unwrap();
        let unit = |scratch_bytes| Unit {
            scratch_bytes,
            ..Unit::default()
        };
        let plan = Plan {
            units: [5, 7, 11].map(unit).into(),
            ..Plan::default()
        };
        let needed = |threads, alone: bool| {
            let wave = |unit: &Unit| alone.then_some(unit.scratch_bytes as usize);
            memory_needed(&plan, &source, threads, wave) - sweep::most(threads) - BASE_BYTES
        };
        assert_eq!((needed(1, false), needed(2, false)), (11, 18));
        assert_eq!((needed(9, false), needed(9, true)), (23, 11));
    }

    #[test]
    fn a_budget_that_cannot_be_met_names_both_figures() {
        check_memory(100, 100).unwrap();
        let error = check_memory(3_000_000, 2_000_000).unwrap_err();
        assert_eq!(error.class, ExitCode::OutOfMemory);
        assert!(error.message.contains("3.0 MB") && error.message.contains("2.0 MB"));
        assert!(error.advice().contains("--max-memory"));
    }
}
