//! `plugin check`.

use std::path::Path;

use serde_json::json;

use crate::cli::Context;
use crate::cli::args::OutputFormat;
use crate::error::{Error, Result};
use crate::output::{Align, Table, emit, emit_json};
use crate::plugins::examine::{Report, examine};

/// Makes all checks of a file and shows how each went.
///
/// # Errors
/// If the file does not exist, or a check fails.
pub fn run(context: &Context, file: &Path) -> Result<()> {
    let report = examine(file)?;
    let error = failure(&report);
    match (context.format, error) {
        (OutputFormat::Human, error) => {
            emit(&table(&report).render())?;
            error.map_or(Ok(()), Err)
        }
        (OutputFormat::Json, None) => emit_json(&json!({
            "status": "success",
            "path": report.path.to_string_lossy(),
            "plugin": report.plugin,
            "checks": report.checks,
        })),
        (OutputFormat::Json, Some(error)) => Err(error.details(json!(report))),
    }
}

fn table(report: &Report) -> Table {
    let columns = ["CHECK", "RESULT", "DETAIL"];
    let mut table = Table::new(&columns.map(|name| (name, Align::Left)));
    for check in &report.checks {
        // One line a check: what a library printed may have several.
        let detail = check.detail.lines().collect::<Vec<_>>().join(" | ");
        table.row([
            check.name.to_owned(),
            check.result.word().to_owned(),
            detail,
        ]);
    }
    table
}

fn failure(report: &Report) -> Option<Error> {
    let class = report.failed()?;
    let mut failures = report.failures();
    let first = failures.next()?;
    let more = failures.count();
    let who = match &report.plugin {
        Some(plugin) => format!("plugin \"{}\" ({})", plugin.id, report.path.display()),
        None => report.path.display().to_string(),
    };
    let mut message = format!("{who} fails the check \"{}\": {}", first.name, first.detail);
    if more > 0 {
        message.push_str(&format!(" (and {more} more)"));
    }
    Some(Error::new(class, message).suggest("correct that, then check again"))
}
