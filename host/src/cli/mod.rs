//! The command line: parses it, runs a command, reports how that went.

mod analyze;
pub mod args;
mod calibration;
mod completions;
mod context;
mod convert;
mod demo;
mod info;
mod man;
mod plan_view;
mod plugin;
mod produce;
mod quality;
mod quantize;
mod session;
mod usage;

use std::ffi::OsString;

use clap::Parser;

use crate::error::Result;
use crate::fatal;
use crate::output::emit_error;
use crate::plugins::probe;
use crate::system;
use args::{Cli, Command, OutputFormat};

pub use context::Context;

/// Runs the program and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    system::raise_file_limit();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(code) = probe::serve(&arguments) {
        return code;
    }
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error, &arguments),
    };
    let context = Context::new(&cli.global);
    fatal::install(context.format == OutputFormat::Json);
    match dispatch(&context, &cli.command) {
        Ok(()) => 0,
        Err(error) => {
            emit_error(&context.ui, context.format, &error);
            error.class.code()
        }
    }
}

fn dispatch(context: &Context, command: &Command) -> Result<()> {
    match command {
        Command::Quantize(args) => quantize::run(context, args),
        Command::Analyze(args) => analyze::run(context, args),
        Command::Convert(args) => convert::run(context, args),
        Command::Info(args) => info::run(context, args),
        Command::Quality(args) => quality::run(context, args),
        Command::Plugin(command) => plugin::run(context, command),
        Command::Demo => demo::run(context),
        Command::Completions(args) => completions::run(args),
        Command::Man(args) => man::run(args),
    }
}
