use llm_quantize_plugin_api::testing::TestModel;
use llm_quantize_plugin_api::{
    CalibrationText, Container, ErrorKind, InlineHost, Job, Plan, Quantizer, TensorInfo, check_plan,
};
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
        calibration: Some(CalibrationText {
            samples: 2,
            length: 100,
            ..CalibrationText::default()
        }),
        ..PlanRequest::default()
    }
}

/// A request that needs no calibration.
pub(crate) fn rounding() -> PlanRequest {
    PlanRequest {
        calibration: None,
        ..request(&[("method", "rtn")])
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

fn blocks_of(plan: &Plan) -> Vec<&Unit> {
    let units = plan.units.iter();
    units.filter(|unit| unit.split.is_none()).collect()
}

/// The names of what a unit reads.
fn inputs_of<'a>(model: &'a TestModel, unit: &Unit) -> Vec<&'a str> {
    let tensors = &model.model().tensors;
    let inputs = unit.inputs.iter();
    inputs.map(|input| &*tensors[input.tensor].name).collect()
}

#[test]
fn a_unit_is_a_block() {
    let job = job(&TestModel::tiny_llama(), &rounding()).unwrap();
    let plan: &Plan = job.plan();
    assert_eq!(plan.level, "4bit");
    assert_eq!(
        plan.container,
        Container::Folder("tiny-llama-test-awq-4bit".into())
    );
    let units = blocks_of(plan);
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

/// Units hold what factors are folded into, too, and ask what a search needs.
#[test]
fn a_search_asks_for_statistics_and_holds_norms() {
    let model = TestModel::tiny_llama();
    let job = job(&model, &request(&[])).unwrap();
    let plan = job.plan();
    assert_eq!(
        plan.calibration,
        Some(CalibrationPlan {
            grain: Grain::Block,
            flow: Flow::Original
        })
    );
    let units = blocks_of(plan);
    assert_eq!(units.len(), 2);
    // Four norms less are copied.
    assert_eq!(plan.units.len(), 2 + 3);
    let held = [
        "model.layers.1.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight",
    ];
    assert_eq!(inputs_of(&model, units[1])[7..], held);
    let outputs = &units[1].outputs;
    assert_eq!(outputs.len(), 7 * 3 + 2);
    assert!(outputs[21..].iter().all(|span| span.len == 512));
    let asked = units[1].statistics.iter();
    let asked: Vec<(&str, &Statistic)> = asked.map(|r| (&*r.site, &r.statistic)).collect();
    let sites = [
        "self_attn.q_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.down_proj",
    ]
    .map(|layer| format!("model.layers.1.{layer}.weight"));
    let expected: Vec<(&str, &Statistic)> = sites
        .iter()
        .flat_map(|site| {
            [
                (&**site, &Statistic::Gram),
                (site, &Statistic::MeanMagnitude),
            ]
        })
        .collect();
    assert_eq!(asked, expected);
}

#[test]
fn rounding_to_the_nearest_needs_no_calibration() {
    let model = TestModel::tiny_llama();
    let with_text = job(&model, &request(&[("method", "rtn")])).unwrap();
    for job in [with_text, job(&model, &rounding()).unwrap()] {
        let plan = job.plan();
        assert!(plan.calibration.is_none());
        assert!(plan.units.iter().all(|unit| unit.statistics.is_empty()));
    }
    let without = PlanRequest {
        calibration: None,
        ..request(&[])
    };
    let error = job(&model, &without).err().unwrap();
    assert_eq!(error.kind, ErrorKind::InvalidRequest);
    assert!(error.suggestion.unwrap().contains("method=rtn"));
}

/// Adds biases to the layers whose rows factors are folded into; `bytes` are those of so many rows.
pub(crate) fn add_biases(model: &mut TestModel, bytes: impl Fn(usize) -> Vec<u8>) {
    let mut sites = model.model().sites.clone();
    for site in &mut sites {
        if let Fold::Rows { weight, bias } | Fold::Values { weight, bias, .. } = &mut site.fold {
            let weight = &model.model().tensors[*weight];
            let (name, rows) = (weight.name.replace(".weight", ".bias"), weight.shape[0]);
            *bias = Some(model.model().tensors.len());
            model.add_tensor(&name, "BF16", &[rows], bytes(rows as usize));
        }
    }
    model.set_sites(sites);
}

/// The small model with biases, and with other tensors changed.
fn changed(change: impl Fn(&mut TensorInfo)) -> TestModel {
    let full = TestModel::tiny_llama();
    let mut model = TestModel::default();
    model.set_config(full.model().config.clone());
    for (index, tensor) in full.model().tensors.iter().enumerate() {
        let mut tensor = tensor.clone();
        change(&mut tensor);
        let elements = tensor.elements().unwrap() as usize;
        let mut bytes = full.tensor_bytes(index).to_vec();
        bytes.resize(2 * elements, 0);
        model.add_tensor(&tensor.name, &tensor.dtype, &tensor.shape, bytes);
    }
    model.set_sites(full.model().sites.clone());
    add_biases(&mut model, |rows| vec![0; 2 * rows]);
    model
}

#[test]
fn biases_are_held_with_the_rows_that_they_belong_to() {
    let model = changed(|_| ());
    let job = job(&model, &request(&[])).unwrap();
    let unit = blocks_of(job.plan())[0];
    let held = [
        "input_layernorm.weight",
        "self_attn.v_proj.bias",
        "post_attention_layernorm.weight",
        "mlp.up_proj.bias",
    ]
    .map(|name| format!("model.layers.0.{name}"));
    assert_eq!(inputs_of(&model, unit)[7..], held);
    let lengths: Vec<u64> = unit.outputs[21..].iter().map(|span| span.len).collect();
    assert_eq!(lengths, [512, 256, 512, 1024]);
}

/// Layers that stay cannot be divided, and neither can what is stored in blocks.
#[test]
fn nothing_is_folded_into_what_stays() {
    // 100 outputs do not fill words: queries, keys and values stay, the output's layer does not.
    let model = changed(|tensor| {
        if tensor.name.ends_with("v_proj.weight") {
            tensor.shape[0] = 100;
        }
    });
    let job_of = |model: &TestModel, more: &[(&str, &str)]| job(model, &request(more)).unwrap();
    let job = job_of(&model, &[("unfit", "keep")]);
    let found = inputs_of(&model, blocks_of(job.plan())[0]);
    let kinds: Vec<&str> = found.iter().map(|name| kind_of(name)).collect();
    let expected = [
        "self_attn.o_proj.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
        "post_attention_layernorm.weight",
        "mlp.up_proj.bias",
    ];
    assert_eq!(kinds, expected);
    // Norms in blocks come as other numbers than they are stored as.
    let model = changed(|tensor| {
        if tensor.name.ends_with("norm.weight") {
            tensor.dtype = "Q8_0".into();
        }
    });
    let job = job_of(&model, &[]);
    let found = inputs_of(&model, blocks_of(job.plan())[0]);
    let biases = ["v_proj.bias", "up_proj.bias"];
    for (name, ends) in found[7..].iter().zip(biases) {
        assert!(name.ends_with(ends), "{name}");
    }
    assert_eq!(found.len(), 7 + 2);
}

#[test]
fn the_configuration_has_what_loaders_read() {
    for (request, method) in [(request(&[]), "awq"), (rounding(), "rtn")] {
        let job = job(&TestModel::tiny_llama(), &request).unwrap();
        let expected = json!({
            "quant_method": "awq", "zero_point": true, "group_size": 64, "bits": 4,
            "version": "gemm", "modules_to_not_convert": null,
            "meta": {"quantizer": ["llm-quantize:1.2.3"], "method": method},
        });
        assert_eq!(quantization_config(&*job), expected);
    }
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
