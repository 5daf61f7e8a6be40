//! `convert`: decodes a quantized model and writes it in another format.

use std::cell::Cell;
use std::io::{self, BufRead, IsTerminal, Write};

use llm_quantize_plugin_api::{ElementType, FormatDescription, Inputs};

use super::Context;
use super::args::ConvertArgs;
use super::produce::{Order, print, produce, rehearse};
use super::quantize::order_of;
use super::session::{Session, Target};
use crate::convert::hf;
use crate::error::{Error, ExitCode, Result};
use crate::source::SourceModel;

/// Converts a model.
///
/// # Errors
/// Whatever fails first; [`ExitCode::QualityDeclined`] if nobody agreed to the loss.
pub fn run(context: &Context, args: &ConvertArgs) -> Result<()> {
    let session = Session::start(context)?;
    let target = session.target(&args.output_format)?;
    target.check_is_model()?;
    if let Some(level) = &args.quant_level {
        target.check_level(level)?;
    }
    let model = &args.input_model;
    context.ui.info(&format!("Loading model: {model}"));
    let agreed = Cell::new(false);
    let order_for = |source: &SourceModel| {
        let order = order(context, args, source, &target, agreed.get());
        agreed.set(true);
        order
    };
    // A loss is asked about before a download.
    let source = session.open(model, &target, |headers| {
        rehearse(context, &session, headers, &target, &order_for(headers)?)
    })?;
    let order = order_for(&source)?;
    match produce(context, &session, &source, &target, &order)? {
        Some(product) => print(context, &product),
        None => Ok(()),
    }
}

/// What to produce from a source, once the user agreed to what it loses.
fn order(
    context: &Context,
    args: &ConvertArgs,
    source: &SourceModel,
    target: &Target,
    agreed: bool,
) -> Result<Order> {
    let bits = bits_per_weight(source);
    let level = match &args.quant_level {
        Some(level) => level.clone(),
        None => nearest_level(target, source, bits)?,
    };
    if !agreed {
        say_route(context, args, source, target, &level, bits)?;
    }
    Ok(Order {
        level,
        converts: true,
        ..order_of(&args.output, &args.checkpoints)
    })
}

/// Stored bits over all numbers of the source.
fn bits_per_weight(source: &SourceModel) -> f64 {
    let tensors = &source.model().tensors;
    let counts = tensors.iter().filter_map(|tensor| tensor.elements());
    let count: u64 = counts.fold(0, u64::saturating_add);
    source.total_bytes() as f64 * 8.0 / count.max(1) as f64
}

/// The level whose typical bits are nearest to the source's. Plain safetensors keep
/// what quantized numbers decode to, as well as 16 bits can.
fn nearest_level(target: &Target, source: &SourceModel, bits: f64) -> Result<String> {
    if target.format == hf::FORMAT {
        let level = match source.original_dtype().as_str() {
            "float32" => "F32",
            "float16" => "F16",
            _ => "BF16",
        };
        return Ok(level.into());
    }
    let format = target.description()?;
    closest(&format, bits)
        .ok_or_else(|| Error::unsupported(format!("the format \"{}\" has no levels", format.name)))
}

fn closest(format: &FormatDescription, bits: f64) -> Option<String> {
    let distance = |level_bits: f64| (level_bits - bits).abs();
    let levels = format.levels.iter();
    let nearest =
        levels.min_by(|a, b| distance(a.bits_per_weight).total_cmp(&distance(b.bits_per_weight)));
    nearest.map(|level| level.name.clone())
}

fn say_route(
    context: &Context,
    args: &ConvertArgs,
    source: &SourceModel,
    target: &Target,
    level: &str,
    bits: f64,
) -> Result<()> {
    let quantized = source.model().tensors.iter().any(is_quantized);
    if !quantized {
        let route = "Route: quantize (the source is not quantized)";
        context.ui.info(route);
        return Ok(());
    }
    if target.format == hf::FORMAT {
        let route = match level.eq_ignore_ascii_case("F32") {
            true => "Route: exact (the numbers as they decode)".to_owned(),
            false => format!("Route: near-exact (decoded, then rounded to {level})"),
        };
        context.ui.info(&route);
        return Ok(());
    }
    context.ui.info("Route: requantize (lossy)");
    context.ui.warn(&format!(
        "the source holds {bits:.2} bits per weight, already rounded; rounding them again to \
         {level} adds error that quantizing the original would not have"
    ));
    match args.force || confirmed(context)? {
        true => Ok(()),
        false => Err(Error::new(
            ExitCode::QualityDeclined,
            "the conversion would lose quality, and nobody agreed to it",
        )
        .suggest("use --force, or quantize the original model instead")),
    }
}

fn is_quantized(tensor: &llm_quantize_plugin_api::TensorInfo) -> bool {
    ElementType::from_dtype(&tensor.dtype).is_none() && tensor.dtype != "F64"
}

/// Asks on a terminal; without one nobody can agree.
fn confirmed(context: &Context) -> Result<bool> {
    if !io::stdin().is_terminal() || !context.ui.is_terminal() {
        return Ok(false);
    }
    let asked = write!(io::stderr().lock(), "Continue? [y/N] ");
    if asked.is_err() {
        return Ok(false);
    }
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Error::other(format!("cannot read the answer: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::LevelInfo;

    #[test]
    fn the_nearest_level_is_found_by_bits() {
        let level = |name: &str, bits_per_weight| LevelInfo {
            name: name.into(),
            bits_per_weight,
            ..LevelInfo::default()
        };
        let format = FormatDescription {
            levels: vec![level("A", 8.5), level("B", 4.5), level("C", 4.8)],
            ..FormatDescription::default()
        };
        assert_eq!(closest(&format, 4.6).unwrap(), "B");
        assert_eq!(closest(&format, 16.0).unwrap(), "A");
        assert_eq!(closest(&FormatDescription::default(), 4.0), None);
    }
}
