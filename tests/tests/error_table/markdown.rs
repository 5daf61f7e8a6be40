//! The document: a table for each exit code.

use std::collections::{BTreeMap, BTreeSet};

use llm_quantize::ExitCode;

use super::collect::{CAUSE, Found};

/// The classes of the plugin API's errors, and error types, by the class in which the
/// user sees them. What is not here is a variant of `ExitCode` itself.
const CLASSES: [(&str, ExitCode); 8] = [
    ("InvalidRequest", ExitCode::InvalidArguments),
    ("Unsupported", ExitCode::UnsupportedConversion),
    ("CorruptInput", ExitCode::Validation),
    ("VerificationFailed", ExitCode::Validation),
    ("Cancelled", ExitCode::Interrupted),
    ("Internal", ExitCode::PluginFailed),
    ("Panicked", ExitCode::PluginFailed),
    ("Io", ExitCode::Other),
];

/// Error types of single subjects: where they are, their name, and as what the user
/// sees them.
const TYPES: [(&str, &str, ExitCode); 15] = [
    ("host/src/plugins", "Refusal", ExitCode::PluginUnavailable),
    ("plugin-api", "LoadError", ExitCode::PluginUnavailable),
    ("plugin-api", "MetadataError", ExitCode::PluginUnavailable),
    ("plugins/gptq", "FactorError", ExitCode::PluginFailed),
    ("plugins/gptq", "SolveError", ExitCode::PluginFailed),
    ("plugins/gguf", "BlockError", ExitCode::Validation),
    ("plugins/gguf", "InvalidRow", ExitCode::Validation),
    ("plugins/gguf", "ImatrixError", ExitCode::ImportanceMatrix),
    ("plugins/gguf", "MetadataError", ExitCode::Validation),
    ("plugins/gguf", "MixtureError", ExitCode::InvalidArguments),
    ("plugins/gguf", "OverrideError", ExitCode::InvalidArguments),
    ("plugins/gguf", "ReadError", ExitCode::Validation),
    ("plugins/gguf", "ShardError", ExitCode::Validation),
    (
        "plugins/gguf",
        "TokenizerError",
        ExitCode::UnsupportedConversion,
    ),
    (
        "plugins/gguf",
        "WriteError",
        ExitCode::UnsupportedConversion,
    ),
];

const HEAD: &str = "\
# Errors

Every error that llm-quantize prints, gathered from the source code by a test (`error_table`), which
fails when this page is out of date. `<words>` stand for what the message fills in.

An error comes with its exit code, in JSON with `error_type`, and always with advice: the one in the
table, or where that is empty, the one that the exit code has. Errors of plugins begin with
`plugin \"<id>\":`.
";

const CAUSES: &str = "
## Causes

What the messages above have in the place of `<what>`, `<error>` or `<reason>`, where other code of
this program says it.

| cause | source |
| --- | --- |
";

/// Makes the document.
pub fn document(errors: Vec<Found>) -> String {
    let (causes, errors): (Vec<_>, Vec<_>) =
        errors.into_iter().partition(|error| error.class == CAUSE);
    // The same words are one line, wherever they are said.
    let mut sections: BTreeMap<u8, BTreeMap<_, BTreeSet<String>>> = BTreeMap::new();
    for error in errors {
        let section = sections.entry(class_of(&error).code()).or_default();
        let line = (error.message, error.advice);
        section.entry(line).or_default().insert(error.file);
    }
    let mut out = HEAD.to_owned();
    for class in ExitCode::ALL {
        let Some(errors) = sections.get(&class.code()) else {
            continue;
        };
        out.push_str(&format!(
            "\n## {}: {} (`{}`)\n\nAdvice where none is given: {}.\n\n| message | what to do | source |\n| --- | --- | --- |\n",
            class.code(),
            class.meaning(),
            class.error_type(),
            escape(class.general_advice()),
        ));
        if class == ExitCode::Other {
            out.push_str("| *a file operation that failed; a full disk is exit code 13, too little memory 5* | | |\n");
        }
        for ((message, advice), files) in errors {
            let (message, advice) = (escape(message), advice.as_deref().map(escape));
            let files: Vec<String> = files.iter().map(|file| format!("`{file}`")).collect();
            out.push_str(&format!(
                "| {message} | {} | {} |\n",
                advice.unwrap_or_default(),
                files.join(", ")
            ));
        }
    }
    out.push_str(CAUSES);
    let causes: BTreeSet<(String, String)> = causes
        .into_iter()
        .map(|cause| (cause.message, cause.file))
        .collect();
    for (message, file) in causes {
        out.push_str(&format!("| {} | `{file}` |\n", escape(&message)));
    }
    out
}

fn class_of(error: &Found) -> ExitCode {
    let shared = CLASSES.iter().find(|(name, _)| *name == error.class);
    let special = TYPES
        .iter()
        .find(|(place, name, _)| error.file.starts_with(place) && *name == error.class);
    let own = ExitCode::ALL
        .into_iter()
        .find(|class| format!("{class:?}") == error.class);
    let known = shared.map(|(_, class)| *class);
    let known = known.or(special.map(|(_, _, class)| *class)).or(own);
    known.unwrap_or_else(|| {
        panic!(
            "{}: no exit code is known for \"{}\"; add it to TYPES",
            error.file, error.class
        )
    })
}

/// Text that Markdown shows as it is.
fn escape(text: &str) -> String {
    let escaped = text
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    escaped.replace('*', "\\*").replace('_', "\\_")
}
