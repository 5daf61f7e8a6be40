//! A quantizer that copies tensors, with places where it can go wrong.

use std::marker::PhantomData;

use llm_quantize_plugin_api::{
    Container, EncodeCall, EncodeReport, Error, FileContent, FileView, FormatDescription, Host,
    Inputs, Job, LevelInfo, Literal, OutputFile, Plan, PlanRequest, PlannedTensor, Quantizer,
    Result, Span, Unit, UnitInput,
};

const MAGIC: &[u8] = b"MISBEHAVING\0";

/// What a plugin does wrong, and where.
pub trait Habits: Send + Sync + 'static {
    /// The plugin's one format.
    const FORMAT: &'static str;

    /// When the host asks for the quantizer.
    fn at_start() {}

    /// Before a plan is handed out.
    fn in_plan(_plan: &mut Plan) {}

    /// Before a tensor is encoded.
    fn in_encode() {}
}

/// Copies every tensor, after a magic number.
pub struct Copying<H>(PhantomData<H>);

impl<H: Habits> Copying<H> {
    /// Starts as its habits have it.
    pub fn new(_host: Host) -> Self {
        H::at_start();
        Self(PhantomData)
    }
}

impl<H: Habits> Quantizer for Copying<H> {
    fn formats(&self) -> Vec<FormatDescription> {
        vec![FormatDescription {
            name: H::FORMAT.into(),
            levels: vec![LevelInfo {
                name: "COPY".into(),
                bits_per_weight: 16.0,
                ..LevelInfo::default()
            }],
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        self.formats()[0].require_level(&request.level)?;
        let mut plan = Plan {
            level: "COPY".into(),
            container: Container::Files,
            literals: vec![Literal {
                file: 0,
                offset: 0,
                len: MAGIC.len() as u64,
                blob: 0,
            }],
            ..Plan::default()
        };
        let mut end = MAGIC.len() as u64;
        for (index, tensor) in inputs.model().tensors.iter().enumerate() {
            let (offset, len) = (end, tensor.bytes);
            plan.units.push(Unit {
                label: tensor.name.clone(),
                inputs: vec![UnitInput {
                    raw: true,
                    ..UnitInput::rows_of(index)
                }],
                outputs: vec![Span {
                    file: 0,
                    offset,
                    len,
                }],
                ..Unit::default()
            });
            plan.tensors.push(PlannedTensor {
                name: tensor.name.clone(),
                dtype: tensor.dtype.clone(),
                shape: tensor.shape.clone(),
                bytes: len,
                ..PlannedTensor::default()
            });
            end += len;
        }
        let name = request.output_name.clone();
        plan.files.push(OutputFile {
            name: name.unwrap_or_else(|| format!("model.{}", H::FORMAT)),
            size: end,
            content: FileContent::Built,
        });
        H::in_plan(&mut plan);
        Ok(Box::new(CopyJob::<H>(plan, PhantomData)))
    }
}

struct CopyJob<H>(Plan, PhantomData<H>);

impl<H: Habits> Job for CopyJob<H> {
    fn plan(&self) -> &Plan {
        &self.0
    }

    fn blob(&self, _index: usize) -> &[u8] {
        MAGIC
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        H::in_encode();
        call.outputs[0].copy_from_slice(call.inputs[0].bytes());
        Ok(EncodeReport::default())
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        let size = self.0.files[0].size;
        match files {
            [file] if file.bytes.starts_with(MAGIC) && file.bytes.len() as u64 == size => Ok(()),
            _ => Err(Error::verification("the copy is not as planned")),
        }
    }
}
