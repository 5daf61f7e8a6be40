//! Plain Hugging Face folders as an output format: safetensors in bf16, f16 or f32.
//!
//! The host reads this format, so it writes it too; the engine runs it like any
//! plugin's.

use llm_quantize_plugin_api::hf_folder::{self, FolderBuilder, NewTensor};
use llm_quantize_plugin_api::{
    ElementType, EncodeCall, EncodeReport, Error, FileView, FormatDescription, Inputs, Job,
    LevelInfo, ModelDescription, Plan, PlanRequest, PlannedTensor, Quantizer, Result, Route,
};
use serde_json::{Value, json};

use super::survey::is_quantized;

/// Name of the format on the command line.
pub const FORMAT: &str = "hf";

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
            options: vec![hf_folder::shard_size_option()],
            ..FormatDescription::default()
        }]
    }

    fn plan(&self, inputs: &dyn Inputs, request: &PlanRequest) -> Result<Box<dyn Job>> {
        let format = &self.formats()[0];
        let level = format.require_level(&request.level)?;
        let element = ElementType::from_dtype(&level.name)
            .ok_or_else(|| Error::internal("a level without an element type"))?;
        let model = inputs.model();
        let tensors: Vec<NewTensor> = model
            .tensors
            .iter()
            .map(|tensor| NewTensor::new(tensor.name.as_str(), &level.name, &tensor.shape))
            .collect();
        let name = request.output_name.clone();
        let name = name.unwrap_or_else(|| format!("{}-hf", model.name));
        let mut builder = FolderBuilder::new(&level.name, name);
        let spans = builder.weights(&tensors, request)?;
        let quantized: Vec<bool> = model.tensors.iter().map(is_quantized).collect();
        for (index, (tensor, span)) in tensors.into_iter().zip(spans).enumerate() {
            let plan = builder.plan_mut();
            plan.units.push(hf_folder::copy_unit(model, index, span)?);
            plan.tensors.push(PlannedTensor {
                name: tensor.name,
                dtype: tensor.dtype,
                shape: tensor.shape,
                bytes: span.len,
                route: quantized[index].then_some(match element {
                    ElementType::F32 => Route::Exact,
                    _ => Route::Decoded,
                }),
                ..PlannedTensor::default()
            });
        }
        builder.json_file(hf_folder::CONFIG, &config(model, element))?;
        builder.copies(inputs)?;
        let (plan, blobs) = builder.finish();
        Ok(Box::new(HfJob {
            plan,
            element,
            blobs,
        }))
    }
}

/// The source's config.json with the new dtype.
fn config(model: &ModelDescription, element: ElementType) -> Value {
    let mut config = model.config.clone();
    if let Some(fields) = config.as_object_mut() {
        let key = match fields.contains_key("dtype") {
            true => "dtype",
            false => "torch_dtype",
        };
        fields.insert(key.into(), json!(torch_name(element)));
        fields.shift_remove(hf_folder::QUANTIZATION);
    }
    config
}

fn torch_name(element: ElementType) -> &'static str {
    match element {
        ElementType::F32 => "float32",
        ElementType::F16 => "float16",
        ElementType::BF16 | ElementType::Raw => "bfloat16",
    }
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
        hf_folder::copy_rows(input, self.element, output)?;
        Ok(EncodeReport::default())
    }

    fn verify(&self, files: &[FileView<'_>]) -> Result<()> {
        hf_folder::verify(&self.plan, &self.blobs, files).map(drop)
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
}
