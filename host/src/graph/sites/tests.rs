use super::*;
use crate::graph::families::FAMILIES;
use crate::graph::testing::{ATTENTION_BIASES, HEAD_NORMS, config, described, tensors, with};
use llm_quantize_plugin_api::Inputs as _;
use llm_quantize_plugin_api::testing::TestModel;
use serde_json::json;

/// What folds are of, with tensors by their names.
fn fold_of(model: &ModelDescription, site: &Site) -> String {
    let name = |place: usize| model.tensors[place].name.clone();
    let bias = |bias: Option<usize>| bias.map_or(String::new(), |bias| format!(" {}", name(bias)));
    match site.fold {
        Fold::Nowhere => "nowhere".into(),
        Fold::Norm { weight } => format!("norm {}", name(weight)),
        Fold::Rows { weight, bias: b } => format!("rows {}{}", name(weight), bias(b)),
        Fold::Values {
            weight,
            bias: b,
            head_dim,
            shared_by,
        } => format!("values {}{} {head_dim} {shared_by}", name(weight), bias(b)),
    }
}

/// The sites of the third of four layers: name, layers, fold; without the layer's prefix.
fn third_layer(model: &ModelDescription) -> Vec<(String, Vec<String>, String)> {
    let prefix = "model.layers.2.";
    let short = |name: String| name.replace(prefix, "").replace(".weight", "");
    let sites = sites_of(model).into_iter();
    sites
        .filter(|site| site.block == Some(2))
        .map(|site| {
            let names = site.layers.iter();
            let layers = names.map(|&place| short(model.tensors[place].name.clone()));
            let fold = short(fold_of(model, &site));
            (site.name.clone(), layers.collect(), fold)
        })
        .collect()
}

#[test]
fn every_family_has_its_sites() {
    // Layers that are one are told as one, in a test of their own.
    let apart = FAMILIES
        .iter()
        .filter(|family| family.names.fused_attention.is_none());
    for family in apart {
        let norm = |name: &'static str| match family.norms_plus_one {
            true => "nowhere",
            false => name,
        };
        let biased = family.qkv_bias == crate::graph::families::Bias::Always;
        let config = config(family.architectures[0], &json!({}));
        let tensors = with(with(tensors(), &ATTENTION_BIASES), &HEAD_NORMS);
        let model = described(config, tensors);
        let values = match biased {
            true => "values self_attn.v_proj self_attn.v_proj.bias 4 2",
            false => "values self_attn.v_proj 4 2",
        };
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let expected: [(&str, &[&str], &str); 4] = [
            ("attention input", &qkv, norm("norm input_layernorm")),
            ("attention output", &["self_attn.o_proj"], values),
            (
                "MLP input",
                &["mlp.gate_proj", "mlp.up_proj"],
                norm("norm post_attention_layernorm"),
            ),
            ("MLP output", &["mlp.down_proj"], "rows mlp.up_proj"),
        ];
        let expected = expected.map(|(name, layers, fold)| {
            let layers = layers.iter().map(|&layer| layer.to_owned()).collect();
            (name.to_owned(), layers, fold.to_owned())
        });
        assert_eq!(third_layer(&model), expected, "{}", family.name);
        let sites = sites_of(&model);
        assert_eq!(sites.len(), 4 * 4 + 1);
        let head = sites.last().unwrap();
        assert_eq!((head.block, &head.layers[..]), (None, &[2][..]));
        assert_eq!(fold_of(&model, head), norm("norm model.norm.weight"));
    }
}

#[test]
fn a_tied_head_is_left_out() {
    let mut tensors = tensors();
    tensors.remove(2);
    let config = config("LlamaForCausalLM", &json!({"tie_word_embeddings": true}));
    let sites = sites_of(&described(config, tensors));
    assert!(sites.iter().all(|site| site.block.is_some()));
    assert_eq!(sites.len(), 4 * 4);
}

#[test]
fn biases_of_the_mlp_are_told() {
    let biases = [
        ("mlp.gate_proj.bias", 12),
        ("mlp.up_proj.bias", 12),
        ("mlp.down_proj.bias", 8),
    ];
    let config = config("LlamaForCausalLM", &json!({"mlp_bias": true}));
    let model = described(config, with(tensors(), &biases));
    assert_eq!(
        third_layer(&model)[3].2,
        "rows mlp.up_proj mlp.up_proj.bias"
    );
}

#[test]
fn what_cannot_be_run_has_none() {
    let unknown = config("GptOssForCausalLM", &json!({}));
    assert!(sites_of(&described(unknown, tensors())).is_empty());
    assert!(sites_of(&ModelDescription::default()).is_empty());
}

#[test]
fn the_model_for_tests_of_plugins_has_the_same() {
    let model = TestModel::tiny_llama();
    assert_eq!(model.model().sites, sites_of(model.model()));
    assert_eq!(model.model().sites.len(), 9);
}
