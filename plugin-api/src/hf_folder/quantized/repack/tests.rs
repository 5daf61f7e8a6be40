use super::super::groups_misfit;
use super::*;
use crate::hf_folder::NewTensor;
use crate::interface::Inputs;
use crate::testing::TestModel;

/// A format of codes of some bits in groups.
#[derive(Debug, Clone, Copy)]
struct Codes {
    bits: u32,
    outputs: usize,
    inputs: usize,
    group: usize,
}

impl LayerShape for Codes {
    fn inputs(&self) -> usize {
        self.inputs
    }

    fn misfit(&self) -> Option<String> {
        groups_misfit(self.group, self.inputs)
    }

    fn tensors(&self, module: &str) -> Vec<NewTensor> {
        let words = self.outputs * self.inputs * self.bits as usize / 32;
        let groups = self.outputs * self.inputs / self.group;
        vec![
            NewTensor::new(format!("{module}.codes"), "I32", &[words as u64]),
            NewTensor::new(format!("{module}.scales"), "F16", &[groups as u64]),
        ]
    }

    fn type_name(&self) -> String {
        "codes".into()
    }
}

/// Symmetric 4-bit groups of so many weights.
fn facts(group_size: u32) -> GroupFacts {
    GroupFacts {
        bits: 4,
        group_size,
        in_order: true,
        whole_zeros: true,
        zeros: [8, 8],
        steps: [-8, 7],
        negative_scales: false,
        scale_change: Some(0.0),
        offset_change: Some(0.0),
    }
}

/// The small model with all layers of its blocks in such groups.
fn model(group_size: u32) -> ModelDescription {
    let mut model = TestModel::tiny_llama().model().clone();
    let sites = model.sites.iter().filter(|site| site.block.is_some());
    let layers: Vec<usize> = sites.flat_map(|site| site.layers.clone()).collect();
    for layer in layers {
        model.tensors[layer].dtype = "4bit".into();
        model.groups.insert(layer, facts(group_size));
    }
    model
}

const WAYS: [Way<&str>; 3] = [
    Way {
        bits: 4,
        zeros: Zeros::Middle,
        tag: "symmetric",
    },
    Way {
        bits: 4,
        zeros: Zeros::Codes { lowest: 0 },
        tag: "asymmetric",
    },
    Way {
        bits: 8,
        zeros: Zeros::Middle,
        tag: "wide",
    },
];

fn repacked(model: &ModelDescription, exact: bool) -> Result<Repacked<&'static str, Codes>> {
    let offer = Offer {
        format: "Codes",
        ways: &WAYS,
        group_sizes: &sizes_to_try(None, &[32, 64, 128, WHOLE_ROW]),
        exact,
    };
    repack(model, &offer, |way, outputs, inputs, group| Codes {
        bits: way.bits,
        outputs,
        inputs,
        group,
    })
}

fn place(model: &ModelDescription, name: &str) -> usize {
    let name = format!("model.layers.{name}.weight");
    model.tensor_index(&name).unwrap()
}

#[test]
fn the_sources_own_groups_are_kept() {
    for (size, expected) in [(128, 128), (32, 32), (4096, WHOLE_ROW), (192, 64)] {
        let found = repacked(&model(size), true).unwrap();
        assert_eq!((found.group_size, found.way.tag), (expected, "symmetric"));
        assert_eq!(found.choice.layers().count(), 14);
        assert!(found.fits.values().all(|fit| *fit == Fit::Exact));
    }
}

#[test]
fn one_odd_layer_stays_instead_of_widening_all_others() {
    let mut model = model(32);
    let odd = place(&model, "0.mlp.down_proj");
    let wide = GroupFacts {
        bits: 8,
        zeros: [128, 128],
        steps: [-128, 127],
        ..facts(32)
    };
    model.groups.insert(odd, wide);
    let found = repacked(&model, false).unwrap();
    assert_eq!((found.way.tag, found.choice.kept.len()), ("symmetric", 1));
    assert_eq!(found.choice.kept[0].tensor, odd);
}

#[test]
fn layers_that_are_one_in_loaders_stay_together() {
    let mut model = model(32);
    let odd = place(&model, "1.self_attn.k_proj");
    model.groups.remove(&odd);
    model.tensors[odd].dtype = "Q6_K".into();
    let found = repacked(&model, false).unwrap();
    let kept: Vec<&str> = found.choice.kept.iter().map(|kept| &*kept.module).collect();
    let all = ["q_proj", "k_proj", "v_proj"].map(|name| format!("model.layers.1.self_attn.{name}"));
    assert_eq!(kept, all);
    assert!(found.choice.kept[1].reason.contains("Q6_K"));
    assert!(found.choice.kept[0].reason.contains("one with a layer"));
    // The same without knowing the architecture: then all of the attention stays.
    model.sites.clear();
    let found = repacked(&model, false).unwrap();
    assert_eq!(found.choice.kept.len(), 4);
}

#[test]
fn zeros_decide_about_the_way() {
    let mut model = model(64);
    for facts in model.groups.values_mut() {
        (facts.zeros, facts.steps) = ([0, 15], [-15, 15]);
    }
    let found = repacked(&model, true).unwrap();
    assert_eq!(found.way.tag, "asymmetric");
    for facts in model.groups.values_mut() {
        facts.scale_change = Some(1e-4);
    }
    assert!(repacked(&model, true).is_err());
    let found = repacked(&model, false).unwrap();
    assert!(found.fits.values().all(|fit| *fit == Fit::Near(1e-4)));
}

#[test]
fn models_that_are_hardly_held_are_refused_with_reasons() {
    let mut model = model(64);
    for (place, facts) in &mut model.groups {
        match place % 2 {
            0 => facts.in_order = false,
            _ => facts.whole_zeros = false,
        }
    }
    let error = repacked(&model, false).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Unsupported);
    assert!(error.message.starts_with("14 of 14 layers"), "{error}");
    assert!(
        error.message.contains("order of their activations"),
        "{error}"
    );
    let plain = TestModel::tiny_llama();
    let error = repacked(plain.model(), false).unwrap_err();
    assert!(error.message.contains("it is not quantized"), "{error}");
    let error = repacked(&ModelDescription::default(), false).unwrap_err();
    assert!(error.message.contains("no quantized layers"), "{error}");
}

#[test]
fn experts_are_one() {
    assert_eq!(
        parent("model.layers.0.mlp.experts.3.up_proj"),
        "model.layers.0.mlp"
    );
    assert_eq!(
        parent("model.layers.0.self_attn.q_proj"),
        "model.layers.0.self_attn"
    );
}

#[test]
fn routes_are_noted_for_what_is_quantized() {
    let mut model = model(64);
    model.tensors[0].dtype = "Q6_K".into();
    let found = repacked(&model, true).unwrap();
    let mut plan = Plan {
        tensors: vec![crate::PlannedTensor::default(); model.tensors.len()],
        ..Plan::default()
    };
    note_routes(&mut plan, &model, &found.choice, &found.fits);
    assert_eq!(plan.tensors[0].route, Some(Route::Decoded));
    let layer = place(&model, "0.mlp.up_proj");
    assert_eq!(plan.tensors[layer].route, Some(Route::Exact));
    let norm = model.tensor_index("model.norm.weight").unwrap();
    assert_eq!(plan.tensors[norm].route, None);
    note_routes(&mut plan, &model, &found.choice, &HashMap::new());
    assert_eq!(plan.tensors[layer].route, Some(Route::Requantized));
}
