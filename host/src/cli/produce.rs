//! From an order to a finished output: what `quantize`, `convert` and `demo` share.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_quantize_plugin_api::{Inputs, Plan, PlanRequest, Routing};
use serde_json::{Map, Value};

use super::Context;
use super::args::OutputFormat;
use super::calibration;
use super::plan_view;
use super::session::{Session, Target};
use crate::calibrate::{self, Calibration};
use crate::convert::routes::Routes;
use crate::error::{Error, Result};
use crate::job::{self, Checkpoints, LayerReport, Outcome, Prepared};
use crate::output::{Bar, QuantizeMetadata, QuantizeReport, bytes, emit, emit_json};
use crate::source::{SourceModel, config};
use crate::system;

/// What to produce, and how.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// The level, as the user typed it.
    pub level: String,
    /// The output folder.
    pub folder: PathBuf,
    /// The output's name, if the user chose one.
    pub name: Option<String>,
    /// `--group-size`.
    pub group_size: Option<i64>,
    /// `--set`.
    pub options: Vec<(String, String)>,
    /// `--max-memory`.
    pub max_memory: Option<u64>,
    /// Replace what is there.
    pub overwrite: bool,
    /// What to keep for a run that continues this one.
    pub checkpoints: Checkpoints,
    /// Print the plan and stop.
    pub dry_run: bool,
    /// A model is converted, not quantized: what is told while it runs, and that a
    /// loss by rounding again was agreed to before.
    pub converts: bool,
    /// What is done with weights that are quantized already.
    pub routing: Routing,
    /// The text to run the model on, if the user asks for that.
    pub calibration: Option<calibrate::Order>,
    /// What is done, for people, if it is not quantizing or converting.
    pub verb: Option<&'static str>,
}

impl Order {
    fn verb(&self) -> &'static str {
        let usual = match self.converts {
            true => "Converting",
            false => "Quantizing",
        };
        self.verb.unwrap_or(usual)
    }
}

/// A finished output with what is known about it.
pub struct Product {
    /// What the job says.
    pub outcome: Outcome,
    /// The document about it.
    pub report: QuantizeReport,
}

/// Quantizes an opened model. `None` after a dry run.
///
/// # Errors
/// Whatever fails first; nothing is left under the output's name.
pub fn produce(
    context: &Context,
    session: &Session<'_>,
    source: &SourceModel,
    target: &Target,
    order: &Order,
) -> Result<Option<Product>> {
    let ui = &context.ui;
    announce(context, source);
    let verb = order.verb();
    let bar = Bar::new(Arc::clone(ui), verb);
    let job_context = job_context(session, &bar, order);
    let text = text(source, target, order)?;
    let prepared = prepare(source, target, order, text.as_ref(), &job_context)?;
    let plan = prepared.job.plan();
    if let Some(text) = &text {
        calibration::announce(context, text, plan, order.calibration.is_some());
    }
    for warning in &plan.warnings {
        ui.warn(warning);
    }
    if order.dry_run {
        plan_view::print(context, &prepared, &target.format, job_context.max_memory)?;
        return Ok(None);
    }
    let level = plan.level.clone();
    let routes = Routes::of(plan);
    let ready = prepared.check(order.overwrite, &order.checkpoints, &job_context)?;
    let format = target.format.to_uppercase();
    ui.info(&match order.verb {
        None => format!("{verb} to {format} {level}"),
        Some(verb) => format!("{verb} {}", source.model().name),
    });
    let outcome = ready.run(&job_context, || ui.info("Validating output..."))?;
    let (path, size) = (outcome.path.display(), bytes(outcome.file_size));
    ui.info(&format!("Complete: {path} ({size})"));
    let report = report(source, target, &level, &routes, &outcome);
    Ok(Some(Product { outcome, report }))
}

/// Makes all the checks that come before the work, on a model of which perhaps only the
/// headers are here.
///
/// # Errors
/// What [`produce`] would refuse.
pub fn rehearse(
    context: &Context,
    session: &Session<'_>,
    source: &SourceModel,
    target: &Target,
    order: &Order,
) -> Result<()> {
    let bar = Bar::new(Arc::clone(&context.ui), "Checking");
    let job_context = job_context(session, &bar, order);
    let text = text(source, target, order)?;
    let prepared = prepare(source, target, order, text.as_ref(), &job_context)?;
    prepared.rehearse(order.overwrite, &order.checkpoints, &job_context)
}

/// The text that the model is run on, if anything is quantized.
fn text<'a>(
    source: &'a SourceModel,
    target: &Target,
    order: &Order,
) -> Result<Option<Calibration<'a>>> {
    match order.routing {
        Routing::Repack { .. } => Ok(None),
        Routing::Quantize => {
            calibration::prepare(source, target, order.calibration.as_ref(), &order.folder)
        }
    }
}

