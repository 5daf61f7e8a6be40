//! Checks of a plan that need no knowledge of the format.
//!
//! The host runs them before it trusts a plan with a byte of disk; conformance runs
//! them so that authors see the failure first.

use std::collections::HashSet;

use super::{Error, FileContent, Job, ModelDescription, Plan, Result, Span, Unit, plan_flow};

/// Checks a job's plan against itself and against the model.
///
/// # Errors
/// The first inconsistency: a bad file name, a span outside its file, two spans
/// that overlap, a literal whose bytes have another length, an input that does not
/// exist, a row split that does not divide, statistics that no calibration gathers, layers whose
/// quantized outputs are to flow on before they are quantized.
pub fn check_plan(job: &dyn Job, model: &ModelDescription) -> Result<()> {
    let plan = job.plan();
    check_files(plan, model)?;
    for literal in &plan.literals {
        let len = job.blob(literal.blob).len() as u64;
        if len != literal.len {
            return Err(Error::internal(format!(
                "literal {} has {len} bytes, the plan says {}",
                literal.blob, literal.len
            )));
        }
    }
    for unit in &plan.units {
        check_unit(unit, model)?;
        if plan.calibration.is_none() && !unit.statistics.is_empty() {
            return Err(Error::internal(format!(
                "unit \"{}\": asks for statistics, but the plan for no calibration",
                unit.label
            )));
        }
    }
    plan_flow::check(plan, model)?;
    check_spans(plan)
}

fn check_files(plan: &Plan, model: &ModelDescription) -> Result<()> {
    if plan.files.is_empty() {
        return Err(Error::internal("the plan has no files"));
    }
    if let super::Container::Folder(name) = &plan.container {
        check_name(name)?;
    }
    let mut names = HashSet::new();
    for file in &plan.files {
        check_name(&file.name)?;
        if !names.insert(file.name.as_str()) {
            return Err(Error::internal(format!(
                "two files are named \"{}\"",
                file.name
            )));
        }
        if let FileContent::CopyOf(source) = &file.content
            && !model.files.contains(source)
        {
            return Err(Error::internal(format!(
                "\"{}\" is to be a copy of \"{source}\", which the model lacks",
                file.name
            )));
        }
    }
    plan.total_bytes()
        .map(|_| ())
        .ok_or_else(|| Error::internal("the files' sizes overflow"))
}

/// A name that stays in its folder.
fn check_name(name: &str) -> Result<()> {
    let bad = name.is_empty()
        || name == "."
        || name == ".."
        || name.len() > 255
        || name.contains(['/', '\\', '\0']);
    if bad {
        return Err(Error::internal(format!("{name:?} cannot be a file name")));
    }
    Ok(())
}

fn check_unit(unit: &Unit, model: &ModelDescription) -> Result<()> {
    let fail = |what: String| Err(Error::internal(format!("unit \"{}\": {what}", unit.label)));
    for input in &unit.inputs {
        let Some(tensor) = model.tensors.get(input.tensor) else {
            return fail(format!("there is no tensor number {}", input.tensor));
        };
        if input.groups && (input.raw || !model.groups.contains_key(&input.tensor)) {
            return fail(format!("\"{}\" has no groups", tensor.name));
        }
        if let Some(split) = unit.split
            && !input.whole
            && tensor.rows() != Some(split.rows)
        {
            return fail(format!(
                "is split into {} rows, its input \"{}\" has {:?}",
                split.rows,
                tensor.name,
                tensor.rows()
            ));
        }
    }
    if let Some(split) = unit.split {
        if split.rows == 0 || split.step == 0 {
            return fail("is split into nothing".into());
        }
        if unit.outputs.iter().any(|span| span.len % split.rows != 0) {
            return fail(format!(
                "has an output that {} rows do not divide",
                split.rows
            ));
        }
    }
    Ok(())
}

