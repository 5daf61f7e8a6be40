//! Plain Hugging Face folders as an output format: safetensors in bf16, f16 or f32.
//!
//! The host reads this format, so it writes it too; the engine runs it like any
//! plugin's.

use llm_quantize_plugin_api::kernels::convert;
use llm_quantize_plugin_api::{
    Container, ElementType, EncodeCall, EncodeReport, Error, FileContent, FileView,
    FormatDescription, Inputs, Job, LevelInfo, Literal, ModelDescription, OptionInfo, OptionType,
    OutputFile, Plan, PlanRequest, PlannedTensor, Quantizer, Result, RowSplit, Span, TensorInfo,
    Unit, UnitInput, parse_size,
};
use serde_json::{Map, Value, json};

/// Name of the format on the command line.
pub const FORMAT: &str = "hf";
/// As large as the shards that others write.
const DEFAULT_SHARD: u64 = 5 << 30;

/// Writes Hugging Face folders.
pub struct HuggingFace;

impl Quantizer for HuggingFace {
    fn formats(&self) -> Vec<FormatDescription> {
        let level = |name: &str, description: &str, bits: f64| LevelInfo {
            name: name.into(),
            aliases: Vec::new(),
            description: description.into(),
            bits_per_weight: bits,
        };
        vec![FormatDescription {
            name: FORMAT.into(),
            description: "Hugging Face folder: plain safetensors, config.json, tokenizer files"
                .into(),
            levels: vec![
                level("BF16", "bfloat16", 16.0),
                level("F16", "half precision", 16.0),
                level("F32", "single precision", 32.0),
            ],
            options: vec![OptionInfo {
                key: "max-shard-size".into(),
                value_type: OptionType::Size,
                default: "5G".into(),
                help: "split the weights into files of at most this size".into(),
                repeatable: false,
            }],
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let format = &self.formats()[0];
        let level = format.require_level(&request.level)?;
        let element = ElementType::from_dtype(&level.name)
            .ok_or_else(|| Error::internal("a level without an element type"))?;
        let limit = request
            .option("max-shard-size")
            .and_then(parse_size)
            .unwrap_or(DEFAULT_SHARD);
        let shards = assign_shards(inputs.model(), element, limit)?;
        let mut builder = Builder::new(&level.name, element);
        builder.shards(inputs.model(), &shards)?;
        builder.side_files(inputs)?;
        let name = request.output_name.clone();
        builder.plan.container =
            Container::Folder(name.unwrap_or_else(|| format!("{}-hf", inputs.model().name)));
        Ok(Box::new(builder.finish()))
    }
}

/// Bytes of a tensor in the output.
fn stored_bytes(tensor: &TensorInfo, element: ElementType) -> Option<u64> {
    tensor.elements()?.checked_mul(element.bytes() as u64)
}

/// Tensors of each shard: filled in order up to the limit, at least one each.
fn assign_shards(
    model: &ModelDescription,
    element: ElementType,
    limit: u64,
) -> Result<Vec<Vec<usize>>> {
    let mut shards: Vec<Vec<usize>> = vec![Vec::new()];
    let mut filled = 0u64;
    for (index, tensor) in model.tensors.iter().enumerate() {
        let bytes = stored_bytes(tensor, element)
            .ok_or_else(|| Error::unsupported(format!("\"{}\" is too large", tensor.name)))?;
        if filled > 0 && filled.saturating_add(bytes) > limit {
            shards.push(Vec::new());
            filled = 0;
        }
        filled = filled.saturating_add(bytes);
        if let Some(last) = shards.last_mut() {
            last.push(index);
        }
    }
    Ok(shards)
}

struct Builder {
    plan: Plan,
    element: ElementType,
    blobs: Vec<Vec<u8>>,
}

impl Builder {
    fn new(level: &str, element: ElementType) -> Self {
        Self {
            plan: Plan {
                level: level.into(),
                ..Plan::default()
            },
            element,
            blobs: Vec::new(),
        }
    }

    fn shards(&mut self, model: &ModelDescription, shards: &[Vec<usize>]) -> Result<()> {
        let mut weight_map = Map::new();
        let mut total = 0u64;
        for (number, tensors) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            for index in tensors {
                let tensor = &model.tensors[*index];
                weight_map.insert(tensor.name.clone(), json!(name));
                total = total.saturating_add(stored_bytes(tensor, self.element).unwrap_or(0));
            }
            self.shard(model, tensors, name)?;
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
            self.literal_file("model.safetensors.index.json", pretty(&index)?);
        }
        Ok(())
    }

    fn shard(&mut self, model: &ModelDescription, tensors: &[usize], name: String) -> Result<()> {
        let header = header(model, tensors, self.element, dtype(self.element))?;
        let file = self.plan.files.len();
        let mut end = header.len() as u64;
        self.literal(file, header);
        for index in tensors {
            let tensor = &model.tensors[*index];
            let len = stored_bytes(tensor, self.element).unwrap_or(0);
            self.plan.units.push(unit(
                tensor,
                *index,
                Span {
                    file,
                    offset: end,
                    len,
                },
            )?);
            self.plan.tensors.push(PlannedTensor {
                name: tensor.name.clone(),
                dtype: dtype(self.element).into(),
                shape: tensor.shape.clone(),
                bytes: len,
                note: None,
            });
            end = end
                .checked_add(len)
                .ok_or_else(|| Error::unsupported("the model is too large"))?;
        }
        self.plan.files.push(OutputFile {
            name,
            size: end,
            content: FileContent::Built,
        });
        Ok(())
    }

    /// config.json says the new dtype; everything else is copied as it is.
    fn side_files(&mut self, inputs: &dyn Inputs) -> Result<()> {
        let mut config = inputs.model().config.clone();
        if let Some(fields) = config.as_object_mut() {
            let key = match fields.contains_key("dtype") {
                true => "dtype",
                false => "torch_dtype",
            };
            fields.insert(key.into(), json!(torch_name(self.element)));
            fields.remove("quantization_config");
        }
        self.literal_file("config.json", pretty(&config)?);
        for name in &inputs.model().files {
            if name == "config.json" || name.contains(['/', '\\']) {
                continue;
            }
            if let Some(bytes) = inputs.file(name)? {
                self.plan.files.push(OutputFile {
                    name: name.clone(),
                    size: bytes.len() as u64,
                    content: FileContent::CopyOf(name.clone()),
                });
            }
        }
        Ok(())
    }

    fn literal_file(&mut self, name: &str, bytes: Vec<u8>) {
        let file = self.plan.files.len();
        self.plan.files.push(OutputFile {
            name: name.into(),
            size: bytes.len() as u64,
            content: FileContent::Built,
        });
        self.literal(file, bytes);
    }

    fn literal(&mut self, file: usize, bytes: Vec<u8>) {
        self.plan.literals.push(Literal {
            file,
            offset: 0,
            len: bytes.len() as u64,
            blob: self.blobs.len(),
        });
        self.blobs.push(bytes);
    }

    fn finish(self) -> HfJob {
        HfJob {
            plan: self.plan,
            element: self.element,
            blobs: self.blobs,
        }
    }
}

fn unit(tensor: &TensorInfo, index: usize, span: Span) -> Result<Unit> {
    let rows = tensor
        .rows()
        .ok_or_else(|| Error::unsupported(format!("\"{}\" is too large", tensor.name)))?;
    Ok(Unit {
        label: tensor.name.clone(),
        layer: layer_of(&tensor.name),
        inputs: vec![UnitInput::rows_of(index)],
        outputs: vec![span],
        split: (rows > 0).then_some(RowSplit { rows, step: 1 }),
        scratch_bytes: tensor.cols().saturating_mul(4),
        ..Unit::default()
    })
}

/// The number after `layers.` in a Hugging Face tensor name.
fn layer_of(name: &str) -> Option<u32> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

fn dtype(element: ElementType) -> &'static str {
    match element {
        ElementType::F32 => "F32",
        ElementType::F16 => "F16",
        ElementType::BF16 | ElementType::Raw => "BF16",
    }
}

