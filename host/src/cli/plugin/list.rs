//! `plugin list`. No plugin's code runs here.

use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::args::OutputFormat;
use crate::error::Result;
use crate::output::{Align, Table, emit, emit_json};
use crate::plugins::{Found, Registry, SearchFolder, Verdict, describe_permissions};

/// Lists the libraries in the plugin folders.
///
/// # Errors
/// If the user's configuration is not valid.
pub fn run(context: &Context) -> Result<()> {
    let registry = Registry::discover(&context.plugin_dirs)?;
    let found = registry.found();
    if context.format == OutputFormat::Json {
        return emit_json(&found.iter().map(document).collect::<Vec<Value>>());
    }
    if found.is_empty() {
        context.ui.warn("no plugins were found");
        return Ok(());
    }
    emit(&table(found, false).render())
}

/// Lists the libraries with what decided about them, and the folders.
///
/// # Errors
/// If the user's configuration is not valid.
pub fn run_all(context: &Context) -> Result<()> {
    let registry = Registry::discover(&context.plugin_dirs)?;
    if context.format == OutputFormat::Json {
        let plugins: Vec<Value> = registry.found().iter().map(full_document).collect();
        let folders: Vec<Value> = registry.folders().iter().map(folder_document).collect();
        let cache = registry.verdicts_file().map(|file| file.to_string_lossy());
        return emit_json(&json!({"plugins": plugins, "folders": folders, "cache": cache}));
    }
    let mut out = String::new();
    if !registry.found().is_empty() {
        out.push_str(&table(registry.found(), true).render());
        out.push('\n');
    }
    out.push_str(&folder_table(registry.folders()).render());
    if let Some(file) = registry.verdicts_file() {
        out.push_str(&format!("\nResults of probing: {}\n", file.display()));
    }
    emit(&out)
}

fn table(found: &[Found], all: bool) -> Table {
    let mut columns = vec!["ID", "VERSION", "INTERFACE", "FORMATS", "STATE"];
    if all {
        columns.extend(["PROBED", "OWNER, MODE"]);
    }
    columns.push("PATH");
    let columns: Vec<_> = columns.iter().map(|name| (*name, Align::Left)).collect();
    let mut table = Table::new(&columns);
    for plugin in found {
        let metadata = plugin.metadata.clone().unwrap_or_default();
        let state = match plugin.state.reason() {
            Some(reason) => format!("{}: {reason}", plugin.state.word()),
            None => plugin.state.word().to_owned(),
        };
        let mut cells = vec![
            metadata.id,
            metadata.version,
            metadata.interface_version,
            metadata.formats.join(", "),
            state,
        ];
        if all {
            cells.push(probed(plugin).unwrap_or("not yet").to_owned());
            cells.push(describe_permissions(&plugin.path).unwrap_or_default());
        }
        cells.push(plugin.path.display().to_string());
        table.row(cells);
    }
    table
}

fn probed(plugin: &Found) -> Option<&'static str> {
    plugin.probed.as_ref().map(Verdict::word)
}

fn document(found: &Found) -> Value {
    let metadata = found.metadata.as_ref();
    json!({
        "id": metadata.map(|m| &m.id),
        "version": metadata.map(|m| &m.version),
        "interface_version": metadata.map(|m| &m.interface_version),
        "formats": metadata.map(|m| &m.formats),
        "licence": metadata.map(|m| &m.licence),
        "description": metadata.map(|m| &m.description),
        "path": found.path.to_string_lossy(),
        "state": found.state.word(),
        "reason": found.state.reason(),
    })
}

fn full_document(found: &Found) -> Value {
    let mut document = document(found);
    document["probed"] = json!(probed(found));
    document["permissions"] = json!(describe_permissions(&found.path));
    document
}

fn folder_table(folders: &[SearchFolder]) -> Table {
    let columns = ["SEARCHED", "BECAUSE", "FOUND"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for folder in folders {
        let path = folder.path.display().to_string();
        let there = if folder.path.is_dir() {
            "yes"
        } else {
            "no such folder"
        };
        table.row([path, folder.reason.to_owned(), there.to_owned()]);
    }
    table
}

fn folder_document(folder: &SearchFolder) -> Value {
    json!({
        "path": folder.path.to_string_lossy(),
        "reason": folder.reason,
        "exists": folder.path.is_dir(),
    })
}
