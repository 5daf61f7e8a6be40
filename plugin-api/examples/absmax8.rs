//! A complete plugin: 8-bit integers with one scale for each row of a tensor.
//!
//! File: `ABSMAX8\0`, the length of the index as a little-endian `u64`, the index (the
//! model's description as JSON), then the tensors one after the other. A row is an
//! `f32` scale followed by one `i8` for each weight: `w = scale · code`.

use std::ops::Range;

use llm_quantize_plugin_api::{
    AffineGroups, Container, Converter, EncodeCall, EncodeReport, Error, FileContent, FileView,
    FormatDescription, Host, Inputs, Job, LevelInfo, Literal, Measure, ModelDescription, ModelView,
    OutputFile, Plan, PlanRequest, PlannedTensor, Quantizer, Reader, Result, RowSplit, Span,
    TensorInfo, Unit, UnitInput, export_plugin,
};

export_plugin! {
    id: "absmax8",
    formats: ["absmax8"],
    description: "8-bit integers with one scale a row",
    quantizer: Absmax8::new,
    converter: Absmax8::new,
}

const MAGIC: &[u8; 8] = b"ABSMAX8\0";
const SCALE: u64 = 4;

struct Absmax8;

impl Absmax8 {
    fn new(_host: Host) -> Self {
        Self
    }
}

impl Quantizer for Absmax8 {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![FormatDescription {
            name: "absmax8".into(),
            description: "8-bit integers with one scale a row".into(),
            levels: vec![LevelInfo {
                name: "INT8".into(),
                description: "the only level".into(),
                bits_per_weight: 8.0,
                ..LevelInfo::default()
            }],
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        self.formats()[0].require_level(&request.level)?;
        let model = inputs.model();
        let header = header(model)?;
        let overflow = || Error::unsupported("the model is too large");

        let mut plan = Plan {
            level: "INT8".into(),
            container: Container::Files,
            literals: vec![Literal {
                file: 0,
                offset: 0,
                len: header.len() as u64,
                blob: 0,
            }],
            ..Plan::default()
        };
        let mut end = header.len() as u64;
        for (index, tensor) in model.tensors.iter().enumerate() {
            let rows = tensor.rows().ok_or_else(overflow)?;
            let len = encoded_len(tensor).ok_or_else(overflow)?;
            plan.units.push(Unit {
                label: tensor.name.clone(),
                inputs: vec![UnitInput::rows_of(index)],
                outputs: vec![Span {
                    file: 0,
                    offset: end,
                    len,
                }],
                split: Some(RowSplit { rows, step: 1 }),
                ..Unit::default()
            });
            plan.tensors.push(PlannedTensor {
                name: tensor.name.clone(),
                dtype: "INT8".into(),
                shape: tensor.shape.clone(),
                bytes: len,
                ..PlannedTensor::default()
            });
            end = end.checked_add(len).ok_or_else(overflow)?;
        }
        let name = request.output_name.clone();
        plan.files.push(OutputFile {
            name: name.unwrap_or_else(|| format!("{}.absmax8", model.name)),
            size: end,
            content: FileContent::Built,
        });
        Ok(Box::new(Absmax8Job { plan, header }))
    }
}

struct Absmax8Job {
    plan: Plan,
    header: Vec<u8>,
}

impl Job for Absmax8Job {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, _index: usize) -> &[u8] {
        &self.header
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let (Some(input), Some(output)) = (call.inputs.first(), call.outputs.first_mut()) else {
            return Err(Error::internal("a unit has one input and one output"));
        };
        let mut weights = vec![0.0; input.cols()];
        let mut squared_error = 0.0;
        let row_len = SCALE as usize + input.cols();
        for (row, out) in output.chunks_exact_mut(row_len).enumerate() {
            input.row_to_f32(row, &mut weights)?;
            squared_error += encode_row(&weights, out);
        }
        Ok(EncodeReport {
            measures: vec![Measure::new("squared_error", squared_error)],
        })
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        let [file] = files else {
            return Err(Error::verification("there must be one file"));
        };
        match file.bytes.starts_with(&self.header)
            && file.bytes.len() as u64 == self.plan.files[0].size
        {
            true => Ok(()),
            false => Err(Error::verification(format!(
                "\"{}\" is not as planned",
                file.name
            ))),
        }
    }
}

