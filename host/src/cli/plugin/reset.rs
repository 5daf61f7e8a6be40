//! `plugin reset`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::args::OutputFormat;
use crate::error::{Error, ExitCode, Result};
use crate::output::{Align, Table, emit, emit_json};
use crate::plugins::{Entry, Registry};

/// Forgets what probing said about one plugin, or all.
///
/// # Errors
/// If there is no such plugin, or the cache cannot be written.
pub fn run(context: &Context, plugin: Option<&Path>) -> Result<()> {
    let registry = Registry::discover(&context.plugin_dirs)?;
    let forgotten = match plugin {
        None => registry.forget(|_, _| true)?,
        Some(plugin) => forget_one(&registry, plugin)?,
    };
    if context.format == OutputFormat::Json {
        let forgotten: Vec<Value> = forgotten.iter().map(document).collect();
        return emit_json(&json!({"status": "success", "forgotten": forgotten}));
    }
    if forgotten.is_empty() {
        context.ui.info("There was nothing to forget");
        return Ok(());
    }
    emit(&table(&forgotten).render())
}

fn forget_one(registry: &Registry, plugin: &Path) -> Result<Vec<(PathBuf, Entry)>> {
    let name = plugin.to_string_lossy();
    let file = plugin.canonicalize().ok();
    let named: Vec<&PathBuf> = registry
        .found()
        .iter()
        .filter(|found| {
            let metadata = found.metadata.as_ref();
            metadata.is_some_and(|m| m.id == name || m.formats.iter().any(|f| *f == name))
        })
        .map(|found| &found.path)
        .collect();
    let forgotten = registry.forget(|path, entry| {
        entry.id == name || Some(path) == file.as_deref() || named.iter().any(|p| *p == path)
    })?;
    if forgotten.is_empty() && named.is_empty() && file.is_none() {
        let message = format!("no plugin, format or file is called \"{name}\"");
        return Err(Error::new(ExitCode::PluginUnavailable, message));
    }
    Ok(forgotten)
}

fn table(forgotten: &[(PathBuf, Entry)]) -> Table {
    let columns = ["FORGOTTEN", "WAS", "PATH"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for (path, entry) in forgotten {
        let was = match entry.verdict.reason() {
            Some(reason) => format!("{}: {reason}", entry.verdict.word()),
            None => entry.verdict.word().to_owned(),
        };
        table.row([entry.id.clone(), was, path.display().to_string()]);
    }
    table
}

fn document((path, entry): &(PathBuf, Entry)) -> Value {
    json!({
        "id": entry.id,
        "path": path.to_string_lossy(),
        "state": entry.verdict.word(),
        "reason": entry.verdict.reason(),
    })
}
