//! `analyze`: what a calibration run finds out about a model, as a file.

use std::path::{Path, PathBuf};

use llm_quantize_plugin_api::Purpose;

use super::Context;
use super::args::AnalyzeArgs;
use super::calibration;
use super::produce::{Order, print, produce, rehearse};
use super::quantize::checkpoints_of;
use super::session::{Session, Target};
use crate::error::{Error, Result};

/// The format of the analysis: llama.cpp's importance matrix.
const FORMAT: &str = "imatrix";

/// Runs a model on text and writes an importance matrix.
///
/// # Errors
/// Whatever fails first.
pub fn run(context: &Context, args: &AnalyzeArgs) -> Result<()> {
    let session = Session::start(context)?;
    let target = session.target(FORMAT)?;
    let (folder, name) = place(args.output.as_deref())?;
    let mut text = calibration::asked_for(&args.calibration).unwrap_or_default();
    text.keep_gram = args.with_gram;
    let order = Order {
        level: level(&target)?,
        folder,
        name,
        options: args.set.clone(),
        max_memory: args.max_memory,
        overwrite: args.overwrite,
        checkpoints: checkpoints_of(&args.checkpoints),
        calibration: Some(text),
        verb: Some("Analyzing"),
        ..Order::default()
    };
    context.ui.info(&format!("Loading model: {}", args.model));
    let source = session.open(&args.model, &target, |headers| {
        rehearse(context, &session, headers, &target, &order)
    })?;
    match produce(context, &session, &source, &target, &order)? {
        Some(product) => print(context, &product),
        None => Ok(()),
    }
}

/// The folder and the name of a file; by default in the current folder, under the format's own
/// name.
fn place(output: Option<&Path>) -> Result<(PathBuf, Option<String>)> {
    let Some(path) = output else {
        return Ok((".".into(), None));
    };
    let name = path.file_name().and_then(|name| name.to_str());
    let is_folder = path.is_dir() || path.to_string_lossy().ends_with('/');
    let Some(name) = name.filter(|_| !is_folder) else {
        return Err(Error::invalid_arguments(format!(
            "{} is not the name of a file",
            path.display()
        ))
        .suggest("name a file, e.g. --output imatrix.gguf"));
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => ".".into(),
    };
    Ok((folder, Some(name.to_owned())))
}

/// The only level of an analysis.
fn level(target: &Target) -> Result<String> {
    let description = target.description()?;
    match (description.purpose, description.levels.as_slice()) {
        (Purpose::Analysis, [level]) => Ok(level.name.clone()),
        _ => Err(Error::unsupported(format!(
            "plugin \"{}\" has the format \"{}\", but not as an analysis",
            target.plugin.id, target.format
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_folder_and_a_name() {
        let of = |path: &str| place(Some(Path::new(path))).unwrap();
        assert_eq!(of("i.gguf"), (".".into(), Some("i.gguf".into())));
        assert_eq!(of("a/b/i.gguf"), ("a/b".into(), Some("i.gguf".into())));
        assert_eq!(place(None).unwrap(), (".".into(), None));
        for wrong in ["/", "a/b/", ".."] {
            assert_eq!(place(Some(Path::new(wrong))).unwrap_err().class.code(), 2);
        }
    }
}
