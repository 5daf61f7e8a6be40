//! What the parser has to say: help, the version, and mistakes on the command line.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::{Error, ExitCode};
use crate::output::{ErrorReport, emit, emit_json};

/// Prints what the parser returned instead of arguments; returns the exit code.
pub fn report(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match emit(&error.render().to_string()) {
            Ok(()) => 0,
            Err(failed) => failed.class.code(),
        };
    }
    // clap decides about colours by the usual variables. If stderr is gone there is
    // nobody to tell.
    let _ = error.print();
    let code = ExitCode::InvalidArguments.code();
    if wants_json(arguments) && emit_json(&ErrorReport::new(&as_error(error))).is_err() {
        return ExitCode::Other.code();
    }
    code
}

/// Whether the arguments ask for JSON; looked up by hand, because they did not parse.
fn wants_json(arguments: &[OsString]) -> bool {
    let mut format = None;
    let mut before = OsStr::new("");
    for argument in arguments.iter().skip(1).take_while(|a| *a != "--") {
        if before == "--format" {
            format = argument.to_str();
        } else if let Some(value) = argument.to_str().and_then(|a| a.strip_prefix("--format=")) {
            format = Some(value);
        }
        before = argument;
    }
    format == Some("json")
}

/// The first paragraph is what is wrong; tips and the usage say what to do.
fn as_error(error: &clap::Error) -> Error {
    let rendered = error.render().to_string();
    let first = rendered.split("\n\n").next().unwrap_or_default();
    let first = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing",
        _ => first.trim_start_matches("error: ").trim(),
    };
    let words: Vec<&str> = first.split_whitespace().collect();
    let mut own = Error::invalid_arguments(words.join(" "));
    let tip = match error.get(ContextKind::Suggested) {
        Some(ContextValue::StyledStrs(tips)) => tips.first().map(ToString::to_string),
        _ => None,
    };
    let suggested = [
        ContextKind::SuggestedArg,
        ContextKind::SuggestedValue,
        ContextKind::SuggestedSubcommand,
    ]
    .into_iter()
    .find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(name)) => Some(name.clone()),
        Some(ContextValue::Strings(names)) => names.first().cloned(),
        _ => None,
    });
    let tip = tip.or_else(|| suggested.map(|name| format!("did you mean {name}?")));
    own.suggestion = Some(tip.unwrap_or_else(|| "see `llm-quantize --help`".into()));
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::Parser;

    fn arguments(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn json_is_found_in_arguments_that_do_not_parse() {
        assert!(wants_json(&arguments("x --format json quantize")));
        assert!(wants_json(&arguments(
            "x quantize --format=json --nonsense"
        )));
        assert!(!wants_json(&arguments("x --format json --format human")));
        assert!(!wants_json(&arguments("x info -- --format json")));
        assert!(!wants_json(&arguments("x json")));
    }

    #[test]
    fn mistakes_are_one_line_with_a_hint() {
        let error = |line| as_error(&Cli::try_parse_from(arguments(line)).unwrap_err());
        let missing = error("x quantize m gguf");
        assert!(missing.message.contains("--quant-level"), "{missing}");
        assert!(!missing.message.contains('\n'));
        let similar = error("x info m --tensor");
        assert!(similar.suggestion.unwrap().contains("--tensors"));
        assert_eq!(error("x").message, "a command is missing");
    }
}
