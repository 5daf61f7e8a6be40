//! A job engine in miniature: runs a plan in memory, on one thread.

use std::ops::Range;

use super::TestModel;
use super::statistics::MadeUp;
use crate::interface::{
    AffineGroups, DecodeCall, ElementType, EncodeCall, Error, FileContent, FileView, FlowingLayer,
    Inputs, Job, Plan, PlanRequest, Quantizer, Result, TensorView, Unit, UnitInput, check_plan,
};

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltFile {
    /// Its name in the plan.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Views of built files, to hand to a reader or to `verify`.
pub fn views(files: &[BuiltFile]) -> Vec<FileView<'_>> {
    files
        .iter()
        .map(|file| FileView {
            name: &file.name,
            bytes: &file.bytes,
        })
        .collect()
}

/// Plans and encodes a test model. Split units are cut into pieces of
/// `steps_per_piece` steps; whatever that is, the bytes must be the same. Bytes that
/// nothing writes keep the value `fill` inside spans and are zero elsewhere. Units that ask for
/// calibration statistics get made-up ones ([`TestModel::set_statistic`]), and where the outputs
/// of quantized layers are to flow on, those are decoded.
///
/// # Errors
/// The plan's, a check of the plan, or the first failing unit's; layers that cannot be decoded.
pub fn build(
    quantizer: &dyn Quantizer,
    model: &TestModel,
    request: &PlanRequest,
    steps_per_piece: u64,
    fill: u8,
) -> Result<(Box<dyn Job>, Vec<BuiltFile>)> {
    let job = quantizer.plan(model, request)?;
    check_plan(&*job, model.model())?;
    let mut files = lay_out(job.plan(), model)?;
    for literal in &job.plan().literals {
        slice(&mut files[literal.file].bytes, literal.offset, literal.len)
            .copy_from_slice(job.blob(literal.blob));
    }
    for (index, unit) in job.plan().units.iter().enumerate() {
        for rows in pieces(unit, steps_per_piece) {
            encode(&*job, model, &mut files, index, unit, rows, fill)?;
        }
    }
    for layer in job.plan().flowing_layers(model.model()) {
        let rows = model.model().tensors[layer.tensor].rows().unwrap_or(0);
        let numbers = decode(&*job, model, &files, layer, 0..rows)?;
        if !numbers.iter().all(|number| number.is_finite()) {
            let name = &model.model().tensors[layer.tensor].name;
            let message = format!("\"{name}\" is not decoded to numbers");
            return Err(Error::internal(message));
        }
    }
    Ok((job, files))
}

/// Decodes rows of a layer whose quantized outputs flow on ([`Plan::flowing_layers`]) from
/// finished files, as a host does while it calibrates. Numbers that the job does not fill in are
/// none.
///
/// # Errors
/// The job's.
pub fn decode(
    job: &dyn Job,
    model: &TestModel,
    files: &[BuiltFile],
    layer: FlowingLayer,
    rows: Range<u64>,
) -> Result<Vec<f32>> {
    let unit = &job.plan().units[layer.unit];
    let outputs = unit.outputs.iter().map(|span| {
        let bytes = &files[span.file].bytes;
        &bytes[span.offset as usize..(span.offset + span.len) as usize]
    });
    let outputs: Vec<&[u8]> = outputs.collect();
    let vectors = unit.vectors(model.model()).into_iter();
    let vectors = vectors
        .map(|tensor| model.view(tensor, None, false))
        .collect::<Result<Vec<_>>>()?;
    let cols = model.model().tensors[layer.tensor].cols();
    let count = rows.end.saturating_sub(rows.start).saturating_mul(cols);
    let mut out = vec![f32::NAN; count as usize];
    job.decode(DecodeCall {
        unit: layer.unit,
        input: layer.input,
        rows,
        vectors: &vectors,
        outputs: &outputs,
        out: &mut out,
    })?;
    Ok(out)
}

fn lay_out(plan: &Plan, model: &TestModel) -> Result<Vec<BuiltFile>> {
    plan.files
        .iter()
        .map(|file| {
            let bytes = match &file.content {
                FileContent::Built => vec![0; file.size as usize],
                FileContent::CopyOf(source) => model
                    .file(source)?
                    .ok_or_else(|| Error::internal(format!("the model has no \"{source}\"")))?
                    .to_vec(),
            };
            Ok(BuiltFile {
                name: file.name.clone(),
                bytes,
            })
        })
        .collect()
}