fn job_context<'a>(session: &'a Session<'_>, bar: &'a Bar, order: &Order) -> job::Context<'a> {
    job::Context {
        threads: &session.threads,
        cancel: &session.cancel,
        progress: bar,
        max_memory: system::memory_budget(order.max_memory),
    }
}

fn prepare<'a>(
    source: &'a SourceModel,
    target: &'a Target,
    order: &Order,
    calibration: Option<&'a Calibration<'_>>,
    context: &job::Context<'_>,
) -> Result<Prepared<'a>> {
    let request = PlanRequest {
        calibration: calibration.map(Calibration::text),
        ..request(target, order)
    };
    let prepared = job::prepare(
        &target.plugin,
        &*target.quantizer,
        source,
        calibration.map(|calibration| calibration as _),
        &request,
        &order.folder,
        context,
    )?;
    check_inputs(source, prepared.job.plan())?;
    Ok(prepared)
}

/// What a plugin is asked for, but for the text.
pub fn request(target: &Target, order: &Order) -> PlanRequest {
    PlanRequest {
        format: target.format.clone(),
        level: order.level.clone(),
        output_name: order.name.clone(),
        group_size: order.group_size,
        options: order.options.clone(),
        requantize: order.converts,
        generator: format!("llm-quantize {}", env!("CARGO_PKG_VERSION")),
        calibration: None,
        routing: order.routing,
    }
}

/// Prints the result: the output's path, or the document.
///
/// # Errors
/// If stdout cannot be written.
pub fn print(context: &Context, product: &Product) -> Result<()> {
    match context.format {
        OutputFormat::Json => emit_json(&product.report),
        OutputFormat::Human => emit(&format!("{}\n", product.outcome.path.display())),
    }
}

/// Hands over an importance matrix, if the format takes one.
///
/// # Errors
/// If it takes none, or the file cannot be read.
pub fn attach_imatrix(source: &mut SourceModel, target: &Target, path: &Path) -> Result<()> {
    const KIND: &str = "imatrix";
    if !target
        .description()?
        .attachments
        .iter()
        .any(|kind| kind == KIND)
    {
        return Err(Error::invalid_arguments(format!(
            "the format \"{}\" takes no importance matrix",
            target.format
        ))
        .suggest("leave out --imatrix"));
    }
    source.attach(KIND, path)
}

fn announce(context: &Context, source: &SourceModel) {
    let model = source.model();
    let layers = source.num_layers();
    let architecture = config::architecture(&model.config).unwrap_or(&model.format);
    let message = format!("Architecture: {architecture} ({layers} layers)");
    context.ui.info(&message);
    let (tensors, size) = (model.tensors.len(), bytes(source.total_bytes()));
    let format = &model.format;
    let message = format!("Source: {format}, {tensors} tensors, {size}");
    context.ui.verbose(&message);
}

/// Every tensor that will be read as numbers must have some: found now, not after an
/// hour.
fn check_inputs(source: &SourceModel, plan: &Plan) -> Result<()> {
    let inputs = plan.units.iter().flat_map(|unit| &unit.inputs);
    let mut read = inputs.filter(|input| !input.raw && !input.groups);
    read.try_for_each(|input| source.check_readable(input.tensor))
}

fn report(
    source: &SourceModel,
    target: &Target,
    level: &str,
    routes: &Routes,
    outcome: &Outcome,
) -> QuantizeReport {
    let layers = match outcome.layers {
        0 => source.num_layers(),
        layers => layers as u64,
    };
    let measures = outcome.measures.iter();
    let metadata = QuantizeMetadata {
        original_dtype: source.original_dtype(),
        original_size: source.total_bytes(),
        layers_processed: layers,
        layers_resumed: outcome.layers_resumed as u64,
        pieces_total: outcome.pieces as u64,
        pieces_resumed: outcome.pieces_resumed as u64,
        layers: outcome.layer_reports.iter().map(layer_report).collect(),
        more: measures
            .map(|(name, value)| (name.clone(), (*value).into()))
            .chain(routes.document().map(|routes| ("routes".into(), routes)))
            .collect(),
    };
    QuantizeReport::success(
        &outcome.path,
        &target.format,
        level,
        outcome.file_size,
        outcome.duration,
        metadata,
    )
}

/// A layer's name and figures, as a document has them.
fn layer_report(layer: &LayerReport) -> Map<String, Value> {
    let figures = layer.figures.iter();
    let figures = figures.map(|(name, value)| (name.clone(), (*value).into()));
    let name = ("name".to_owned(), layer.name.clone().into());
    figures.chain([name]).collect()
}
