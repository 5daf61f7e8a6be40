use llm_quantize_plugin_api::testing::TestModel;
use llm_quantize_plugin_api::{
    CalibrationText, Container, ErrorKind, InlineHost, Job, Plan, Quantizer, check_plan,
};

use super::*;
use crate::quantize::GptqQuantizer;

pub(crate) fn request(level: &str, options: &[(&str, &str)]) -> PlanRequest {
    PlanRequest {
        format: FORMAT.into(),
        level: level.into(),
        options: options
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        calibration: Some(CalibrationText {
            samples: 2,
            length: 100,
            ..CalibrationText::default()
        }),
        ..PlanRequest::default()
    }
}

fn job(model: &TestModel, request: &PlanRequest) -> Result<Box<dyn Job>> {
    let job = GptqQuantizer::new(Host::new(InlineHost)).plan(model, request)?;
    check_plan(&*job, model.model())?;
    Ok(job)
}

fn plan(request: &PlanRequest) -> Plan {
    job(&TestModel::tiny_llama(), request)
        .unwrap()
        .plan()
        .clone()
}

#[test]
fn a_unit_for_each_site_asks_for_what_gptq_needs() {
    let plan = plan(&request("w4", &[]));
    assert_eq!(plan.level, "4bit");
    assert_eq!(
        plan.container,
        Container::Folder("tiny-llama-test-gptq-4bit".into())
    );
    let units: Vec<&Unit> = plan
        .units
        .iter()
        .filter(|unit| unit.split.is_none())
        .collect();
    assert_eq!(units.len(), 8);
    let first = units[0];
    assert_eq!(
        first.label,
        "model.layers.0.self_attn.q_proj, k_proj, v_proj"
    );
    assert_eq!(
        (first.layer, first.inputs.len(), first.outputs.len()),
        (Some(0), 3, 9)
    );
    let asked: Vec<(&str, &Statistic)> = first
        .statistics
        .iter()
        .map(|request| (request.site.as_str(), &request.statistic))
        .collect();
    let site = "model.layers.0.self_attn.q_proj.weight";
    assert_eq!(
        asked,
        [(site, &Statistic::Gram), (site, &Statistic::TokenCount)]
    );
    // The weight in single precision alone.
    assert!(first.scratch_bytes > 256 * 256 * 4);
    assert_eq!(
        plan.calibration,
        Some(CalibrationPlan {
            grain: Grain::Stage,
            flow: Flow::Quantized
        })
    );
    // Everything else is copied: two norms in each block, embeddings, norm, head.
    assert_eq!(plan.units.len(), 8 + 2 * 2 + 3);
    assert!(plan.warnings.is_empty());
}

#[test]
fn tensors_are_listed_as_the_model_calls_them() {
    let plan = plan(&request("4bit", &[]));
    let find = |name: &str| {
        plan.tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .unwrap()
    };
    let layer = find("model.layers.1.mlp.down_proj.weight");
    assert_eq!(
        (layer.dtype.as_str(), &layer.shape[..]),
        ("4bit", &[256, 512][..])
    );
    // Codes, zeros, scales, and the groups of inputs.
    assert_eq!(layer.bytes, 256 * 256 + 4 * 128 + 4 * 512 + 512 * 4);
    assert_eq!(find("lm_head.weight").dtype, "BF16");
    assert_eq!(find("model.embed_tokens.weight").dtype, "BF16");
}

#[test]
fn rounding_to_the_nearest_needs_no_calibration() {
    let rounding = PlanRequest {
        calibration: None,
        ..request("4bit", &[("method", "rtn")])
    };
    let plan = plan(&rounding);
    assert!(plan.calibration.is_none());
    assert!(plan.units.iter().all(|unit| unit.statistics.is_empty()));
    let without = PlanRequest {
        calibration: None,
        ..request("4bit", &[])
    };
    let error = job(&TestModel::tiny_llama(), &without).err().unwrap();
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
    assert!(error.suggestion.unwrap().contains("method=rtn"));
}

#[test]
fn layers_that_do_not_fit_are_refused_or_kept() {
    // 128 does not divide 192.
    let narrow = TestModel::narrow_llama(192);
    let error = job(&narrow, &request("4bit", &[])).err().unwrap();
    assert!(error.message.contains("mlp.down_proj"), "{error}");
    let job = job(&narrow, &request("4bit", &[("unfit", "keep")])).unwrap();
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
    let config = plan
        .files
        .iter()
        .position(|file| file.name == CONFIG)
        .unwrap();
    let literal = plan
        .literals
        .iter()
        .find(|literal| literal.file == config)
        .unwrap();
    let config: serde_json::Value = serde_json::from_slice(job.blob(literal.blob)).unwrap();
    let rules = &config["quantization_config"]["dynamic"];
    assert_eq!(rules.as_object().unwrap().len(), 1);
}

#[test]
fn what_is_quantized_is_not_quantized_again_unasked() {
    let mut model = TestModel::default();
    let full = TestModel::tiny_llama();
    model.set_config(full.model().config.clone());
    for tensor in &full.model().tensors {
        model.add_tensor(&tensor.name, "Q4_K", &tensor.shape, Vec::new());
    }
    model.set_sites(full.model().sites.clone());
    let error = job(&model, &request("4bit", &[])).err().unwrap();
    assert!(
        error.message.contains("quantized already (Q4_K)"),
        "{error}"
    );
    for agreed in [
        request("4bit", &[("allow-requantize", "true")]),
        PlanRequest {
            requantize: true,
            ..request("4bit", &[])
        },
    ] {
        let job = job(&model, &agreed).unwrap();
        let embedding = &job.plan().tensors[0];
        assert_eq!(embedding.dtype, "BF16");
    }
}

#[test]
fn a_gptq_folder_as_it_is_cannot_be_the_source() {
    let model = TestModel::default();
    let mut description = model.model().clone();
    description.format = FORMAT.into();
    let refused = refuse_own_folder(&description, FORMAT, NAME);
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Unsupported);
}

#[test]
fn weights_are_split_on_demand() {
    let plan = plan(&request("4bit", &[("max-shard-size", "200K")]));
    let shards = plan
        .files
        .iter()
        .filter(|f| f.name.ends_with(".safetensors"))
        .count();
    assert!(shards > 2, "{shards}");
    assert!(
        plan.files
            .iter()
            .any(|file| file.name == llm_quantize_plugin_api::hf_folder::INDEX)
    );
}
