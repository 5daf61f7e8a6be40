//! A model in memory, to plan with.

use std::collections::BTreeMap;

use llm_quantize_plugin_api::{
    FileView, Inputs, ModelDescription, PlanRequest, Quantizer, Reader, Result, TensorInfo,
    check_plan,
};
use serde_json::Value;

use crate::tiny;

/// Bytes of all tensors of an input.
const MAX_BYTES: u64 = 16 << 20;

/// A description and the files beside it; tensors have no bytes.
pub struct MemoryModel {
    description: ModelDescription,
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryModel {
    /// A model and its files.
    pub fn new(description: ModelDescription, files: BTreeMap<String, Vec<u8>>) -> Self {
        Self { description, files }
    }

    /// The model that a reader presents, with its linear layers as sites.
    pub fn of_reader(reader: &dyn Reader, files: &[FileView<'_>]) -> Self {
        let mut description = reader.model().clone();
        description.sites = tiny::sites(&description);
        let read = |name: &String| Some((name.clone(), reader.file(files, name).ok()??));
        let files = description.files.iter().filter_map(read).collect();
        Self { description, files }
    }

    /// The smallest Llama there is.
    pub fn tiny_llama() -> Self {
        let files: BTreeMap<_, _> = tiny::small_files(tiny::NARROW).into_iter().collect();
        let tensors = tiny::tensors(tiny::NARROW).into_iter();
        let bf16 = |(name, shape)| describe((name, "BF16".into(), shape));
        let description = ModelDescription {
            name: "tiny".into(),
            format: "hf".into(),
            tensors: tensors.filter_map(bf16).collect(),
            files: files.keys().cloned().collect(),
            ..ModelDescription::default()
        };
        Self { description, files }
    }

    /// Replaces the tensors.
    pub fn set_tensors(&mut self, tensors: Vec<TensorInfo>) {
        self.description.tensors = tensors;
    }

    /// Adds or replaces a file.
    pub fn add_file(&mut self, name: &str, bytes: &[u8]) {
        self.files.insert(name.to_owned(), bytes.to_vec());
        self.description.files = self.files.keys().cloned().collect();
    }

    /// Replaces the configuration.
    pub fn set_config(&mut self, config: Value) {
        self.files
            .insert("config.json".into(), config.to_string().into_bytes());
        self.description.config = config;
    }
}

impl Inputs for MemoryModel {
    fn model(&self) -> &ModelDescription {
        &self.description
    }

    fn file(&self, name: &str) -> Result<Option<&[u8]>> {
        Ok(self.files.get(name).map(Vec::as_slice))
    }

    fn attachment(&self, _: &str) -> Option<FileView<'_>> {
        None
    }
}

/// Plans to quantize a model; a plan that is made must hold.
pub fn plan(quantizer: &dyn Quantizer, model: &MemoryModel, request: PlanRequest) {
    let request = PlanRequest {
        requantize: true,
        // Names of files are the user's and the system's, not an input's.
        output_name: Some("output".into()),
        ..request
    };
    if let Ok(job) = quantizer.plan(model, &request) {
        check_plan(&*job, model.model()).expect("a plan that holds");
    }
}

/// Tensors from `[[name, dtype, shape], …]`. The host takes sizes from a header only if the file
/// holds as many bytes, so large ones are refused.
pub fn tensors(json: &[u8]) -> Option<Vec<TensorInfo>> {
    let list: Vec<(String, String, Vec<u64>)> = serde_json::from_slice(json).ok()?;
    let tensors: Vec<TensorInfo> = list.into_iter().filter_map(describe).collect();
    let bytes = tensors.iter().map(|tensor| tensor.bytes);
    let total = bytes.fold(0, u64::saturating_add);
    (total <= MAX_BYTES).then_some(tensors)
}

fn describe((name, dtype, shape): (String, String, Vec<u64>)) -> Option<TensorInfo> {
    let elements = shape.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim))?;
    let bytes = elements.checked_mul(if dtype == "F32" { 4 } else { 2 })?;
    Some(TensorInfo {
        name,
        dtype,
        shape,
        bytes,
    })
}
