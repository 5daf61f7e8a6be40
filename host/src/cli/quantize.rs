//! `quantize`.

use super::Context;
use super::args::{CheckpointArgs, OutputArgs, QuantizeArgs};
use super::calibration;
use super::produce::{Order, attach_imatrix, print, produce, rehearse};
use super::session::Session;
use crate::error::Result;
use crate::job::Checkpoints;
use crate::source::SourceModel;

/// Quantizes a model.
///
/// # Errors
/// Whatever fails first.
pub fn run(context: &Context, args: &QuantizeArgs) -> Result<()> {
    let session = Session::start(context)?;
    // The format and the level come first: they are cheap to check, and a mistake
    // there should not wait for a large model to open.
    let target = session.target(&args.output_format)?;
    target.check_is_model()?;
    target.check_level(&args.quant_level)?;
    let order = Order {
        level: args.quant_level.clone(),
        group_size: args.group_size,
        max_memory: args.max_memory,
        dry_run: args.dry_run,
        calibration: calibration::asked_for(&args.calibration),
        ..order_of(&args.output, &args.checkpoints)
    };
    context.ui.info(&format!("Loading model: {}", args.model));
    let attach = |source: &mut SourceModel| match &args.imatrix {
        Some(path) => attach_imatrix(source, &target, path),
        None => Ok(()),
    };
    let mut source = match args.dry_run {
        // A plan is made from headers.
        true => session.open_headers(&args.model, |path| session.open_at(path, &target))?,
        false => session.open(&args.model, &target, |headers| {
            attach(headers)?;
            rehearse(context, &session, headers, &target, &order)
        })?,
    };
    attach(&mut source)?;
    match produce(context, &session, &source, &target, &order)? {
        Some(product) => print(context, &product),
        None => Ok(()),
    }
}

/// The part of an order that several commands take in the same way.
pub fn order_of(args: &OutputArgs, checkpoints: &CheckpointArgs) -> Order {
    Order {
        folder: args.output_dir.clone(),
        name: args.output_name.clone(),
        options: args.set.clone(),
        overwrite: args.overwrite,
        checkpoints: checkpoints_of(checkpoints),
        ..Order::default()
    }
}

/// What to keep of an interrupted run. An empty variable is an unset one.
pub fn checkpoints_of(args: &CheckpointArgs) -> Checkpoints {
    let folder = args.checkpoint_dir.as_ref();
    Checkpoints {
        off: args.no_checkpoints,
        folder: folder.filter(|path| !path.as_os_str().is_empty()).cloned(),
        resume: args.resume.clone(),
    }
}
