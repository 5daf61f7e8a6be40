//! `--dry-run`: the plan, for people and as JSON.

use llm_quantize_plugin_api::Plan;
use serde_json::{Value, json};

use super::Context;
use super::args::OutputFormat;
use crate::convert::routes::Routes;
use crate::error::Result;
use crate::job::Prepared;
use crate::output::{Align, Table, bytes, emit, emit_json, printable, shape};
use crate::system;

/// Prints a plan.
///
/// # Errors
/// If stdout cannot be written.
pub fn print(
    context: &Context,
    prepared: &Prepared<'_>,
    format: &str,
    max_memory: u64,
) -> Result<()> {
    let plan = prepared.job.plan();
    let disk = system::free_disk(&prepared.destination.folder);
    match context.format {
        OutputFormat::Human => emit(&human(plan, prepared, format, max_memory, disk)),
        OutputFormat::Json => emit_json(&document(plan, prepared, format, max_memory, disk)),
    }
}

fn human(
    plan: &Plan,
    prepared: &Prepared<'_>,
    format: &str,
    max_memory: u64,
    disk: Option<u64>,
) -> String {
    let mut tensors = Table::new(&[
        ("TENSOR", Align::Left),
        ("SHAPE", Align::Left),
        ("TYPE", Align::Left),
        ("SIZE", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for tensor in &plan.tensors {
        tensors.row([
            tensor.name.clone(),
            shape(&tensor.shape),
            tensor.dtype.clone(),
            bytes(tensor.bytes),
            tensor.note.clone().unwrap_or_default(),
        ]);
    }
    let mut facts = Table::pairs();
    facts.row(["Output", &prepared.destination.main().to_string_lossy()]);
    facts.row(["Format", &format!("{format} {}", plan.level)]);
    let routes = Routes::of(plan);
    if !routes.is_empty() {
        facts.row(["Routes", &routes.to_string()]);
    }
    facts.row(["Files", &plan.files.len().to_string()]);
    facts.row(["Size", &bytes(prepared.total_bytes)]);
    let free = disk.map_or_else(|| "unknown".into(), bytes);
    facts.row(["Disk", &format!("{free} free")]);
    let needed = bytes(prepared.memory_needed);
    let memory = format!("{needed} needed, {} allowed", bytes(max_memory));
    facts.row(["Memory", &memory]);
    printable(&format!("{}\n{}", tensors.render(), facts.render()))
}

fn document(
    plan: &Plan,
    prepared: &Prepared<'_>,
    format: &str,
    max_memory: u64,
    disk: Option<u64>,
) -> Value {
    let files: Vec<Value> = plan
        .files
        .iter()
        .map(|file| json!({"name": file.name, "size": file.size}))
        .collect();
    json!({
        "status": "planned",
        "output_path": prepared.destination.main().to_string_lossy(),
        "format": format,
        "quantization_level": plan.level,
        "total_bytes": prepared.total_bytes,
        "memory_needed_bytes": prepared.memory_needed,
        "memory_budget_bytes": max_memory,
        "disk_free_bytes": disk,
        "files": files,
        "routes": Routes::of(plan).document(),
        "tensors": plan.tensors,
        "warnings": plan.warnings,
    })
}
