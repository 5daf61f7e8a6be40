//! `demo`: the built-in model in several levels of every installed format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llm_quantize_plugin_api::{CalibrationUse, FormatDescription, Inputs, ModelView, Purpose};
use serde::Serialize;

use super::Context;
use super::args::OutputFormat;
use super::produce::{Order, produce};
use super::session::{Session, Target};
use crate::calibrate;
use crate::demo::{NAME, write_model};
use crate::error::{Error, ExitCode, Result};
use crate::job::{self, Checkpoints};
use crate::output::{Align, Bar, Table, bytes, emit, emit_json};
use crate::quality::{Figures, Subject, measure};
use crate::source::SourceModel;
use crate::system;
use crate::text::{Choice, Corpus, Count, Tokenizer, cut};

/// Of each format the levels that are nearest to so many bits.
const BITS: [f64; 5] = [16.0, 8.5, 6.5, 4.9, 3.1];
/// Samples of text for formats that need a calibration.
const SAMPLES: usize = 32;
/// Tokens of a window on which outputs are compared with the model.
const CONTEXT: usize = 256;
/// Windows, at most.
const WINDOWS: usize = 32;

/// One output of the demonstration.
#[derive(Debug, Serialize)]
struct Line {
    format: String,
    level: String,
    file_size: u64,
    bits_per_weight: f64,
    /// Mean divergence of the output's predictions from the model's; `None` if the plugin
    /// cannot read what it writes.
    kl_divergence: Option<f64>,
    duration_seconds: f64,
    #[serde(skip)]
    path: PathBuf,
}

/// Quantizes the built-in model in a temporary folder and shows what came out.
///
/// # Errors
/// If no plugin is installed, or one fails.
pub fn run(context: &Context) -> Result<()> {
    let session = Session::start(context)?;
    let formats = session.formats();
    if formats.is_empty() {
        return Err(
            Error::new(ExitCode::PluginUnavailable, "there is no plugin to show")
                .suggest("install a plugin, or name its folder with --plugin-dir"),
        );
    }
    let scratch = tempfile::tempdir()
        .map_err(|error| Error::io("create a folder in", &std::env::temp_dir(), error))?;
    let folder = scratch.path().join(NAME);
    std::fs::create_dir(&folder).map_err(|error| Error::io("create", &folder, error))?;
    write_model(&folder)?;
    let mut lines = Vec::new();
    for format in formats {
        let target = session.target(&format)?;
        if target.description()?.purpose != Purpose::Model {
            continue;
        }
        for level in levels(&target.description()?) {
            match show(context, &session, &target, &level, &folder) {
                Ok(line) => lines.push(line),
                Err(error) if error.class == ExitCode::UnsupportedConversion => {
                    context.ui.warn(&format!("{format} {level}: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
    }
    compare(context, &session, &folder, &mut lines)?;
    match context.format {
        OutputFormat::Json => emit_json(&lines),
        OutputFormat::Human => emit(&table(&lines).render()),
    }
}

fn show(
    context: &Context,
    session: &Session<'_>,
    target: &Target,
    level: &str,
    folder: &Path,
) -> Result<Line> {
    let path = folder.to_string_lossy();
    let source = session.open_at(&path, target)?;
    let needs_text = target.description()?.calibration == CalibrationUse::Always;
    let order = Order {
        level: level.to_owned(),
        calibration: needs_text.then(|| calibrate::Order {
            samples: Some(SAMPLES),
            ..calibrate::Order::default()
        }),
        folder: folder.with_file_name("out"),
        overwrite: true,
        checkpoints: Checkpoints {
            off: true,
            ..Checkpoints::default()
        },
        ..Order::default()
    };
    let product = produce(context, session, &source, target, &order)?
        .ok_or_else(|| Error::other("nothing was produced"))?;
    let report = product.report;
    Ok(Line {
        format: report.format,
        level: report.quantization_level,
        file_size: report.file_size,
        bits_per_weight: bits_per_weight(report.file_size, &source),
        kl_divergence: None,
        duration_seconds: report.duration_seconds,
        path: PathBuf::from(report.output_path),
    })
}

/// Runs the model and its outputs on the built-in text, and adds how far they differ.
fn compare(
    context: &Context,
    session: &Session<'_>,
    folder: &Path,
    lines: &mut [Line],
) -> Result<()> {
    let open = |path: &Path| -> Result<Subject> {
        let located = session.locate(&path.to_string_lossy())?;
        Subject::new(
            path.to_string_lossy(),
            located.open(ModelView::HuggingFace)?,
        )
    };
    let original = open(folder)?;
    let windows = cut(
        &Corpus::evaluation(),
        &Tokenizer::of(&original.source)?,
        CONTEXT,
        Count::UpTo(WINDOWS),
        Choice::First,
        original.graph.vocabulary,
    )?;
    // What no plugin reads back is no news here: `plugin check` tells.
    let opened = lines.iter_mut().filter_map(|line| {
        let subject = open(&line.path).ok()?;
        Some((line, subject))
    });
    let (lines, outputs): (Vec<&mut Line>, Vec<Subject>) = opened.unzip();
    let bar = Bar::new(Arc::clone(&context.ui), "Measuring");
    let job_context = job::Context {
        threads: &session.threads,
        cancel: &session.cancel,
        progress: &bar,
        max_memory: system::memory_budget(None),
    };
    let measured = measure(&original, &outputs, &windows, &job_context)?;
    for (line, measured) in lines.into_iter().zip(&measured[1..]) {
        line.kl_divergence = Some(Figures::of(measured).divergence.value);
    }
    Ok(())
}

/// Bits of the whole file for each number of the model.
fn bits_per_weight(file_size: u64, source: &SourceModel) -> f64 {
    let tensors = &source.model().tensors;
    let numbers: u64 = tensors.iter().filter_map(|tensor| tensor.elements()).sum();
    file_size as f64 * 8.0 / numbers.max(1) as f64
}

fn levels(format: &FormatDescription) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::new();
    for bits in BITS {
        let distance = |level_bits: f64| (level_bits - bits).abs();
        let nearest = format
            .levels
            .iter()
            .min_by(|a, b| distance(a.bits_per_weight).total_cmp(&distance(b.bits_per_weight)));
        if let Some(level) = nearest
            && !chosen.contains(&level.name)
        {
            chosen.push(level.name.clone());
        }
    }
    chosen
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&[
        ("FORMAT", Align::Left),
        ("LEVEL", Align::Left),
        ("SIZE", Align::Right),
        ("BITS", Align::Right),
        ("KL DIVERGENCE", Align::Right),
        ("TIME", Align::Right),
    ]);
    for line in lines {
        let divergence = line.kl_divergence;
        table.row([
            line.format.clone(),
            line.level.clone(),
            bytes(line.file_size),
            format!("{:.2}", line.bits_per_weight),
            divergence.map_or_else(|| "-".into(), |divergence| format!("{divergence:.5}")),
            format!("{:.2}s", line.duration_seconds),
        ]);
    }
    table
}
