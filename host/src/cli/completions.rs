//! `completions SHELL`.

use clap::CommandFactory;

use super::args::{Cli, CompletionsArgs};
use crate::error::Result;
use crate::output::emit_bytes;

/// Prints a completion script.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    emit_bytes(&script)
}
