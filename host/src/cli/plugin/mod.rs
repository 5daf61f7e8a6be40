//! The commands of `plugin`.

mod check;
mod info;
mod list;
mod reset;

use super::Context;
use super::args::PluginCommand;
use crate::error::Result;

/// Runs one of the commands.
///
/// # Errors
/// Whatever fails first.
pub fn run(context: &Context, command: &PluginCommand) -> Result<()> {
    match command {
        PluginCommand::List { all: false } => list::run(context),
        PluginCommand::List { all: true } => list::run_all(context),
        PluginCommand::Info { name } => info::run(context, name),
        PluginCommand::Check { file } => check::run(context, file),
        PluginCommand::Reset { plugin } => reset::run(context, plugin.as_deref()),
    }
}
