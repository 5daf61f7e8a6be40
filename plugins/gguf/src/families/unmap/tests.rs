use super::*;
use crate::families::testdata::{case, cases, description};
use crate::families::{MappedModel, map_model};

fn there(folder: &str) -> MappedModel {
    map_model(&description(case(folder))).unwrap()
}

fn back(mapped: &MappedModel) -> Result<UnmappedModel> {
    let generated = mapped.generated.iter().map(|t| (&t.name, &t.dims));
    let tensors = mapped.tensors.iter().map(|t| (&t.name, &t.dims));
    let named: Vec<NamedTensor<'_>> = generated
        .chain(tensors)
        .map(|(name, dims)| NamedTensor { name, dims })
        .collect();
    unmap_tensors(mapped.family, &mapped.hyperparameters, &named)
}

#[test]
fn there_and_back_gives_the_same_tensors() {
    for case in cases() {
        let model = description(case);
        let mapped = map_model(&model).unwrap();
        let unmapped = back(&mapped).unwrap();
        let expected = model
            .tensors
            .iter()
            .filter(|tensor| !tensor.name.ends_with("inv_freq"));
        let expected: Vec<_> = expected
            .map(|t| (t.name.clone(), t.shape.clone()))
            .collect();
        let found = unmapped.tensors.iter();
        let found: Vec<_> = found.map(|t| (t.name.clone(), t.shape.clone())).collect();
        assert_eq!(found, expected, "{}", case["folder"]);
        let generated = mapped.generated.len();
        assert_eq!(unmapped.rope_freqs, (generated > 0).then_some(0));
        assert_eq!(unmapped.tied, mapped.tied);
        for tensor in &unmapped.tensors {
            let origin = &mapped.tensors[tensor.source - generated];
            assert_eq!(origin.transform, tensor.transform);
            assert_eq!(model.tensors[origin.sources[0]].name, tensor.name);
        }
    }
}

#[test]
fn flags_say_which_biases_are_there() {
    let flags = |folder: &str| back(&there(folder)).unwrap().flags;
    let with = [("attention_bias", true), ("mlp_bias", true)];
    assert_eq!(flags("My_Model-v1.5-7b1-chat"), with);
    let without = [("attention_bias", false), ("mlp_bias", false)];
    assert_eq!(flags("all-defaults"), without);
    assert_eq!(flags("Qwen3-0.6B"), []);
}

fn broken(change: impl FnOnce(&mut MappedModel)) -> String {
    let mut mapped = there("My_Model-v1.5-7b1-chat");
    change(&mut mapped);
    back(&mapped).unwrap_err().message
}

#[test]
fn broken_files_are_refused_with_names() {
    let find = |mapped: &MappedModel, name: &str| {
        mapped.tensors.iter().position(|t| t.name == name).unwrap()
    };
    let error = broken(|m| m.tensors.retain(|t| t.name != "blk.1.attn_output.bias"));
    assert!(error.contains("blk.1.attn_output.bias"), "{error}");
    let error = broken(|m| m.tensors.retain(|t| !t.name.contains("attn_output.bias")));
    assert!(error.contains("2 of its tensors"), "{error}");
    let error = broken(|m| {
        let at = find(m, "blk.0.ffn_up.weight");
        m.tensors[at].dims.reverse();
    });
    assert!(
        error.contains("[96, 64]") && error.contains("[64, 96]"),
        "{error}"
    );
    let error = broken(|m| m.tensors[0].name = "blk.0.ffn_gate_inp.weight".into());
    assert!(error.contains("ffn_gate_inp"), "{error}");
    let error = broken(|m| m.hyperparameters.layers = 1);
    assert!(error.contains("beyond"), "{error}");
    let error = broken(|m| m.tensors.push(m.tensors[0].clone()));
    assert!(error.contains("twice"), "{error}");
}
