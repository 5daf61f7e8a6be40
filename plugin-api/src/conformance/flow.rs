//! Plans in which the outputs of quantized layers flow on: what the job decodes.

use super::{Checker, FAR, relative_error};
use crate::interface::{DecodeCall, FlowingLayer, Inputs, Job, Reader, UnitInput};
use crate::testing::{BuiltFile, TestModel, decode, views};

/// How far what the job decodes may be from what the reader does, relative to the weights, where
/// the job takes a norm out of them again: both are rounded once more.
const FOLDED: f64 = 1e-2;

/// Each layer comes back, whole and row by row, and nothing else does.
pub(super) fn check(
    checker: &mut Checker<'_>,
    job: &dyn Job,
    model: &TestModel,
    built: &[BuiltFile],
) {
    for layer in job.plan().flowing_layers(model.model()) {
        let tensor = &model.model().tensors[layer.tensor];
        let (name, rows) = (&tensor.name, tensor.rows().unwrap_or(0));
        let decoded = |rows| decode(job, model, built, layer, rows);
        let Some(whole) = checker.ok("decode a layer", || decoded(0..rows)) else {
            continue;
        };
        let error = checker.ok("compare", || relative_error(model, layer.tensor, &whole));
        checker.expect(
            error.is_some_and(|error| error < FAR),
            format!("\"{name}\" is decoded far from the original: relative error {error:?}"),
        );
        let middle = rows / 2;
        let mut pieces = Vec::new();
        for part in [0..1, 1..middle, middle..rows] {
            pieces.extend(
                checker
                    .ok("decode a part", || decoded(part))
                    .unwrap_or_default(),
            );
        }
        checker.expect(
            pieces == whole,
            format!("rows of \"{name}\" are decoded differently in parts"),
        );
        checker.refuses("decoding rows beyond a layer's end", || {
            decoded(rows..rows + 1)
        });
    }
    beyond(checker, job, model, built);
}

/// Units and inputs that there are not, and too little room.
fn beyond(checker: &mut Checker<'_>, job: &dyn Job, model: &TestModel, built: &[BuiltFile]) {
    let plan = job.plan();
    let Some(first) = plan.flowing_layers(model.model()).first().copied() else {
        return;
    };
    let unit = &plan.units[first.unit];
    let vector = |input: &UnitInput| {
        let tensor = model.model().tensors.get(input.tensor);
        tensor.is_some_and(|tensor| tensor.shape.len() == 1)
    };
    let no_layers = [Some(unit.inputs.len()), unit.inputs.iter().position(vector)];
    for input in no_layers.into_iter().flatten() {
        let other = FlowingLayer { input, ..first };
        checker.refuses("decoding an input that is no layer", || {
            decode(job, model, built, other, 0..1)
        });
    }
    let call = |unit: usize, out: &mut [f32]| {
        job.decode(DecodeCall {
            unit,
            input: first.input,
            rows: 0..1,
            vectors: &[],
            outputs: &[],
            out,
        })
    };
    checker.refuses("decoding a unit that the plan does not have", || {
        call(plan.units.len(), &mut [])
    });
    checker.refuses("decoding without the unit's outputs", || {
        call(first.unit, &mut [0.0])
    });
}

/// What the job decodes is what a reader of the finished files finds.
pub(super) fn check_reader(
    checker: &mut Checker<'_>,
    reader: &dyn Reader,
    job: &dyn Job,
    model: &TestModel,
    built: &[BuiltFile],
) {
    let files = views(built);
    for layer in job.plan().flowing_layers(model.model()) {
        let tensor = &model.model().tensors[layer.tensor];
        let rows = tensor.rows().unwrap_or(0);
        let Some(place) = reader.model().tensor_index(&tensor.name) else {
            // That it is missing is found elsewhere.
            continue;
        };
        let mut read = vec![f32::NAN; (rows * tensor.cols()) as usize];
        let own = checker.ok("decode a layer", || {
            decode(job, model, built, layer, 0..rows)
        });
        let found = checker.ok("decode", || {
            reader.decode(&files, place, 0..rows, &mut read)
        });
        if let (Some(own), Some(())) = (own, found) {
            let unit = &job.plan().units[layer.unit];
            let most = match unit.vectors(model.model()).is_empty() {
                true => 0.0,
                false => FOLDED,
            };
            let distance = distance(&own, &read);
            checker.expect(
                distance <= most,
                format!(
                    "\"{}\" is read from the output {distance:.1e} off from what flows on",
                    tensor.name
                ),
            );
        }
    }
}

/// Root of the squared differences over the squares.
fn distance(own: &[f32], read: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let differences: f64 = own.iter().zip(read).map(|(a, b)| square(a - b)).sum();
    let squares: f64 = own.iter().map(|x| square(*x)).sum();
    match differences == 0.0 {
        true => 0.0,
        false => (differences / squares).sqrt(),
    }
}
