//! `info`.

use llm_quantize_plugin_api::{Inputs, ModelView};

use super::Context;
use super::args::{InfoArgs, OutputFormat};
use super::session::Session;
use crate::error::{ExitCode, Result};
use crate::info::{ModelInfo, human};
use crate::output::{emit, emit_json};
use crate::source::SourceModel;

/// Describes a model.
///
/// # Errors
/// If it cannot be found or read.
pub fn run(context: &Context, args: &InfoArgs) -> Result<()> {
    let session = Session::start(context)?;
    let source = session.open_headers(&args.model, |path| open(context, &session, path))?;
    let info = ModelInfo::new(&source, args.tensors);
    match context.format {
        OutputFormat::Json => emit_json(&info),
        OutputFormat::Human => emit(&human(&info)),
    }
}

/// In the Hugging Face view, whose config says most. A model that has no such view
/// (an architecture that the plugin does not know) is described as its format has it.
fn open(context: &Context, session: &Session<'_>, path: &str) -> Result<SourceModel> {
    let located = session.locate(path)?;
    match located.open(ModelView::HuggingFace) {
        Err(error) if error.class == ExitCode::UnsupportedConversion => {
            context.ui.verbose(&error.message);
            let source = session.locate(path)?.open(ModelView::Native)?;
            let format = &source.model().format;
            let message = format!("the model is described as {format} has it: {error}");
            context.ui.warn(&message);
            Ok(source)
        }
        opened => opened,
    }
}