fn torch_name(element: ElementType) -> &'static str {
    match element {
        ElementType::F32 => "float32",
        ElementType::F16 => "float16",
        ElementType::BF16 | ElementType::Raw => "bfloat16",
    }
}

/// The length, the JSON, and spaces up to a multiple of eight.
fn header(
    model: &ModelDescription,
    tensors: &[usize],
    element: ElementType,
    dtype: &str,
) -> Result<Vec<u8>> {
    let mut fields = Map::new();
    fields.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0u64;
    for index in tensors {
        let tensor = &model.tensors[*index];
        let end = stored_bytes(tensor, element)
            .and_then(|len| offset.checked_add(len))
            .ok_or_else(|| Error::unsupported("the model is too large"))?;
        fields.insert(
            tensor.name.clone(),
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut json = Value::Object(fields).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok([(json.len() as u64).to_le_bytes().as_slice(), &json].concat())
}

fn pretty(value: &Value) -> Result<Vec<u8>> {
    let text = serde_json::to_string_pretty(value);
    let text = text.map_err(|error| Error::internal(error.to_string()))?;
    Ok((text + "\n").into_bytes())
}

struct HfJob {
    plan: Plan,
    element: ElementType,
    blobs: Vec<Vec<u8>>,
}

impl Job for HfJob {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn blob(&self, index: usize) -> &[u8] {
        self.blobs.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    fn encode(&self, call: EncodeCall<'_>) -> Result<EncodeReport> {
        let (Some(input), Some(output)) = (call.inputs.first(), call.outputs.first_mut()) else {
            return Err(Error::internal("a unit has one input and one output"));
        };
        if input.element() == self.element {
            output.copy_from_slice(input.bytes());
            return Ok(EncodeReport::default());
        }
        // A tensor without rows may claim any number of columns.
        if output.is_empty() {
            return Ok(EncodeReport::default());
        }
        let mut row = vec![0.0; input.cols()];
        let row_bytes = input.cols() * self.element.bytes();
        for (index, out) in output.chunks_exact_mut(row_bytes.max(1)).enumerate() {
            input.row_to_f32(index, &mut row)?;
            convert::from_f32(self.element, &row, out)?;
        }
        Ok(EncodeReport::default())
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        for (planned, file) in self.plan.files.iter().zip(files) {
            if file.bytes.len() as u64 != planned.size {
                let found = file.bytes.len();
                return Err(Error::verification(format!(
                    "\"{}\" has {found} bytes, planned were {}",
                    planned.name, planned.size
                )));
            }
            if planned.name.ends_with(".safetensors") {
                safetensors::SafeTensors::deserialize(file.bytes).map_err(|error| {
                    Error::verification(format!("\"{}\": {error}", planned.name))
                })?;
            }
        }
        for literal in &self.plan.literals {
            let written = files.get(literal.file).map(|file| file.bytes);
            if !written.is_some_and(|bytes| bytes.starts_with(self.blob(literal.blob))) {
                return Err(Error::verification("a header is not as planned"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_quantize_plugin_api::conformance;
    use llm_quantize_plugin_api::testing::{TestModel, build, views};

    fn request(level: &str, shard: Option<&str>) -> PlanRequest {
        PlanRequest {
            format: FORMAT.into(),
            level: level.into(),
            options: shard
                .map(|size| ("max-shard-size".into(), size.into()))
                .into_iter()
                .collect(),
            ..PlanRequest::default()
        }
    }

    #[test]
    fn it_conforms_like_a_plugin() {
        let findings = conformance::check(Some(&HuggingFace), None);
        assert!(findings.is_empty(), "{findings:#?}");
    }

    #[test]
    fn the_same_type_is_copied_bit_for_bit() {
        let model = TestModel::tiny_llama();
        let (_, files) = build(&HuggingFace, &model, &request("bf16", None), 7, 0).unwrap();
        let weights = safetensors::SafeTensors::deserialize(&files[0].bytes).unwrap();
        for (index, tensor) in model.model().tensors.iter().enumerate() {
            let written = weights.tensor(&tensor.name).unwrap();
            assert_eq!(written.data(), model.tensor_bytes(index));
        }
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "model.safetensors",
                "config.json",
                "tokenizer.json",
                "tokenizer_config.json"
            ]
        );
    }

    #[test]
    fn shards_have_an_index_that_names_every_tensor() {
        let model = TestModel::tiny_llama();
        let (job, files) =
            build(&HuggingFace, &model, &request("F32", Some("1M")), 100, 0).unwrap();
        let index = files
            .iter()
            .find(|f| f.name.ends_with("index.json"))
            .unwrap();
        let index: Value = serde_json::from_slice(&index.bytes).unwrap();
        for tensor in &model.model().tensors {
            let shard = index["weight_map"][&tensor.name].as_str().unwrap();
            let file = files.iter().find(|file| file.name == shard).unwrap();
            let weights = safetensors::SafeTensors::deserialize(&file.bytes).unwrap();
            assert!(weights.tensor(&tensor.name).is_ok());
        }
        job.verify(&views(&files)).unwrap();
    }

    #[test]
    fn the_config_says_the_new_type() {
        let model = TestModel::tiny_llama();
        let (_, files) = build(&HuggingFace, &model, &request("F16", None), 100, 0).unwrap();
        let config = files.iter().find(|f| f.name == "config.json").unwrap();
        let config: Value = serde_json::from_slice(&config.bytes).unwrap();
        assert_eq!(config["torch_dtype"], "float16");
        assert_eq!(config["hidden_size"], 256);
    }

    #[test]
    fn layers_are_read_from_names() {
        assert_eq!(layer_of("model.layers.12.mlp.up_proj.weight"), Some(12));
        assert_eq!(layer_of("lm_head.weight"), None);
    }
}