/// Writes a row; returns the sum of the squared errors.
fn encode_row(weights: &[f32], out: &mut [u8]) -> f64 {
    let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
    let scale = if largest.is_finite() {
        largest / 127.0
    } else {
        0.0
    };
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    let (head, codes) = out.split_at_mut(SCALE as usize);
    head.copy_from_slice(&scale.to_le_bytes());
    let mut squared_error = 0.0;
    for (weight, code) in weights.iter().zip(codes) {
        let rounded = (weight * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        *code = rounded as u8;
        squared_error += f64::from(weight - scale * f32::from(rounded)).powi(2);
    }
    squared_error
}

impl Converter for Absmax8 {
    fn detect(&self, files: &[FileView<'_>]) -> bool {
        matches!(files, [file] if file.bytes.starts_with(MAGIC))
    }

    fn open(&self, files: &[FileView<'_>], _view: ModelView) -> Result<Box<dyn Reader>> {
        let [file] = files else {
            return Err(Error::corrupt("a model is one file"));
        };
        let damaged = |what: &str| Error::corrupt(format!("\"{}\": {what}", file.name));
        let rest = file
            .bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| damaged("wrong magic number"))?;
        let (len, rest) = rest
            .split_first_chunk::<8>()
            .ok_or_else(|| damaged("truncated"))?;
        let index = usize::try_from(u64::from_le_bytes(*len))
            .ok()
            .and_then(|len| rest.get(..len))
            .ok_or_else(|| damaged("the index is truncated"))?;
        let model: ModelDescription =
            serde_json::from_slice(index).map_err(|e| damaged(&format!("bad index: {e}")))?;
        let mut start = (file.bytes.len() - rest.len() + index.len()) as u64;
        let mut starts = Vec::new();
        for tensor in &model.tensors {
            starts.push(start);
            start = encoded_len(tensor)
                .and_then(|len| start.checked_add(len))
                .filter(|end| *end <= file.bytes.len() as u64)
                .ok_or_else(|| damaged(&format!("\"{}\" is truncated", tensor.name)))?;
        }
        Ok(Box::new(Absmax8Reader { model, starts }))
    }
}

struct Absmax8Reader {
    model: ModelDescription,
    starts: Vec<u64>,
}

impl Absmax8Reader {
    /// The encoded rows, each of `SCALE + cols` bytes.
    fn rows<'a>(
        &self,
        files: &[FileView<'a>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<&'a [u8]> {
        let place = self.model.tensors.get(tensor).zip(self.starts.get(tensor));
        place
            .and_then(|(info, start)| {
                let row = SCALE + info.cols();
                let from = start + row.checked_mul(rows.start)?;
                let to = start + row.checked_mul(rows.end.min(info.rows()?))?;
                files.first()?.bytes.get(from as usize..to as usize)
            })
            .ok_or_else(|| Error::corrupt(format!("tensor {tensor} has no rows {rows:?}")))
    }
}

impl Reader for Absmax8Reader {
    fn model(&self) -> &ModelDescription {
        &self.model
    }

    fn file(&self, _files: &[FileView<'_>], name: &str) -> Result<Option<Vec<u8>>> {
        Ok((name == "config.json").then(|| self.model.config.to_string().into_bytes()))
    }

    fn decode(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
        out: &mut [f32],
    ) -> Result<()> {
        let groups = self
            .groups(files, tensor, rows)?
            .ok_or_else(|| Error::internal("no groups"))?;
        let cols = groups.group_size as usize;
        if out.len() != groups.codes.len() {
            return Err(Error::internal(
                "the output has another length than the rows",
            ));
        }
        for (row, numbers) in out.chunks_exact_mut(cols.max(1)).enumerate() {
            for (number, code) in numbers.iter_mut().zip(&groups.codes[row * cols..]) {
                *number = groups.scales[row] * (f32::from(*code) - groups.zeros[row]);
            }
        }
        Ok(())
    }

    fn groups(
        &self,
        files: &[FileView<'_>],
        tensor: usize,
        rows: Range<u64>,
    ) -> Result<Option<AffineGroups>> {
        let bytes = self.rows(files, tensor, rows)?;
        let cols = self.model.tensors[tensor].cols() as usize;
        let mut groups = AffineGroups {
            bits: 8,
            group_size: u32::try_from(cols).map_err(|_| Error::corrupt("a row is too long"))?,
            codes: Vec::with_capacity(bytes.len()),
            scales: Vec::new(),
            zeros: Vec::new(),
            permutation: None,
        };
        for row in bytes.chunks_exact(SCALE as usize + cols) {
            let (scale, codes) = row.split_at(SCALE as usize);
            groups
                .scales
                .push(f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]]));
            groups.zeros.push(128.0);
            groups.codes.extend(codes.iter().map(|code| code ^ 0x80));
        }
        Ok(Some(groups))
    }
}

fn header(model: &ModelDescription) -> Result<Vec<u8>> {
    let description = ModelDescription {
        format: "absmax8".into(),
        files: vec!["config.json".into()],
        tensors: model
            .tensors
            .iter()
            .map(|tensor| TensorInfo {
                dtype: "INT8".into(),
                bytes: encoded_len(tensor).unwrap_or(0),
                ..tensor.clone()
            })
            .collect(),
        ..model.clone()
    };
    let index = serde_json::to_vec(&description).map_err(|e| Error::internal(e.to_string()))?;
    Ok([MAGIC, (index.len() as u64).to_le_bytes().as_slice(), &index].concat())
}

fn encoded_len(tensor: &TensorInfo) -> Option<u64> {
    tensor
        .cols()
        .checked_add(SCALE)?
        .checked_mul(tensor.rows()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::{InlineHost, conformance};

    #[test]
    fn it_conforms() {
        let plugin = || Absmax8::new(Host::new(InlineHost));
        let findings = conformance::check(Some(&plugin()), Some(&plugin()));
        assert!(findings.is_empty(), "{findings:#?}");
    }
}
