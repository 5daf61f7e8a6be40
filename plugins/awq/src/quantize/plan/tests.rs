use llm_quantize_plugin_api::testing::TestModel;
use llm_quantize_plugin_api::{Container, ErrorKind, InlineHost, Job, Plan, Quantizer, check_plan};
use serde_json::{Value, json};

use super::*;
use crate::quantize::AwqQuantizer;

pub(crate) fn request(options: &[(&str, &str)]) -> PlanRequest {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    PlanRequest {
        format: FORMAT.into(),
        level: "w4".into(),
        group_size: Some(64),
        generator: "llm-quantize 1.2.3".into(),
        options: options.iter().map(owned).collect(),
        ..PlanRequest::default()
    }
}

fn job(model: &TestModel, request: &PlanRequest) -> Result<Box<dyn Job>> {
    let job = AwqQuantizer::new(Host::new(InlineHost)).plan(model, request)?;
    check_plan(&*job, model.model())?;
    Ok(job)
}

fn quantization_config(job: &dyn Job) -> Value {
    let plan = job.plan();
    let config = plan.files.iter().position(|file| file.name == CONFIG);
    let literal = plan.literals.iter().find(|l| Some(l.file) == config);
    let config: Value = serde_json::from_slice(job.blob(literal.unwrap().blob)).unwrap();
    config["quantization_config"].clone()
}

#[test]
fn a_unit_is_a_block() {
    let job = job(&TestModel::tiny_llama(), &request(&[])).unwrap();
    let plan: &Plan = job.plan();
    assert_eq!(plan.level, "4bit");
    assert_eq!(
        plan.container,
        Container::Folder("tiny-llama-test-awq-4bit".into())
    );
    let units = plan.units.iter().filter(|unit| unit.split.is_none());
    let units: Vec<&Unit> = units.collect();
    assert_eq!(units.len(), 2);
    assert_eq!(
        (units[1].label.as_str(), units[1].layer),
        ("model.layers.1", Some(1))
    );
    assert_eq!((units[1].inputs.len(), units[1].outputs.len()), (7, 21));
    assert!(units[1].scratch_bytes > 512 * 256 * 5);
    // Everything else is copied: two norms in each block, embeddings, norm, head.
    assert_eq!(plan.units.len(), 2 + 2 * 2 + 3);
    assert!(plan.warnings.is_empty() && plan.calibration.is_none());
    let find = |name: &str| plan.tensors.iter().find(|t| t.name == name).unwrap();
    let layer = find("model.layers.1.mlp.down_proj.weight");
    assert_eq!(
        (layer.dtype.as_str(), &layer.shape[..]),
        ("4bit", &[256, 512][..])
    );
    // Codes, zeros, scales.
    assert_eq!(layer.bytes, 256 * 256 + 8 * 128 + 8 * 512);
    assert_eq!(find("lm_head.weight").dtype, "BF16");
}

#[test]
fn the_configuration_has_what_loaders_read() {
    let job = job(&TestModel::tiny_llama(), &request(&[])).unwrap();
    let expected = json!({
        "quant_method": "awq", "zero_point": true, "group_size": 64, "bits": 4,
        "version": "gemm", "modules_to_not_convert": null,
        "meta": {"quantizer": ["llm-quantize:1.2.3"], "method": "rtn"},
    });
    assert_eq!(quantization_config(&*job), expected);
}

#[test]
fn layers_that_do_not_fit_are_refused_or_kept() {
    // 128 does not divide 192.
    let narrow = TestModel::narrow_llama(192);
    let of_128 = |options: &[(&str, &str)]| PlanRequest {
        group_size: Some(128),
        ..request(options)
    };
    let error = job(&narrow, &of_128(&[])).err().unwrap();
    assert!(error.message.contains("mlp.down_proj"), "{error}");
    let job = job(&narrow, &of_128(&[("unfit", "keep")])).unwrap();
    let plan = job.plan();
    assert!(
        plan.warnings[0].starts_with("2 layers stay"),
        "{:?}",
        plan.warnings
    );
    let kept = plan
        .tensors
        .iter()
        .find(|t| t.name.contains("down_proj"))
        .unwrap();
    assert_eq!(kept.dtype, "BF16");
    assert!(kept.note.as_ref().unwrap().contains("192 inputs"));
    let config = quantization_config(&*job);
    assert_eq!(config["modules_to_not_convert"], json!(["mlp.down_proj"]));
    let rules = json!({r"-:^model\.layers\.\d+\.mlp\.down_proj$": {}});
    assert_eq!(config["dynamic"], rules);
}

#[test]
fn an_awq_folder_as_it_is_cannot_be_the_source() {
    let mut model = TestModel::tiny_llama().model().clone();
    assert!(refuse_own_folder(&model, FORMAT, NAME).is_ok());
    model.format = FORMAT.into();
    model.config = json!({});
    let error = refuse_own_folder(&model, FORMAT, NAME).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}
