//! `quality`: how far quantized models are from their original.

use std::sync::Arc;

use llm_quantize_plugin_api::{Inputs, ModelView, TensorInfo};
use serde::Serialize;

use super::Context;
use super::args::{OutputFormat, QualityArgs};
use super::session::Session;
use crate::error::Result;
use crate::graph::Graph;
use crate::job;
use crate::output::{Align, Bar, Table, bytes, emit, emit_json};
use crate::quality::{Figures, Measured, PerToken, Subject, check, measure};
use crate::system;
use crate::text::{Choice, Corpus, Count, Tokenizer, Windows, cut, naming};

/// Windows, where the user does not say.
const WINDOWS: usize = 64;

/// Tokens in a window, where the user does not say and the model's context allows it.
const CONTEXT: usize = 512;

/// What is said of a model; in JSON an object of this form.
#[derive(Debug, Serialize)]
struct Row {
    /// As the user named it.
    model: String,
    /// `original` or `quantized`.
    role: &'static str,
    /// `hf`, or the format that a plugin reads.
    format: String,
    perplexity: f64,
    /// Standard errors of the figures before them.
    perplexity_error: f64,
    kl_divergence: f64,
    kl_divergence_error: f64,
    top1_agreement: f64,
    top1_agreement_error: f64,
    file_size: u64,
    bits_per_weight: f64,
    /// What it was measured on, the same for all.
    dataset: String,
    windows: usize,
    context: usize,
    tokens_scored: usize,
}

/// Compares models.
///
/// # Errors
/// Whatever fails first.
pub fn run(context: &Context, args: &QualityArgs) -> Result<()> {
    let session = Session::start(context)?;
    let corpus = args.data.as_deref().map(Corpus::open).transpose()?;
    let per_token = args
        .per_token
        .as_deref()
        .map(PerToken::create)
        .transpose()?;
    let original = open(context, &session, &args.original)?;
    let quantized = args
        .quantized
        .iter()
        .map(|model| open(context, &session, model));
    let quantized: Vec<Subject> = quantized.collect::<Result<_>>()?;
    let length = args.context.unwrap_or(CONTEXT.min(original.graph.context));
    check(&original, &quantized, length)?;
    let corpus = corpus.unwrap_or_else(|| built_in(context));
    let windows = cut(
        &corpus,
        &Tokenizer::of(&original.source)?,
        length,
        args.windows.map_or(Count::UpTo(WINDOWS), Count::Exactly),
        Choice::First,
        original.graph.vocabulary,
    )
    .map_err(|error| naming(error, "--windows, --context, --data"))?;
    let (count, dataset) = (windows.count(), &windows.dataset);
    let message = format!("Comparing on {count} windows of {length} tokens of {dataset}");
    context.ui.info(&message);
    let bar = Bar::new(Arc::clone(&context.ui), "Measuring");
    let job_context = job::Context {
        threads: &session.threads,
        cancel: &session.cancel,
        progress: &bar,
        max_memory: system::memory_budget(args.max_memory),
    };
    let measured = measure(&original, &quantized, &windows, &job_context)?;
    if let Some(file) = per_token {
        file.write(&windows, &measured)?;
    }
    let subjects = std::iter::once(&original).chain(&quantized);
    let rows = subjects.zip(&measured).enumerate();
    let rows: Vec<Row> = rows
        .map(|(place, (subject, measured))| row(place, subject, measured, &windows))
        .collect();
    match context.format {
        OutputFormat::Json => emit_json(&rows),
        OutputFormat::Human => emit(&table(&rows).render()),
    }
}

/// Opens a model; of one on the Hub the headers say first whether it can be run.
fn open(context: &Context, session: &Session<'_>, model: &str) -> Result<Subject> {
    context.ui.info(&format!("Loading model: {model}"));
    let source = session.open_as(model, ModelView::HuggingFace, |headers| {
        Graph::of(headers.model()).map(drop)
    })?;
    Subject::new(model, source)
}

fn built_in(context: &Context) -> Corpus {
    let news = "Using the built-in text; name the text that the model is for with --data";
    context.ui.info(news);
    Corpus::evaluation()
}

fn row(place: usize, subject: &Subject, measured: &Measured, windows: &Windows) -> Row {
    let figures = Figures::of(measured);
    let source = &subject.source;
    let tensors = &source.model().tensors;
    let numbers: u64 = tensors.iter().filter_map(TensorInfo::elements).sum();
    Row {
        model: subject.name.clone(),
        role: match place {
            0 => "original",
            _ => "quantized",
        },
        format: source.model().format.clone(),
        perplexity: figures.perplexity.value,
        perplexity_error: figures.perplexity.error,
        kl_divergence: figures.divergence.value,
        kl_divergence_error: figures.divergence.error,
        top1_agreement: figures.agreement.value,
        top1_agreement_error: figures.agreement.error,
        file_size: source.file_bytes(),
        bits_per_weight: source.total_bytes() as f64 * 8.0 / numbers.max(1) as f64,
        dataset: windows.dataset.clone(),
        windows: windows.count(),
        context: windows.length,
        tokens_scored: measured.log_probabilities.len(),
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        ("MODEL", Align::Left),
        ("SIZE", Align::Right),
        ("BITS", Align::Right),
        ("PERPLEXITY", Align::Right),
        ("KL DIVERGENCE", Align::Right),
        ("SAME TOP TOKEN", Align::Right),
    ]);
    for row in rows {
        let compared = row.role != "original";
        let or_nothing = |text: String| if compared { text } else { "-".into() };
        table.row([
            row.model.clone(),
            bytes(row.file_size),
            format!("{:.2}", row.bits_per_weight),
            format!("{:.4} ± {:.4}", row.perplexity, row.perplexity_error),
            or_nothing(format!(
                "{:.6} ± {:.6}",
                row.kl_divergence, row.kl_divergence_error
            )),
            or_nothing(format!(
                "{:.2}% ± {:.2}%",
                row.top1_agreement * 100.0,
                row.top1_agreement_error * 100.0
            )),
        ]);
    }
    table
}
