//! `convert`: writes a model in another format. What is quantized is taken over as it is where the
//! format can hold it, and else quantized anew.

use std::cell::Cell;
use std::io::{self, BufRead, IsTerminal, Write};

use llm_quantize_plugin_api::{
    ErrorKind, FormatDescription, Inputs, ModelView, Plan, Repacking, Routing,
};

use super::Context;
use super::args::{ConvertArgs, RouteArg};
use super::calibration;
use super::produce::{Order, print, produce, rehearse, request};
use super::quantize::order_of;
use super::session::{Session, Target};
use crate::convert::hf;
use crate::convert::routes::Routes;
use crate::convert::survey::{is_quantized, survey};
use crate::error::{Error, ExitCode, PluginResult, Result};
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
    let conversion = Conversion {
        context,
        args,
        session: &session,
        target: &target,
        agreed: Cell::new(false),
    };
    // A loss is asked about before a download.
    let source = session.open_to_convert(model, &target, |headers| {
        let order = conversion.decide(headers)?.order;
        rehearse(context, &session, headers, &target, &order)
    })?;
    let mut source = match &args.base {
        Some(base) => source.with_base(conversion.open_base(base)?)?,
        None => source,
    };
    let decision = conversion.decide(&mut source)?;
    context.ui.info(&format!("Route: {}", decision.route));
    match produce(context, &session, &source, &target, &decision.order)? {
        Some(product) => print(context, &product),
        None => Ok(()),
    }
}

struct Conversion<'a> {
    context: &'a Context,
    args: &'a ConvertArgs,
    session: &'a Session<'a>,
    target: &'a Target,
    /// Whether the user agreed to a loss.
    agreed: Cell<bool>,
}

/// What to produce, and by which route, in words.
struct Decision {
    order: Order,
    route: String,
}

impl Conversion<'_> {
    /// The model that configuration and small files come from; of one on the Hub nothing else is
    /// fetched.
    fn open_base(&self, base: &str) -> Result<SourceModel> {
        let open = |path: &str| self.session.locate(path)?.open(ModelView::HuggingFace);
        self.session.open_headers(base, open)
    }

    /// Decides about the route: the first that holds, of those that the user allows.
    fn decide(&self, source: &mut SourceModel) -> Result<Decision> {
        let wanted = self.args.route;
        let quantized = source.model().tensors.iter().any(is_quantized);
        if !quantized || self.target.format == hf::FORMAT {
            return self.plainly(source, quantized);
        }
        let refusal = match (wanted, self.target.description()?.repacking) {
            (RouteArg::Requantize, _) => None,
            (_, Repacking::Never) => Some(Error::unsupported(format!(
                "the format \"{}\" takes over no groups of codes",
                self.target.format
            ))),
            _ if source.view() == ModelView::Native => Some(Error::unsupported(format!(
                "{} to {} is another level, not another format",
                source.model().format,
                self.target.format
            ))),
            _ => match self.repack(source)? {
                Ok(decision) => return Ok(decision),
                Err(refusal) => Some(refusal),
            },
        };
        match (wanted, refusal) {
            (RouteArg::Exact | RouteArg::Repack, Some(refusal)) => Err(refusal
                .class(ExitCode::UnsupportedConversion)
                .suggest("allow for a loss with --route requantize")),
            (_, refusal) => {
                if let Some(refusal) = refusal {
                    let why = format!("nothing can be repacked: {}", refusal.message);
                    self.context.ui.verbose(&why);
                }
                self.requantize(source)
            }
        }
    }

    /// What is not quantized is, and plain numbers are written as such.
    fn plainly(&self, source: &SourceModel, quantized: bool) -> Result<Decision> {
        if !quantized && matches!(self.args.route, RouteArg::Exact | RouteArg::Repack) {
            let nothing = "the source is not quantized: there is nothing to repack";
            return Err(Error::unsupported(nothing).suggest("use `llm-quantize quantize`"));
        }
        let level = self.level(source, bits_per_weight(source))?;
        let order = Order {
            level,
            calibration: calibration::asked_for(&self.args.calibration),
            ..self.order()
        };
        if !quantized {
            return Ok(Decision {
                order,
                route: "quantize (the source is not quantized)".into(),
            });
        }
        let route = match order.level.eq_ignore_ascii_case("F32") {
            true => "exact (the numbers as they decode)".to_owned(),
            false => format!("near-exact (decoded, then rounded to {})", order.level),
        };
        Ok(Decision { order, route })
    }

    /// Takes over what the format can hold; inside, why it cannot.
    fn repack(&self, source: &mut SourceModel) -> Result<std::result::Result<Decision, Error>> {
        let started = std::time::Instant::now();
        survey(source, &self.session.threads, &self.session.cancel)?;
        let took = started.elapsed().as_secs_f64();
        let text = format!("looked at the groups of all weights in {took:.2} s");
        self.context.ui.debug(&text);
        let order = Order {
            level: self.args.quant_level.clone().unwrap_or_default(),
            routing: Routing::Repack {
                exact: self.args.route == RouteArg::Exact,
            },
            ..self.order()
        };
        let request = request(self.target, &order);
        let planned = self.target.quantizer.plan(&*source, &request);
        match planned {
            Ok(job) => Ok(Ok(Decision {
                route: self.describe(job.plan()),
                order,
            })),
            Err(error) if error.kind == ErrorKind::Unsupported => Ok(Err(Err::<(), _>(error)
                .by_plugin(&self.target.plugin.id)
                .err()
                .unwrap_or_else(|| Error::unsupported("it cannot be repacked")))),
            Err(error) => Err(error).by_plugin(&self.target.plugin.id),
        }
    }

    fn describe(&self, plan: &Plan) -> String {
        let asked = calibration::asked_for(&self.args.calibration).is_some();
        if asked {
            let unused = "nothing is quantized: the calibration text is not used";
            self.context.ui.warn(unused);
        }
        Routes::of(plan).to_string()
    }

    /// Quantizes anew, once the user agreed to the loss.
    fn requantize(&self, source: &SourceModel) -> Result<Decision> {
        let bits = bits_per_weight(source);
        let level = self.level(source, bits)?;
        if !self.agreed.get() {
            self.ask(&level, bits)?;
            self.agreed.set(true);
        }
        Ok(Decision {
            order: Order {
                level,
                calibration: calibration::asked_for(&self.args.calibration),
                ..self.order()
            },
            route: "requantize (lossy)".into(),
        })
    }

    fn ask(&self, level: &str, bits: f64) -> Result<()> {
        self.context.ui.warn(&format!(
            "the source holds {bits:.2} bits per weight, already rounded; rounding them again to \
             {level} adds error that quantizing the original would not have"
        ));
        match self.args.force || confirmed(self.context)? {
            true => Ok(()),
            false => Err(Error::new(
                ExitCode::QualityDeclined,
                "the conversion would lose quality, and nobody agreed to it",
            )
            .suggest("use --force, or quantize the original model instead")),
        }
    }

    /// The level that was asked for, or the nearest one.
    fn level(&self, source: &SourceModel, bits: f64) -> Result<String> {
        match &self.args.quant_level {
            Some(level) => Ok(level.clone()),
            None => nearest_level(self.target, source, bits),
        }
    }

    /// What all routes have in common.
    fn order(&self) -> Order {
        let args = self.args;
        Order {
            converts: true,
            group_size: args.group_size,
            max_memory: args.max_memory,
            dry_run: args.dry_run,
            ..order_of(&args.output, &args.checkpoints)
        }
    }
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
