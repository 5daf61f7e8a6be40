//! Whether a command runs the model on text, and on which.

use std::path::Path;

use llm_quantize_plugin_api::{CalibrationUse, Plan};

use super::Context;
use super::args::CalibrationArgs;
use super::session::Target;
use crate::calibrate::{Calibration, Order};
use crate::error::{Error, Result};
use crate::source::SourceModel;

/// What the user asks for; `None` if for nothing.
pub fn asked_for(args: &CalibrationArgs) -> Option<Order> {
    let CalibrationArgs {
        calibration_data: data,
        calibration_samples: samples,
        calibration_length: length,
        calibration_seed: seed,
        calibration_cache: cache,
    } = args;
    let any = data.is_some()
        || samples.is_some()
        || length.is_some()
        || seed.is_some()
        || cache.is_some();
    any.then(|| Order {
        data: data.clone(),
        samples: *samples,
        length: *length,
        seed: seed.unwrap_or(0),
        cache: cache.clone(),
        keep_gram: false,
    })
}

/// The calibration that a format needs or the user asks for; `scratch` is a folder for what
/// does not fit into memory.
///
/// # Errors
/// If the format takes none, or the text or the model is of no use.
pub fn prepare<'a>(
    source: &'a SourceModel,
    target: &Target,
    asked: Option<&Order>,
    scratch: &Path,
) -> Result<Option<Calibration<'a>>> {
    let usual = Order::default();
    let order = match (target.description()?.calibration, asked) {
        (CalibrationUse::Never, Some(_)) => {
            return Err(Error::invalid_arguments(format!(
                "the format \"{}\" takes no calibration",
                target.format
            ))
            .suggest("leave out the --calibration options"));
        }
        (CalibrationUse::Always, None) => &usual,
        (_, None) => return Ok(None),
        (_, Some(order)) => order,
    };
    Calibration::prepare(source, order, scratch).map(Some)
}

/// Tells what the user should know about a calibration before it runs, be it `asked` for or not.
pub fn announce(context: &Context, calibration: &Calibration<'_>, plan: &Plan, asked: bool) {
    let used = plan.units.iter().any(|unit| !unit.statistics.is_empty());
    if !used {
        if asked {
            let level = &plan.level;
            let warning = format!("{level} takes no statistics: the calibration text is not used");
            context.ui.warn(&warning);
        }
        return;
    }
    if let Some(warning) = calibration.warning() {
        context.ui.warn(&warning);
    }
    if calibration.ignores_cache(plan) {
        context.ui.warn(
            "--calibration-cache is not used: the layers of this output see what the quantized \
             layers before them give, which no other run can use",
        );
    }
    let text = calibration.text();
    let (samples, length, name) = (text.samples, text.length, &text.dataset);
    let message = format!("Calibrating on {samples} samples of {length} tokens of {name}");
    context.ui.info(&message);
}
