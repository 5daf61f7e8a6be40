use super::*;
use crate::interface::{ErrorKind, Inputs};
use crate::testing::TestModel;

/// A format of bytes in groups, whose outputs come in eights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Bytes {
    pub outputs: usize,
    pub inputs: usize,
    pub group: usize,
}

impl LayerShape for Bytes {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn misfit(&self) -> Option<String> {
        let odd = !self.outputs.is_multiple_of(8);
        let odd = odd.then(|| format!("{} outputs do not come in eights", self.outputs));
        groups_misfit(self.group, self.inputs).or(odd)
    }

    fn tensors(&self, module: &str) -> Vec<NewTensor> {
        let [outputs, inputs, group] = [self.outputs, self.inputs, self.group].map(|n| n as u64);
        vec![
            NewTensor::new(format!("{module}.codes"), "U8", &[outputs, inputs]),
            NewTensor::new(
                format!("{module}.scales"),
                "F16",
                &[outputs, inputs / group],
            ),
        ]
    }

    fn type_name(&self) -> String {
        "byte".into()
    }
}

pub(in super::super) fn selected(
    model: &ModelDescription,
    group: i64,
    keep: bool,
) -> Result<Choice<Bytes>> {
    let selection = Selection {
        format: "Bytes",
        bits: 8,
        group_size: group,
        group_sizes: &[32, 64, 128, WHOLE_ROW],
        keep_unfit: keep,
    };
    choose(model, &selection, |outputs, inputs| Bytes {
        outputs,
        inputs,
        group: selection.group(inputs),
    })
}

/// The small model with another size of all weights of a kind: `[outputs, inputs]`.
fn model(kind: &str, change: impl Fn(&mut Vec<u64>)) -> ModelDescription {
    let mut model = TestModel::tiny_llama().model().clone();
    for tensor in &mut model.tensors {
        if tensor.name.contains(kind) {
            change(&mut tensor.shape);
        }
    }
    model
}

/// With so many inputs of the MLP's last layer.
fn with_inputs(inputs: u64) -> ModelDescription {
    model("down_proj", |shape| shape[1] = inputs)
}

#[test]
fn all_linear_layers_of_blocks_are_quantized() {
    let model = with_inputs(512);
    let choice = selected(&model, 128, false).unwrap();
    assert_eq!(choice.sites.len(), 8);
    assert!(choice.kept.is_empty() && choice.kept_warning().is_none());
    let first = &choice.sites[0];
    let names: Vec<&str> = first.layers.iter().map(|layer| &*layer.module).collect();
    assert_eq!(names[2], "model.layers.0.self_attn.v_proj");
    assert_eq!((names.len(), first.block), (3, Some(0)));
    assert_eq!(first.layers[2].shape.outputs, 128);
    assert!(matches!(first.fold, Fold::Norm { .. }));
    assert_eq!(choice.quantized_names().len(), 7);
    assert_eq!(choice.layers().count(), 14);
}

#[test]
fn layers_that_do_not_fit_are_an_error_that_helps() {
    let error = selected(&with_inputs(576), 128, false).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert_eq!(
        error.message,
        "2 of 14 layers cannot be quantized in groups of 128 with 8 bits: groups of 128 do not \
         divide 576 inputs (mlp.down_proj)"
    );
    assert_eq!(
        error.suggestion.unwrap(),
        "use --group-size 64, or leave them as they are with --set unfit=keep"
    );
    let error = selected(&with_inputs(520), 128, false).unwrap_err();
    assert!(!error.suggestion.unwrap().contains("group-size"));
}

#[test]
fn they_may_stay_as_they_are_with_all_that_read_the_same() {
    let choice = selected(&with_inputs(576), 128, true).unwrap();
    assert_eq!((choice.sites.len(), choice.kept.len()), (6, 2));
    assert_eq!(choice.kept[1].module, "model.layers.1.mlp.down_proj");
    assert_eq!(choice.kept_names(), ["mlp.down_proj"]);
    assert!(choice.kept_warning().unwrap().starts_with("2 layers stay"));

    let narrow = model("k_proj", |shape| shape[0] = 100);
    let choice = selected(&narrow, 128, true).unwrap();
    let reasons: Vec<&str> = choice.kept.iter().map(|kept| &*kept.reason).collect();
    assert_eq!(reasons.len(), 6);
    assert!(reasons[0].starts_with("it reads what"), "{}", reasons[0]);
    assert!(reasons[1].starts_with("100 outputs"), "{}", reasons[1]);
}

#[test]
fn what_stays_in_one_block_only_is_named_in_full() {
    let model = model("layers.1.mlp.down_proj", |shape| shape[1] = 576);
    let choice = selected(&model, 128, true).unwrap();
    assert_eq!(choice.kept_names(), ["model.layers.1.mlp.down_proj"]);
    let names = choice.quantized_names();
    assert!(names.contains(&"model.layers.0.mlp.down_proj"), "{names:?}");
    assert!(names.contains(&"mlp.up_proj") && !names.contains(&"mlp.down_proj"));
}

#[test]
fn nothing_left_to_quantize_is_an_error() {
    let odd = model("proj", |shape| *shape = vec![7, 7]);
    assert!(selected(&odd, 32, true).is_err());
    let stack = model("proj", |shape| *shape = vec![2, 256, 256]);
    let error = selected(&stack, 32, true).unwrap_err();
    assert!(error.message.contains("matrices only"), "{error}");
}

#[test]
fn unknown_architectures_are_named() {
    let mut model = with_inputs(512);
    model.sites.clear();
    model.config = serde_json::json!({"architectures": ["FalconForCausalLM"]});
    let error = selected(&model, 128, false).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.message.contains("\"FalconForCausalLM\""), "{error}");
    assert!(error.suggestion.unwrap().contains("Qwen3"));
}

#[test]
fn what_is_quantized_is_quantized_again_by_consent_only() {
    let mut model = with_inputs(512);
    let choice = selected(&model, 128, false).unwrap();
    let request = PlanRequest::default();
    assert!(choice.refuse_requantizing(&model, &request).is_ok());
    model
        .tensors
        .iter_mut()
        .for_each(|t| t.dtype = "Q4_K".into());
    let error = choice.refuse_requantizing(&model, &request).unwrap_err();
    assert!(
        error.message.contains("quantized already (Q4_K)"),
        "{error}"
    );
    let agreed = PlanRequest {
        requantize: true,
        ..request
    };
    assert!(choice.refuse_requantizing(&model, &agreed).is_ok());
}

#[test]
fn kinds_are_what_blocks_have_in_common() {
    assert_eq!(kind_of("model.layers.12.mlp.up_proj"), "mlp.up_proj");
    assert_eq!(kind_of("lm_head"), "lm_head");
    assert_eq!(module_of("a.b.weight"), "a.b");
}