/// The pieces in which a unit is encoded.
fn pieces(unit: &Unit, steps_per_piece: u64) -> Vec<Range<u64>> {
    let Some(split) = unit.split else {
        return std::iter::once(0..1).collect();
    };
    let len = split.step.saturating_mul(steps_per_piece.max(1));
    (0..split.rows)
        .step_by(len as usize)
        .map(|start| start..split.rows.min(start.saturating_add(len)))
        .collect()
}

fn encode(
    job: &dyn Job,
    model: &TestModel,
    files: &mut [BuiltFile],
    index: usize,
    unit: &Unit,
    rows: Range<u64>,
    fill: u8,
) -> Result<()> {
    let part = |input: &UnitInput| (unit.split.is_some() && !input.whole).then(|| rows.clone());
    let groups = unit.inputs.iter().map(|input| match input.groups {
        true => model.groups_of(input.tensor, part(input)).map(Some),
        false => Ok(None),
    });
    let groups = groups.collect::<Result<Vec<_>>>()?;
    let mut inputs: Vec<TensorView<'_>> = Vec::new();
    for (input, groups) in unit.inputs.iter().zip(&groups) {
        match groups {
            Some((rows, groups)) => inputs.extend(groups.views(*rows)?),
            None => inputs.push(model.view(input.tensor, part(input), input.raw)?),
        }
    }
    let mut buffers: Vec<Vec<u8>> = unit
        .outputs
        .iter()
        .map(|span| vec![fill; part_of(unit, span.len, &rows).1 as usize])
        .collect();
    let mut outputs: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    let statistics = model.statistics_of(unit)?;
    let statistics: Vec<_> = statistics.iter().map(MadeUp::view).collect();
    job.encode(EncodeCall {
        unit: index,
        rows: rows.clone(),
        inputs: &inputs,
        statistics: &statistics,
        outputs: &mut outputs,
    })?;
    for (span, buffer) in unit.outputs.iter().zip(&buffers) {
        let (start, len) = part_of(unit, span.len, &rows);
        slice(&mut files[span.file].bytes, span.offset + start, len).copy_from_slice(buffer);
    }
    Ok(())
}

/// Start and length, within a span, of what some rows fill.
fn part_of(unit: &Unit, span_len: u64, rows: &Range<u64>) -> (u64, u64) {
    match unit.split {
        Some(split) => {
            let row = span_len / split.rows;
            (row * rows.start, row * (rows.end - rows.start))
        }
        None => (0, span_len),
    }
}

fn slice(bytes: &mut [u8], offset: u64, len: u64) -> &mut [u8] {
    &mut bytes[offset as usize..(offset + len) as usize]
}

impl TestModel {
    /// The groups of some rows of a weight (all if `None`), and how many rows they are.
    fn groups_of(&self, tensor: usize, rows: Option<Range<u64>>) -> Result<(usize, AffineGroups)> {
        let missing = || Error::internal(format!("tensor {tensor} has no groups"));
        let all = self.groups.get(&tensor).ok_or_else(missing)?;
        let count = self.model().tensors[tensor].rows().unwrap_or(0);
        let rows = rows.unwrap_or(0..count);
        let (start, end) = (rows.start as usize, rows.end as usize);
        let part = |each: usize| start * each..end * each;
        let [codes, groups] =
            [all.codes.len(), all.scales.len()].map(|len| part(len / count.max(1) as usize));
        let found = AffineGroups {
            codes: all.codes[codes].to_vec(),
            scales: all.scales[groups.clone()].to_vec(),
            zeros: all.zeros[groups].to_vec(),
            ..all.clone()
        };
        Ok((end - start, found))
    }

    /// A view of some rows of a tensor (all if `None`).
    ///
    /// # Errors
    /// If there is no such tensor or it is no float.
    pub fn view(
        &self,
        tensor: usize,
        rows: Option<Range<u64>>,
        raw: bool,
    ) -> Result<TensorView<'_>> {
        let missing = || Error::internal(format!("there is no tensor number {tensor}"));
        let info = self.model().tensors.get(tensor).ok_or_else(missing)?;
        let element = match raw {
            true => ElementType::Raw,
            false => ElementType::from_dtype(&info.dtype).ok_or_else(missing)?,
        };
        let all = info.rows().ok_or_else(missing)?;
        let bytes = self.tensor_bytes(tensor);
        let row_bytes = bytes.len() / (all.max(1) as usize);
        let rows = rows.unwrap_or(0..all);
        TensorView::new(
            element,
            (rows.end - rows.start) as usize,
            row_bytes / element.bytes(),
            &bytes[rows.start as usize * row_bytes..rows.end as usize * row_bytes],
        )
    }
}
