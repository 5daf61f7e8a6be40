//! `plugin info`.

use llm_quantize_plugin_api::FormatDescription;
use serde_json::{Value, json};

use crate::cli::Context;
use crate::cli::args::OutputFormat;
use crate::cli::session::Session;
use crate::error::Result;
use crate::output::{Align, Table, emit, emit_json};
use crate::plugins::Plugin;

/// Shows what a plugin can do.
///
/// # Errors
/// If it is missing or does not load.
pub fn run(context: &Context, name: &str) -> Result<()> {
    let session = Session::start(context)?;
    let plugin = session.plugin(name)?;
    match context.format {
        OutputFormat::Json => emit_json(&plugin_document(&plugin)),
        OutputFormat::Human => emit(&describe(&plugin)),
    }
}

fn plugin_document(plugin: &Plugin) -> Value {
    let metadata = &plugin.metadata;
    json!({
        "id": metadata.id,
        "version": metadata.version,
        "interface_version": metadata.interface_version,
        "licence": metadata.licence,
        "description": metadata.description,
        "path": plugin.path.to_string_lossy(),
        "reads": plugin.converter.is_some(),
        "writes": plugin.quantizer.is_some(),
        "formats": plugin.formats(),
    })
}

fn describe(plugin: &Plugin) -> String {
    let metadata = &plugin.metadata;
    let mut facts = Table::pairs();
    facts.row(["Plugin", &format!("{} {}", metadata.id, metadata.version)]);
    facts.row(["Description", &metadata.description]);
    facts.row(["Interface", &metadata.interface_version]);
    facts.row(["Licence", &metadata.licence]);
    facts.row(["Path", &plugin.path.to_string_lossy()]);
    let can = match (plugin.converter.is_some(), plugin.quantizer.is_some()) {
        (true, true) => "reads and writes",
        (true, false) => "reads",
        (false, true) => "writes",
        (false, false) => "nothing",
    };
    facts.row(["Does", can]);
    let formats: Vec<String> = plugin.formats().iter().map(describe_format).collect();
    format!("{}{}", facts.render(), formats.concat())
}

fn describe_format(format: &FormatDescription) -> String {
    let mut out = format!("\nFormat {}: {}\n", format.name, format.description);
    let mut levels = Table::new(&[
        ("LEVEL", Align::Left),
        ("BITS", Align::Right),
        ("ALSO", Align::Left),
        ("DESCRIPTION", Align::Left),
    ]);
    for level in &format.levels {
        levels.row([
            level.name.clone(),
            format!("{:.2}", level.bits_per_weight),
            level.aliases.join(", "),
            level.description.clone(),
        ]);
    }
    out.push_str(&levels.render());
    if !format.options.is_empty() {
        let columns = ["OPTION", "TAKES", "DEFAULT", "DESCRIPTION"];
        let mut options = Table::new(&columns.map(|name| (name, Align::Left)));
        for option in &format.options {
            options.row([
                option.key.clone(),
                option.value_type.describe(),
                option.default.clone(),
                option.help.clone(),
            ]);
        }
        out.push('\n');
        out.push_str(&options.render());
    }
    if !format.group_sizes.is_empty() {
        let sizes: Vec<String> = format.group_sizes.iter().map(i64::to_string).collect();
        out.push_str(&format!("\nGroup sizes: {}\n", sizes.join(", ")));
    }
    out
}