/// Every span lies in its file, and no two of one file overlap.
fn check_spans(plan: &Plan) -> Result<()> {
    let literals = plan.literals.iter().map(|literal| Span {
        file: literal.file,
        offset: literal.offset,
        len: literal.len,
    });
    let outputs = plan
        .units
        .iter()
        .flat_map(|unit| unit.outputs.iter().copied());
    let mut spans: Vec<Span> = literals.chain(outputs).collect();
    spans.sort_by_key(|span| (span.file, span.offset));
    let mut end_of = vec![0u64; plan.files.len()];
    for span in spans {
        let place = plan.files.get(span.file).zip(end_of.get_mut(span.file));
        let Some((file, end)) = place else {
            return Err(Error::internal(format!(
                "there is no file number {}",
                span.file
            )));
        };
        let after = span.offset.saturating_add(span.len);
        if file.content != FileContent::Built || after > file.size {
            return Err(Error::internal(format!(
                "bytes {}..{after} lie outside \"{}\"",
                span.offset, file.name
            )));
        }
        if span.offset < *end {
            return Err(Error::internal(format!(
                "two pieces of \"{}\" overlap at byte {}",
                file.name, span.offset
            )));
        }
        *end = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interface::{
        CalibrationPlan, EncodeCall, EncodeReport, FileView, Flow, Grain, Literal, OutputFile,
        RowSplit, Statistic, StatisticRequest, TensorInfo, UnitInput,
    };

    struct Fixed(Plan);

    impl Job for Fixed {
        fn plan(&self) -> &Plan {
            &self.0
        }
        fn blob(&self, _: usize) -> &[u8] {
            b"head"
        }
        fn encode(&self, _: EncodeCall<'_>) -> Result<EncodeReport> {
            Ok(EncodeReport::default())
        }
        fn verify(&self, _: &[FileView<'_>]) -> Result<()> {
            Ok(())
        }
    }

    fn model() -> ModelDescription {
        ModelDescription {
            tensors: vec![TensorInfo {
                name: "w".into(),
                dtype: "F32".into(),
                shape: vec![2, 4],
                bytes: 32,
            }],
            files: vec!["tokenizer.json".into()],
            ..ModelDescription::default()
        }
    }

    fn plan() -> Plan {
        Plan {
            files: vec![OutputFile {
                name: "out.bin".into(),
                size: 12,
                content: FileContent::Built,
            }],
            literals: vec![Literal {
                file: 0,
                offset: 0,
                len: 4,
                blob: 0,
            }],
            units: vec![Unit {
                label: "w".into(),
                inputs: vec![UnitInput::rows_of(0)],
                outputs: vec![Span {
                    file: 0,
                    offset: 4,
                    len: 8,
                }],
                split: Some(RowSplit { rows: 2, step: 1 }),
                ..Unit::default()
            }],
            ..Plan::default()
        }
    }

    fn refuse(change: impl FnOnce(&mut Plan), because: &str) {
        let mut plan = plan();
        change(&mut plan);
        let error = check_plan(&Fixed(plan), &model()).unwrap_err();
        assert!(error.message.contains(because), "{error}");
    }

    #[test]
    fn a_sound_plan_passes() {
        check_plan(&Fixed(plan()), &model()).unwrap();
    }

    /// Makes the plan's unit ask for a statistic, and for no tensor.
    fn measure(plan: &mut Plan) {
        plan.units[0].inputs.clear();
        plan.units[0].split = None;
        plan.units[0].statistics = vec![StatisticRequest {
            site: "w".into(),
            statistic: Statistic::SquareSum,
        }];
    }

    #[test]
    fn a_unit_may_have_statistics_in_place_of_inputs() {
        let mut measuring = plan();
        measure(&mut measuring);
        measuring.calibration = Some(CalibrationPlan {
            grain: Grain::Block,
            flow: Flow::Original,
        });
        check_plan(&Fixed(measuring), &model()).unwrap();
        refuse(measure, "no calibration");
    }

    #[test]
    fn unsound_plans_are_refused() {
        refuse(|p| p.files.clear(), "no files");
        refuse(|p| p.files[0].name = "../x".into(), "file name");
        refuse(|p| p.files.push(p.files[0].clone()), "two files");
        refuse(|p| p.files[0].size = 11, "outside");
        refuse(|p| p.literals[0].len = 5, "4 bytes");
        refuse(|p| p.literals[0].offset = 2, "overlap");
        refuse(|p| p.units[0].inputs[0].tensor = 1, "no tensor");
        refuse(
            |p| p.units[0].split = Some(RowSplit { rows: 3, step: 1 }),
            "rows",
        );
        refuse(
            |p| p.units[0].split = Some(RowSplit { rows: 2, step: 0 }),
            "nothing",
        );
        refuse(|p| p.units[0].outputs[0].len = 7, "divide");
        refuse(|p| p.units[0].outputs[0].file = 1, "no file");
        refuse(|p| p.units[0].outputs[0].offset = u64::MAX, "outside");
        refuse(
            |p| p.files[0].content = FileContent::CopyOf("absent".into()),
            "lacks",
        );
    }
}
